package walltime

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheZeroClockIsTheMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []Clock{{}, From(nil), From(time.Now)} {
			now := time.Now()
			require.Equal(t, now, c.Now())
			require.Equal(t, time.Second, c.Since(now.Add(-time.Second)))
			require.Equal(t, time.Second, c.Until(now.Add(time.Second)))
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			at, ok := c.Deadline(ctx)
			cancel()
			require.True(t, ok)
			require.Equal(t, now.Add(time.Hour), at)
			require.Equal(t, now.Add(time.Minute), In(time.Minute))
			_, ok = c.Deadline(t.Context())
			require.False(t, ok)
		}
	})
}
