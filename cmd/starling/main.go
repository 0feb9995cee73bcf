// Command starling is a mesh node for people: a chat, a demonstration, and the keys and tokens behind them.
//
//	starling demo          three nodes in one process, every promise checked
//	starling chat          talk with whoever else runs it on this network
//	starling id            who this machine is to the others
//	starling issuer        the keys of an app that says itself who its users are
//	starling token         its tokens: issue, show, verify, revoke
//
// Everything that a program would want of it is in package node; here are flags, signals and output.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A reader that has gone (starling chat | head) shall be an error of the write, so that rooms are
	// still left properly, and not a signal that kills the process on the spot.
	signal.Ignore(syscall.SIGPIPE)
	keeper := beKept(signals)
	keeper.exit(run(os.Args[1:], system{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		signals: signals,
		exit:    keeper.exit,
		whole:   true,
		kept:    keeper != nil,
	}))
}
