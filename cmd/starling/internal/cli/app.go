// Package cli is what the subcommands of starling share: the streams and signals of the process,
// exit codes and the errors that have them, checks of arguments, and the places of files.
package cli

import (
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/spf13/cobra"
)

// System is what a process gets from its parent. Tests set it themselves.
type System struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        chan os.Signal // nil: none ever come
	Exit           func(code int) // ends the process on a second signal; must not return
	Whole          bool           // the process is ours: logs of libraries may be redirected
	Kept           bool           // another process waits for this one, to restore the terminal
}

// App is one run of the command, as its subcommands see it.
type App struct {
	System
	Log     func() (*slog.Logger, error)    // returns a logger at the level of --log-level
	Running bool                            // a command's own code has begun
	Rescue  atomic.Pointer[func()]          // restores the terminal; nil: it has not been taken
	Relay   atomic.Pointer[func(os.Signal)] // takes the signals; nil: this process handles them
}

// RestoreTerminal restores the terminal if a command has taken it.
func (a *App) RestoreTerminal() {
	if f := a.Rescue.Load(); f != nil {
		(*f)()
	}
}

// Interrupt does what Ctrl-C does, for a terminal that does not turn it into a signal.
func (a *App) Interrupt() {
	select {
	case a.Signals <- os.Interrupt:
	default:
	}
}

// Action turns f into a command's RunE. f gets no arguments unless the command takes some.
func (a *App) Action(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.Running = true
		return f(cmd, args)
	}
}
