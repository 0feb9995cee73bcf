package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

// system is what a process gets from its parent. Tests set it themselves.
type system struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	signals        chan os.Signal // nil: none ever come
	exit           func(code int) // ends the process on a second signal; must not return
	whole          bool           // the process is ours: logs of libraries may be redirected
	kept           bool           // another process waits for this one, to restore the terminal
}

// closeTime is how long the process may go on after a first signal.
const closeTime = 2 * time.Second

// run runs the command line args and returns its exit code.
func run(args []string, sys system) int {
	app := &app{system: sys}
	ctx, stop := withSignals(sys, app.restoreTerminal, &app.relay)
	defer stop()

	root := app.command()
	root.SetArgs(args)
	root.SetIn(sys.stdin)
	root.SetOut(sys.stdout)
	root.SetErr(sys.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !app.running {
		err = usage(err) // cobra refuses by itself only commands, flags and arguments
	}
	return app.report(ctx, cmd, err)
}

// app is one run of the command.
type app struct {
	system
	logLevel string
	running  bool                            // a command's own code has begun
	rescue   atomic.Pointer[func()]          // restores the terminal; nil: it has not been taken
	relay    atomic.Pointer[func(os.Signal)] // takes the signals; nil: this process handles them
}

// restoreTerminal restores the terminal if a command has taken it.
func (a *app) restoreTerminal() {
	if f := a.rescue.Load(); f != nil {
		(*f)()
	}
}

// interrupt does what Ctrl-C does, for a terminal that does not turn it into a signal.
func (a *app) interrupt() {
	select {
	case a.signals <- os.Interrupt:
	default:
	}
}

// action turns f into a command's RunE. f gets no arguments unless the command takes some.
func (a *app) action(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.running = true
		return f(cmd, args)
	}
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "starling",
		Short: "Rooms and direct messages between devices, with no server",
		Long: `Starling is a peer-to-peer mesh node: rooms for everybody in them, messages to one user, and no
server anywhere. Two machines on one network that run "starling chat" find each other by themselves.`,
		Example: `  starling demo                          see all of it work, inside one process
  starling chat                          talk with whoever runs it on this network
  starling chat --user bob --room ops    as bob, in the room ops
  starling help exit-codes               what a script can branch on`,
		Args:                  subcommandsOnly,
		RunE:                  a.action(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
		SilenceErrors:         true,
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
	}
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "error",
		"the `LEVEL` to log at on standard error: off, error, warn, info or debug")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(a.demoCommand(), a.chatCommand(), a.idCommand(), a.issuerCommand(), a.tokenCommand(), a.versionCommand())
	root.AddCommand(topics()...)
	root.SetHelpCommand(a.helpCommand())
	return root
}

// helpCommand is like cobra's own, except that a topic that does not exist is wrong usage and not a
// success.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "help [COMMAND]",
		Short:                 "Explain a command or a topic",
		Example:               "  starling help chat\n  starling help exit-codes",
		DisableFlagsInUseLine: true,
		RunE: a.action(func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("no help on %q%s", strings.Join(args, " "), suggestCommand(cmd.Root(), args[0]))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		}),
	}
}

// subcommandsOnly refuses the arguments of a command that has subcommands: the first is a mistyped
// one.
func subcommandsOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), suggestCommand(cmd, args[0]))
}

// noArguments refuses the arguments of a command that takes none.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%q takes no arguments, and got %q", cmd.CommandPath(), args[0])
}

// report writes what went wrong to standard error, and returns the exit code.
func (a *app) report(ctx context.Context, cmd *cobra.Command, err error) int {
	var sig *signalError
	if errors.As(context.Cause(ctx), &sig) && (err == nil || errors.Is(err, context.Canceled) || errors.As(err, &sig)) {
		return sig.exitCode()
	}
	if err == nil {
		return exitOK
	}
	var told *toldError
	if !errors.As(err, &told) {
		fmt.Fprintf(a.stderr, "starling: %s\n", plain(err))
	}
	code := exitCode(err)
	if code == exitUsage && told == nil {
		fmt.Fprintf(a.stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	}
	return code
}

// echoTime is how soon a repeated signal counts as the same one: a terminal that hangs up signals
// every process of the group, and the keeper of a chat passes on what it receives.
const echoTime = 200 * time.Millisecond

// withSignals returns a context that ends at the first signal, with a *signalError as its cause. If
// something still runs 2 s later, or when a second signal comes, it calls last and ends the
// process. While relay is set, signals are passed to it instead.
func withSignals(sys system, last func(), relay *atomic.Pointer[func(os.Signal)]) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		var first *signalError
		var late <-chan time.Time
		var when time.Time
		for {
			select {
			case s := <-sys.signals:
				if pass := relay.Load(); pass != nil {
					(*pass)(s)
					continue
				}
				if first != nil && sys.kept && s == first.signal && time.Since(when) < echoTime {
					continue
				}
				if first != nil {
					last()
					sys.exit(first.exitCode())
					return
				}
				first, when = &signalError{s}, time.Now()
				cancel(first)
				late = time.After(closeTime)
			case <-late:
				last()
				fmt.Fprintf(sys.stderr, "starling: not closed %v after the signal, leaving without a goodbye\n", closeTime)
				sys.exit(first.exitCode())
				return
			case <-done:
				return
			}
		}
	})
	return ctx, func() {
		close(done)
		watcher.Wait()
		cancel(nil)
	}
}
