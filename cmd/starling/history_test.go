package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

func TestAChatKeepsItsHistoryIfItIsTold(t *testing.T) {
	for _, keep := range []bool{true, false} {
		dir := t.TempDir()
		args := []string{"--data", dir, "--user", "alice"}
		if keep {
			args = append(args, "--keep-history")
		}
		alice := chatHere(t, args...)
		alice.eventually("ready")
		alice.say("hello", "/quit")
		require.Equal(t, cli.ExitOK, alice.ended(), alice)
		raw, err := os.ReadFile(filepath.Join(dir, "history.db"))
		if !keep {
			require.ErrorIs(t, err, os.ErrNotExist)
			continue
		}
		require.NoError(t, err)
		require.Contains(t, string(raw), "hello")
	}
}
