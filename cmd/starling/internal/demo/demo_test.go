package demo

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

func TestAFailedStepFailsTheDemoAndTheRestStillRuns(t *testing.T) {
	var out bytes.Buffer
	fake := func(name string, err error) step {
		return step{name, func(context.Context) (time.Duration, string, error) { return 1500 * time.Microsecond, "done", err }}
	}
	err := run(t.Context(), []step{fake("one", nil), fake("two", errors.New("broken")), fake("three", nil)}, jsonOutput{&out})
	require.EqualError(t, err, "1 of 3 steps did not do what they should")
	lines := strings.Split(out.String(), "\n")
	require.Equal(t, `{"step":"one","ok":true,"ms":1.5,"detail":"done"}`, lines[0])
	require.Regexp(t, `^\{"step":"two","ok":false,"ms":[0-9.]+,"error":"broken"\}$`, lines[1])
	require.Equal(t, `{"step":"three","ok":true,"ms":1.5,"detail":"done"}`, lines[2])
}

func TestADemoThatHangsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := step{"hang", func(ctx context.Context) (time.Duration, string, error) {
			<-ctx.Done()
			return 0, "", ctx.Err()
		}}
		var out bytes.Buffer
		begin := time.Now()
		err := run(t.Context(), []step{hang, hang, hang, hang, hang, hang, hang, hang}, textOutput{&out})
		require.EqualError(t, err, "the demo took more than 1m0s")
		require.Equal(t, allTime, time.Since(begin))
		// The last step runs into both limits at once.
		require.InDelta(t, 6, strings.Count(out.String(), "FAIL  hang"), 1)
	})
}

func TestAnInterruptedDemoEndsWithTheSignal(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupt := step{"interrupt", func(context.Context) (time.Duration, string, error) {
		cancel(&cli.SignalError{Signal: syscall.SIGINT})
		return 0, "", ctx.Err()
	}}
	err := run(ctx, []step{interrupt, interrupt}, textOutput{&bytes.Buffer{}})
	require.Equal(t, 130, cli.ExitCode(err))
}
