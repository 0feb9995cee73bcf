package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// signalled returns a context under withSignals, and the channels of the signals and of the
// process's end.
func signalled(t *testing.T) (ctx context.Context, signals chan<- os.Signal, ended <-chan int, errOut *strings.Builder) {
	t.Helper()
	s, codes := make(chan os.Signal, 2), make(chan int, 1)
	errOut = new(strings.Builder)
	ctx, stop := withSignals(cli.System{Signals: s, Stderr: errOut, Exit: func(code int) { codes <- code }}, func() {}, new(atomic.Pointer[func(os.Signal)]))
	t.Cleanup(stop)
	return ctx, s, codes, errOut
}

func TestTheFirstSignalEndsTheContextAndTheSecondTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, signals, ended, errOut := signalled(t)
		signals <- syscall.SIGTERM
		<-ctx.Done()
		var sig *cli.SignalError
		require.True(t, errors.As(context.Cause(ctx), &sig))
		require.Equal(t, 143, sig.ExitCode())
		synctest.Wait()
		require.Empty(t, ended)

		signals <- os.Interrupt
		require.Equal(t, 143, <-ended, "the code is that of the first")
		require.Empty(t, errOut.String())
	})
}

func TestWhatHangsIsEndedTwoSecondsAfterTheSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, signals, ended, errOut := signalled(t)
		signals <- os.Interrupt
		begin := time.Now()
		require.Equal(t, 130, <-ended)
		require.Equal(t, closeTime, time.Since(begin))
		require.Equal(t, "starling: not closed 2s after the signal, leaving without a goodbye\n", errOut.String())
	})
}

func TestASignalIsTheExitCodeOfWhateverItInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(&cli.SignalError{Signal: os.Interrupt})
	var errOut strings.Builder
	a := &cli.App{System: cli.System{Stderr: &errOut}}
	cmd := command(a)
	require.Equal(t, 130, report(ctx, a, cmd, nil))
	require.Equal(t, 130, report(ctx, a, cmd, context.Canceled))
	require.Equal(t, 130, report(ctx, a, cmd, context.Cause(ctx)))
	require.Empty(t, errOut.String())
	require.Equal(t, cli.ExitFailed, report(ctx, a, cmd, errors.New("disk full")), "a failure of its own is not hidden")
	require.Equal(t, "starling: disk full\n", errOut.String())
}
