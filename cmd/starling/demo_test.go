package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// demoSteps are what the demo promises to show, in this order.
var demoSteps = []string{
	"start", "log-in", "join", "broadcast-text", "broadcast-binary", "to-one-member", "outside-room",
	"forged-refused", "duplicate-log-in", "leave", "status", "log-out", "tokens",
}

func TestDemoDoesEveryStepAndTellsItAsJSON(t *testing.T) {
	got := runHere("demo", "--json")
	require.Equal(t, cli.ExitOK, got.code, "%s%s", got.out, got.errOut)
	require.Empty(t, got.errOut)
	var names []string
	for line := range strings.Lines(got.out) {
		var r map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		names = append(names, r["step"].(string))
		require.Equal(t, true, r["ok"], line)
		require.IsType(t, float64(0), r["ms"], line)
		require.NotEmpty(t, r["detail"], line)
	}
	require.Equal(t, demoSteps, names)
}

func TestDemoTellsItselfToPeople(t *testing.T) {
	got := runHere("demo")
	require.Equal(t, cli.ExitOK, got.code, "%s%s", got.out, got.errOut)
	for _, name := range demoSteps {
		require.Regexp(t, `(?m)^ok    `+name+` +\d+\.\d{3} ms  \w`, got.out)
	}
	require.Regexp(t, `\nAll 13 steps did what they should, in \d+\.\d s, on 127\.0\.0\.1 only\.\n$`, got.out)
}

func TestAFailedStepFailsTheDemoAndTheRestStillRuns(t *testing.T) {
	var out bytes.Buffer
	fake := func(name string, err error) step {
		return step{name, func(context.Context) (time.Duration, string, error) { return 1500 * time.Microsecond, "done", err }}
	}
	err := runDemo(t.Context(), []step{fake("one", nil), fake("two", errors.New("broken")), fake("three", nil)}, tellJSON(&out))
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
		err := runDemo(t.Context(), []step{hang, hang, hang, hang, hang, hang, hang, hang}, tellText(&out))
		require.EqualError(t, err, "the demo took more than 1m0s")
		require.Equal(t, demoTime, time.Since(begin))
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
	err := runDemo(ctx, []step{interrupt, interrupt}, tellText(&bytes.Buffer{}))
	require.Equal(t, 130, cli.ExitCode(err))
}
