package meshtest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/walltime"
)

func TestAClockThatIsSetShowsThePassingOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wrong Clock
		clock := walltime.From(wrong.Now)
		start, right := clock.Now(), time.Now()
		require.True(t, start.Round(0).Equal(right), "it shows %v at %v", start, right)
		for _, ahead := range []time.Duration{5 * time.Second, -3 * time.Hour, 0, 40 * 365 * 24 * time.Hour} {
			wrong.Set(ahead)
			now := clock.Now()
			require.Equal(t, ahead, time.Until(now.Round(0)), "the time of day is wrong")
			require.Equal(t, time.Since(right), now.Sub(start), "and the time that has passed is right")
			require.Equal(t, time.Since(right), clock.Since(start))
			require.Equal(t, -time.Since(right), clock.Until(start))
			require.Equal(t, now.UnixMilli(), time.Now().Add(ahead).UnixMilli())
			require.Equal(t, ahead, now.Sub(time.UnixMilli(time.Now().UnixMilli())), "compared with what another node states")
			time.Sleep(time.Minute)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wrong.Set(time.Hour)
		at, ok := clock.Deadline(ctx)
		require.True(t, ok)
		wrong.Set(-time.Hour)
		require.Equal(t, time.Minute, clock.Until(at), "a deadline stays where it is")
		require.Equal(t, time.Minute, time.Until(walltime.In(time.Minute)), "and one for a connection has nothing to do with the clock")
		_, ok = clock.Deadline(t.Context())
		require.False(t, ok)
	})
}

func TestAClockOutsideABubbleIsComparedWithTheMachines(t *testing.T) {
	var wrong Clock
	wrong.Set(time.Hour)
	before, now, after := time.Now(), wrong.Now(), time.Now()
	require.GreaterOrEqual(t, now.Sub(before), time.Duration(0))
	require.LessOrEqual(t, now.Sub(after), time.Duration(0), "by the monotonic reading")
	require.GreaterOrEqual(t, now.Round(0).Sub(before.Round(0)), time.Hour, "by the time of day")
}
