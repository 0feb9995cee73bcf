package main

import (
	"encoding/json"
	"strings"
	"testing"

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
