package cli

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/starling-mesh/starling/identity"
)

// The exit codes, as `starling help exit-codes` describes them.
const (
	ExitOK       = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitReplaced = 3
	ExitCrashed  = 70  // the code of sysexits.h for internal errors
	ExitSignal   = 128 // plus the number of the signal
)

// CodedError is an error that has an exit code of its own.
type CodedError struct {
	Code int
	Err  error
}

func (e *CodedError) Error() string { return e.Err.Error() }
func (e *CodedError) Unwrap() error { return e.Err }

// Usage marks err as wrong usage.
func Usage(err error) error { return &CodedError{ExitUsage, err} }

// Usagef returns an error of wrong usage, in the words of [fmt.Errorf].
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// ToldError is an error that has already been shown to the user.
type ToldError struct{ Err error }

func (e *ToldError) Error() string { return e.Err.Error() }
func (e *ToldError) Unwrap() error { return e.Err }

// SignalError says that a signal ended the command.
type SignalError struct{ Signal os.Signal }

func (e *SignalError) Error() string { return e.Signal.String() }

// ExitCode returns the exit code of a process that the signal has ended.
func (e *SignalError) ExitCode() int {
	if n, ok := e.Signal.(syscall.Signal); ok {
		return ExitSignal + int(n)
	}
	return ExitFailed
}

// Advise adds to an error, on a line of its own, what to do about it.
func Advise(err error, advice string) error { return fmt.Errorf("%w\n%s", err, advice) }

// AdviseInUse is [Advise] for a data directory that another process uses. It leaves other errors
// alone.
func AdviseInUse(err error, advice string) error {
	if errors.Is(err, identity.ErrInUse) {
		return Advise(err, advice)
	}
	return err
}

// ExitCode returns the exit code of a command that has ended with err.
func ExitCode(err error) int {
	var coded *CodedError
	var sig *SignalError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &coded):
		return coded.Code
	case errors.As(err, &sig):
		return sig.ExitCode()
	}
	return ExitFailed
}
