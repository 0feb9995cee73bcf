package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/chat"
	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/demo"
	"github.com/starling-mesh/starling/cmd/starling/internal/token"
)

// closeTime is how long the process may go on after a first signal.
const closeTime = 2 * time.Second

// run runs the command line args and returns its exit code.
func run(args []string, sys cli.System) int {
	a := &cli.App{System: sys}
	ctx, stop := withSignals(sys, a.RestoreTerminal, &a.Relay)
	defer stop()

	root := command(a)
	root.SetArgs(args)
	root.SetIn(sys.Stdin)
	root.SetOut(sys.Stdout)
	root.SetErr(sys.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.Running {
		err = cli.Usage(err) // cobra refuses by itself only commands, flags and arguments
	}
	return report(ctx, a, cmd, err)
}

func command(a *cli.App) *cobra.Command {
	root := &cobra.Command{
		Use:   "starling",
		Short: "Rooms and direct messages between devices, with no server",
		Long: `Starling is a peer-to-peer mesh node: rooms, messages to one user, and no server anywhere.
Two machines on one network that run "starling chat" find each other by themselves.`,
		Example: `  starling demo                          see all of it work, inside one process
  starling chat                          talk with others on this network
  starling chat --user bob --room ops    as bob, in the room ops
  starling help exit-codes               what a script can branch on`,
		Args:                  cli.SubcommandsOnly,
		RunE:                  a.Action(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
		SilenceErrors:         true,
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
	}
	var level string
	a.Log = func() (*slog.Logger, error) { return newLogger(a, level) }
	root.PersistentFlags().StringVar(&level, "log-level", "error",
		"the `LEVEL` to log at on standard error: off, error, warn, info or debug")
	root.SetFlagErrorFunc(cli.FlagError)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(demo.Command(a), chat.Command(a), idCommand(a), token.IssuerCommand(a), token.Command(a), versionCommand(a))
	root.AddCommand(topics()...)
	root.SetHelpCommand(helpCommand(a))
	return root
}

// helpCommand is like cobra's own, except that a topic that does not exist is wrong usage and not a
// success.
func helpCommand(a *cli.App) *cobra.Command {
	return &cobra.Command{
		Use:                   "help [COMMAND]",
		Short:                 "Explain a command or a topic",
		Example:               "  starling help chat\n  starling help exit-codes",
		DisableFlagsInUseLine: true,
		RunE: a.Action(func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return cli.Usagef("no help on %q%s", strings.Join(args, " "), cli.SuggestCommand(cmd.Root(), args[0]))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		}),
	}
}

// report writes what went wrong to standard error, and returns the exit code.
func report(ctx context.Context, a *cli.App, cmd *cobra.Command, err error) int {
	var sig *cli.SignalError
	if errors.As(context.Cause(ctx), &sig) && (err == nil || errors.Is(err, context.Canceled) || errors.As(err, &sig)) {
		return sig.ExitCode()
	}
	if err == nil {
		return cli.ExitOK
	}
	var told *cli.ToldError
	if !errors.As(err, &told) {
		fmt.Fprintf(a.Stderr, "starling: %s\n", err.Error())
	}
	code := cli.ExitCode(err)
	if code == cli.ExitUsage && told == nil {
		fmt.Fprintf(a.Stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	}
	return code
}

// echoTime is how soon a repeated signal counts as the same one: a terminal that hangs up signals
// every process of the group, and the keeper of a chat passes on what it receives.
const echoTime = 200 * time.Millisecond

// withSignals returns a context that ends at the first signal, with a *signalError as its cause. If
// something still runs 2 s later, or when a second signal comes, it calls last and ends the
// process. While relay is set, signals are passed to it instead.
func withSignals(sys cli.System, last func(), relay *atomic.Pointer[func(os.Signal)]) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		var first *cli.SignalError
		var late <-chan time.Time
		var when time.Time
		for {
			select {
			case s := <-sys.Signals:
				if pass := relay.Load(); pass != nil {
					(*pass)(s)
					continue
				}
				if first != nil && sys.Kept && s == first.Signal && time.Since(when) < echoTime {
					continue
				}
				if first != nil {
					last()
					sys.Exit(first.ExitCode())
					return
				}
				first, when = &cli.SignalError{Signal: s}, time.Now()
				cancel(first)
				late = time.After(closeTime)
			case <-late:
				last()
				fmt.Fprintf(sys.Stderr, "starling: not closed %v after the signal, leaving without a goodbye\n", closeTime)
				sys.Exit(first.ExitCode())
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
