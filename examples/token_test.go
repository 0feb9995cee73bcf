package examples

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTokenShowsABackendThatSaysWhoIsWho(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, build(t, "token")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, 6, "%s", out)
	slices.Sort(lines[:2]) // members are in the order of their keys
	require.Equal(t, []string{
		"alice is in ops as moderator",
		"bob is in ops as member",
		"mallory with bob's token: bound to another device: true",
		"bob has a newer token before anybody noticed",
		"bob says to all: hello",
		"bob is out",
	}, lines)
}
