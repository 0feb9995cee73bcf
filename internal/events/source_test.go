package events

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tagged returns a source whose events say whose they are, by the hundreds of their numbers: 3xx is
// of source 3. A Lagged of it has Missed, and N is the source.
func tagged(q *Queue[*note], source int) *Source[*note] {
	return q.NewSource(Kind[*note]{
		Stamp:  func(ev *note, seq uint64, _ time.Time) { ev.seq = seq },
		Lagged: func(seq uint64, _ time.Time, missed int) *note { return &note{seq: seq, N: source, Missed: missed} },
	})
}

// lagged is what drained returns for a Lagged.
func lagged(source, missed int) note { return note{N: source, Missed: missed} }

// drained reads what is queued, without the numbers, which it checks.
func drained(t *testing.T, q *Queue[*note]) (got []note) {
	t.Helper()
	last := uint64(0)
	for {
		ev, ok, _ := q.take()
		if !ok {
			return got
		}
		require.Greater(t, ev.seq, last, "numbers rise")
		last = ev.seq
		got = append(got, note{N: ev.N, Missed: ev.Missed})
	}
}

func TestSourcesShareOneOrderAndOneBound(t *testing.T) {
	q := newQueue(3, 0)
	a, b := tagged(q, 1), tagged(q, 2)
	a.PushNotice(n(100))
	b.PushBroadcast(n(200), 1)
	require.True(t, a.PushDirect(n(101), 1))
	q.PushNotice(n(1))
	require.True(t, b.PushDirect(n(201), 1))
	require.False(t, a.PushDirect(n(102), 1), "full, though a has one message only")
	a.PushBroadcast(n(103), 1)
	require.Equal(t, []note{{N: 100}, lagged(2, 1), {N: 101}, {N: 1}, {N: 201}, {N: 103}}, drained(t, q))
}

func TestWhatWasDroppedIsReportedForEachSource(t *testing.T) {
	q := newQueue(2, 0)
	a, b := tagged(q, 1), tagged(q, 2)
	for i := range 3 {
		a.PushBroadcast(n(100+i), 1)
		b.PushBroadcast(n(200+i), 1)
	}
	require.Equal(t, []note{lagged(1, 2), lagged(2, 2), {N: 102}, {N: 202}}, drained(t, q))

	// A notice in between keeps what was dropped on either side of it apart.
	a.PushBroadcast(n(110), 1)
	b.PushBroadcast(n(210), 1)
	a.PushNotice(n(111))
	for i := range 3 {
		b.PushBroadcast(n(211+i), 1)
	}
	require.Equal(t, []note{lagged(1, 1), lagged(2, 1), {N: 111}, lagged(2, 1), {N: 212}, {N: 213}}, drained(t, q))

	// If direct messages fill the queue, the new broadcasts are dropped.
	require.True(t, a.PushDirect(n(120), 1))
	require.True(t, a.PushDirect(n(121), 1))
	b.PushBroadcast(n(220), 1)
	a.PushBroadcast(n(122), 1)
	b.PushBroadcast(n(221), 1)
	require.Equal(t, []note{{N: 120}, {N: 121}, lagged(1, 1), lagged(2, 2)}, drained(t, q))
}

func TestNothingOfASourceComesAfterItsLastEvent(t *testing.T) {
	q := newQueue(2, 0)
	a, b := tagged(q, 1), tagged(q, 2)
	a.PushBroadcast(n(100), 1)
	a.End(n(199))
	a.End(n(198))
	a.PushNotice(n(101))
	require.False(t, a.PushDirect(n(102), 1))
	dropped, queued := a.PushBroadcast(n(103), 1)
	require.Zero(t, dropped)
	require.False(t, queued)
	b.PushBroadcast(n(200), 1)
	b.PushBroadcast(n(201), 1)
	require.Equal(t, []note{lagged(1, 1), {N: 199}, {N: 200}, {N: 201}}, drained(t, q), "what was dropped is told before the end")
}

func TestASourceOfAnEndedQueueTakesNothing(t *testing.T) {
	q := newQueue(2, 0)
	a := tagged(q, 1)
	q.End(ErrOverrun)
	a.PushNotice(n(100))
	a.End(n(101))
	require.Empty(t, drained(t, q))
}

// For each source, what was read and what was reported as dropped adds up to what was pushed, and
// the order of all of it is kept.
func TestSourcesAgreeWithAModel(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			q := newQueue(1+r.IntN(6), 0)
			sources := []*Source[*note]{q.Own(), tagged(q, 1), tagged(q, 2), tagged(q, 3)}
			const each = 1000
			pushed, came := make([]int, len(sources)), make([]int, len(sources))
			order := make([][]int, len(sources))
			at := make(map[int]int) // of a number, its place in the order of all
			all := -1
			read := func() {
				for _, ev := range drained(t, q) {
					if ev.Missed > 0 {
						came[ev.N] += ev.Missed
						continue
					}
					require.Greater(t, at[ev.N], all)
					all = at[ev.N]
					came[ev.N/each]++
					order[ev.N/each] = append(order[ev.N/each], ev.N)
				}
			}
			for i := range 300 {
				s := r.IntN(len(sources))
				ev := n(s*each + i)
				at[ev.N] = i
				switch r.IntN(8) {
				case 0:
					sources[s].PushNotice(ev)
				case 1, 2:
					if !sources[s].PushDirect(ev, 1) {
						pushed[s]--
					}
				case 3:
					pushed[s]--
					if r.IntN(3) == 0 {
						read()
					}
				default:
					sources[s].PushBroadcast(ev, 1)
				}
				pushed[s]++
			}
			read()
			require.Equal(t, pushed, came)
			for _, o := range order {
				require.True(t, slices.IsSorted(o))
			}
			require.Zero(t, q.count)
			require.Zero(t, q.bytes)
			require.Zero(t, q.notices)
		})
	}
}
