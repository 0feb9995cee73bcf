package node

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheWatchTellsSleepAndMoves(t *testing.T) {
	home, away := []string{"192.168.1.7/24"}, []string{"10.1.1.1/8"}
	for _, c := range []struct {
		name       string
		mono, wall time.Duration
		interfaces []string
		want       change
	}{
		{"an ordinary look", 2 * time.Second, 2 * time.Second, home, change{}},
		{"a busy machine", 5 * time.Second, 5 * time.Second, home, change{}},
		{"a very busy machine, or one that stood still", 8 * time.Second, 8 * time.Second, home, change{slept: true, busy: true}},
		{"a short sleep", 8 * time.Second, 20 * time.Second, home, change{slept: true}},
		{"sleep while the monotonic clock stood", 2 * time.Second, time.Hour, home, change{slept: true}},
		{"sleep while it went on", time.Hour, time.Hour, home, change{slept: true}},
		{"the wall clock was set back", 2 * time.Second, -time.Hour, home, change{}},
		{"another network", 2 * time.Second, 2 * time.Second, away, change{moved: true}},
		{"no network", 2 * time.Second, 2 * time.Second, nil, change{moved: true}},
		{"both", time.Hour, time.Hour, away, change{slept: true, moved: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w watch
			require.Equal(t, change{}, w.step(look{time.Minute, t0, home}), "the first look")
			got := w.step(look{time.Minute + c.mono, t0.Add(c.wall), c.interfaces})
			require.Equal(t, c.want, got)
			again := w.step(look{time.Minute + c.mono + watchEvery, t0.Add(c.wall + watchEvery), c.interfaces})
			require.Equal(t, change{}, again, "each change is told once")
		})
	}
}

func TestALookReadsTheWallClockApart(t *testing.T) {
	l := lookAround(t0, time.Now())
	require.Equal(t, l.wall, l.wall.Round(0))
	require.NotEmpty(t, l.interfaces)
}

func TestThePacerPutsStartsApart(t *testing.T) {
	var p pacer
	require.False(t, p.due(t0))
	require.Equal(t, time.Hour, p.wait(t0))

	p.ask(t0, lostPause)
	require.True(t, p.due(t0), "the first at once")
	require.False(t, p.due(t0))

	p.ask(t0.Add(time.Second), lostPause)
	require.Equal(t, 9*time.Second, p.wait(t0.Add(time.Second)))
	p.ask(t0.Add(2*time.Second), movedPause)
	require.True(t, p.due(t0.Add(2*time.Second)), "the shorter pause counts")
	require.False(t, p.due(t0.Add(time.Hour)), "and serves both")
}
