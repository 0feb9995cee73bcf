// Command starling is a mesh node for people: a chat, a demonstration, and the keys and tokens
// behind them.
//
//	starling demo          three nodes in one process, every promise checked
//	starling chat          talk with others who run it on this network
//	starling id            who this machine is to the others
//	starling issuer        the keys of an app that says itself who its users are
//	starling token         its tokens: issue, show, verify, revoke
//
// Everything that a program needs is in package node; here are flags, signals and output.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/screen"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// If the reader is gone (starling chat | head), the write must return an error, so that rooms
	// are still left properly. Otherwise a signal would kill the process at once.
	signal.Ignore(syscall.SIGPIPE)
	keeper := screen.BeKept(signals)
	keeper.Exit(run(os.Args[1:], cli.System{
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Signals: signals,
		Exit:    keeper.Exit,
		Whole:   true,
		Kept:    keeper != nil,
	}))
}
