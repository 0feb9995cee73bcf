//go:build linux

package netlab

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fault is an event at one node of a chaos run: its cable is pulled, or its process is killed and
// started again with the same data.
type fault struct {
	node int
	kill bool
	// Since the start of the run; at to, the cable is back or the process is started again.
	from, to time.Duration
}

func (f fault) String() string {
	what := "cable pulled"
	if f.kill {
		what = "killed"
	}
	return fmt.Sprintf("%7.3fs to %7.3fs  %s %s", f.from.Seconds(), f.to.Seconds(), chaosNames[f.node], what)
}

// plan draws the faults of a run of the given length, ordered by their start. Equal seeds give
// equal plans. Nodes from 0 to mortals-1 are killed at least once; the others only lose their
// cable. The faults of one node do not overlap, those of different nodes may. All have ended when
// the run ends.
func plan(seed uint64, length time.Duration, nodes, mortals int) []fault {
	r := rand.New(rand.NewPCG(seed, 0))
	between := func(low, high time.Duration) time.Duration {
		return low + time.Duration(r.Int64N(int64(high-low)))
	}
	var all []fault
	for node := range nodes {
		at := between(time.Second, 8*time.Second)
		for first := true; ; first = false {
			f := fault{node: node, kill: node < mortals && (first || r.IntN(2) == 0), from: at}
			if f.kill {
				// It may be at once: its neighbours still believe it alive.
				f.to = at + between(0, 4*time.Second)
			} else {
				f.to = at + between(2*time.Second, 8*time.Second)
			}
			if f.to > length {
				break
			}
			all = append(all, f)
			at = f.to + between(3*time.Second, 15*time.Second)
		}
	}
	slices.SortFunc(all, func(a, b fault) int { return cmp.Compare(a.from, b.from) })
	return all
}

// step is the start or the end of a fault.
type step struct {
	fault
	end bool
}

func (s step) at() time.Duration {
	if s.end {
		return s.to
	}
	return s.from
}

// steps turns faults into the actions to take, in order.
func steps(faults []fault) []step {
	var all []step
	for _, f := range faults {
		all = append(all, step{f, false}, step{f, true})
	}
	slices.SortStableFunc(all, func(a, b step) int { return cmp.Compare(a.at(), b.at()) })
	return all
}

func TestPlansKeepTheirPromises(t *testing.T) {
	const length = time.Minute
	for seed := range uint64(200) {
		faults := plan(seed, length, 8, 4)
		require.Equal(t, faults, plan(seed, length, 8, 4), "the same seed")
		var free [8]time.Duration
		var pulls, kills [8]int
		for _, f := range faults {
			require.GreaterOrEqual(t, f.from, free[f.node], "seed %d: %v", seed, f)
			require.LessOrEqual(t, f.to, length, "seed %d: %v", seed, f)
			free[f.node] = f.to + 1 // separate, not merely one after the other
			if f.kill {
				kills[f.node]++
				require.Less(t, f.to-f.from, 4*time.Second)
				continue
			}
			pulls[f.node]++
			require.GreaterOrEqual(t, f.to-f.from, 2*time.Second)
			require.Less(t, f.to-f.from, 8*time.Second)
		}
		for node := range 8 {
			if node < 4 {
				require.Positive(t, kills[node], "seed %d, node %d", seed, node)
			} else {
				require.Zero(t, kills[node], "seed %d: node %d survives", seed, node)
				require.Positive(t, pulls[node], "seed %d, node %d", seed, node)
			}
		}
		down := make(map[int]bool)
		last := time.Duration(0)
		for _, s := range steps(faults) {
			require.GreaterOrEqual(t, s.at(), last)
			require.Equal(t, s.end, down[s.node], "seed %d: %v", seed, s.fault)
			down[s.node], last = !s.end, s.at()
		}
	}
	require.NotEqual(t, plan(1, length, 8, 4), plan(2, length, 8, 4))
}
