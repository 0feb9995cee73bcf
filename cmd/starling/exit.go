package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/identity"
)

// The exit codes, as `starling help exit-codes` describes them.
const (
	exitOK        = 0
	exitFailed    = 1
	exitUsage     = 2
	exitDisplaced = 3
	exitCrashed   = 70  // the code of sysexits.h for internal errors
	exitSignal    = 128 // plus the number of the signal
)

// topics are commands that only have a help.
func topics() []*cobra.Command {
	return []*cobra.Command{{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Exit codes of every starling command:

  0    it did what it should; for chat: left by /quit or by the end of standard input
  1    it failed; standard error says why
  2    wrong usage: an unknown command, flag or argument, or a value that cannot be
  3    the same user has logged in on another device, and this chat has ended because of it.
       Starting it again puts the other device out: do not restart on this code.
  70   it crashed, which is a bug: the chat that had the whole terminal has given it back, and the
       trace is on standard error. What crashes without a screen ends with 2, and the trace
  129  ended by SIGHUP (the terminal was closed), after leaving its rooms
  130  ended by Ctrl-C, after leaving its rooms
  143  ended by SIGTERM, after leaving its rooms

After a first signal a command leaves its rooms and closes within 2 s; a second ends it at once.`,
	}, {
		Use:   "json",
		Short: "The lines that chat --json writes",
		Long:  jsonHelp,
	}}
}

// codedError is an error that has an exit code of its own.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// usage marks err as wrong usage.
func usage(err error) error { return &codedError{exitUsage, err} }

func usagef(format string, args ...any) error { return usage(fmt.Errorf(format, args...)) }

// toldError is an error that has already been shown to the user.
type toldError struct{ err error }

func (e *toldError) Error() string { return e.err.Error() }
func (e *toldError) Unwrap() error { return e.err }

// signalError says that a signal ended the command.
type signalError struct{ signal os.Signal }

func (e *signalError) Error() string { return e.signal.String() }

func (e *signalError) exitCode() int {
	if n, ok := e.signal.(syscall.Signal); ok {
		return exitSignal + int(n)
	}
	return exitFailed
}

// advise adds to an error, on a line of its own, what to do about it.
func advise(err error, advice string) error { return fmt.Errorf("%w\n%s", err, advice) }

// adviseInUse is advise for a data directory that another process uses. It leaves other errors
// alone.
func adviseInUse(err error, advice string) error {
	if errors.Is(err, identity.ErrInUse) {
		return advise(err, advice)
	}
	return err
}

// packageNames matches the prefixes of our packages' errors, at each layer. Which layer it was
// helps only a programmer.
var packageNames = regexp.MustCompile(`(?m)(^|: |\()(?:(?:node|mesh|presence|identity): )+`)

// plain returns the text of an error as people see it.
func plain(err error) string { return packageNames.ReplaceAllString(err.Error(), "$1") }

func exitCode(err error) int {
	var coded *codedError
	var sig *signalError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &sig):
		return sig.exitCode()
	}
	return exitFailed
}
