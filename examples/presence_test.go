package examples

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPresenceShowsALogOut(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, build(t, "presence")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "bob is online\nwatched: bob is online\nwatched: bob is offline\n", string(out))
}
