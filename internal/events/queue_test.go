package events

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// note is an event. Missed, if not zero, is how many were dropped before it.
type note struct {
	seq    uint64
	N      int
	Missed int
}

func n(i int) *note { return &note{N: i} }

// newQueue returns a queue with some bounds; 0: so much that no test reaches it.
func newQueue(maxEvents, maxBytes int) *Queue[*note] {
	return NewQueue(Kind[*note]{
		Stamp:  func(ev *note, seq uint64, _ time.Time) { ev.seq = seq },
		Lagged: func(seq uint64, _ time.Time, missed int) *note { return &note{seq: seq, Missed: missed} },
	}, cmp.Or(maxEvents, math.MaxInt), cmp.Or(maxBytes, math.MaxInt))
}

// drain reads what is queued. It returns the number of each event, and the negative count of a
// Lagged.
func drain(t testing.TB, q *Queue[*note]) (got []int) {
	t.Helper()
	last := uint64(0)
	for {
		ev, ok, _ := q.take()
		if !ok {
			return got
		}
		require.Greater(t, ev.seq, last, "numbers rise")
		last = ev.seq
		if ev.Missed > 0 {
			got = append(got, -ev.Missed)
		} else {
			got = append(got, ev.N)
		}
	}
}

func TestQueueDropsOldestBroadcastsAndSaysHowManyInTheirPlace(t *testing.T) {
	q := newQueue(3, 0)
	q.PushNotice(n(1))
	for i := 2; i <= 7; i++ {
		q.PushBroadcast(n(i), 1)
	}
	q.PushNotice(n(8))
	require.Equal(t, []int{1, -3, 5, 6, 7, 8}, drain(t, q))
	require.Empty(t, drain(t, q))
}

func TestQueueBoundsBytesAndAdmitsAFirstMessageOfAnySize(t *testing.T) {
	q := newQueue(0, 10)
	dropped, queued := q.PushBroadcast(n(1), 100)
	require.Zero(t, dropped)
	require.True(t, queued)
	require.False(t, q.PushDirect(n(2), 1))
	dropped, queued = q.PushBroadcast(n(3), 10)
	require.Equal(t, 1, dropped)
	require.True(t, queued)
	require.Equal(t, []int{-1, 3}, drain(t, q))
}

func TestQueueRefusesDirectsWhenFullAndDropsABroadcastForNoDirect(t *testing.T) {
	q := newQueue(2, 0)
	require.True(t, q.PushDirect(n(1), 1))
	require.True(t, q.PushDirect(n(2), 1))
	require.False(t, q.PushDirect(n(3), 1))
	dropped, queued := q.PushBroadcast(n(4), 1)
	require.Equal(t, 1, dropped)
	require.False(t, queued, "the new broadcast itself is dropped")
	q.PushNotice(n(5))
	require.Equal(t, []int{1, 2, -1, 5}, drain(t, q))
}

func TestQueueTellsOfDropsAtItsVeryEnd(t *testing.T) {
	q := newQueue(1, 0)
	require.True(t, q.PushDirect(n(1), 1))
	q.PushBroadcast(n(2), 1)
	q.End(errors.New("over"))
	ctx := context.Background()
	ev, err := q.Recv(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, ev.N)
	ev, err = q.Recv(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, ev.Missed)
	for range 2 {
		_, err = q.Recv(ctx)
		require.EqualError(t, err, "over")
	}
	require.False(t, q.PushDirect(n(9), 1), "an ended queue takes nothing")
}

func TestQueueEndsAReaderThatLeavesNoticesUnread(t *testing.T) {
	q := newQueue(0, 0)
	for i := range maxNotices + 1 {
		q.PushNotice(n(i))
	}
	require.Len(t, drain(t, q), maxNotices)
	_, err := q.Recv(context.Background())
	require.ErrorIs(t, err, ErrOverrun)
}

func TestRecvWaitsForAnEventAndForItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(0, 0)
		got := make(chan *note)
		go func() {
			ev, _ := q.Recv(t.Context())
			got <- ev
		}()
		synctest.Wait()
		q.PushNotice(n(1))
		require.EqualValues(t, 1, (<-got).seq)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := q.Recv(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestAllEndsSilentlyOrWithTheError(t *testing.T) {
	over := errors.New("over")
	for _, quiet := range []bool{true, false} {
		q := newQueue(0, 0)
		q.PushNotice(n(1))
		q.End(over)
		var got []error
		for _, err := range q.All(t.Context(), func(err error) bool { return quiet && errors.Is(err, over) }) {
			got = append(got, err)
		}
		if quiet {
			require.Equal(t, []error{nil}, got)
		} else {
			require.Equal(t, []error{nil, over}, got)
		}
	}
}

// Compares the queue with a simple model: only broadcasts are ever dropped, the order is kept, and
// the counts add up.
func TestQueueAgreesWithAModel(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			limit := 1 + r.IntN(6)
			q := newQueue(limit, 0)
			pushed, missed := 0, 0
			var got, keep []int // keep: notices and accepted direct messages
			read := func() {
				for _, v := range drain(t, q) {
					if v < 0 {
						missed -= v
					} else {
						got = append(got, v)
					}
				}
			}
			broadcasts := 0
			for i := 1; i < 200; i++ {
				switch r.IntN(4) {
				case 0:
					q.PushNotice(n(i))
					keep = append(keep, i)
				case 1:
					if q.PushDirect(n(i), 1) {
						keep = append(keep, i)
					} else {
						pushed--
					}
				case 2:
					q.PushBroadcast(n(i), 1)
					broadcasts++
				case 3:
					pushed--
					if r.IntN(3) == 0 {
						read()
					}
				}
				pushed++
			}
			read()
			require.Equal(t, pushed, len(got)+missed)
			require.True(t, slices.IsSorted(got))
			require.LessOrEqual(t, missed, broadcasts)
			for _, k := range keep {
				require.Contains(t, got, k)
			}
			require.Zero(t, q.count)
			require.Zero(t, q.bytes)
			require.Zero(t, q.notices)
		})
	}
}

func TestQueueIsSafeForManyWriters(t *testing.T) {
	q := newQueue(0, 0)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 500 {
				q.PushBroadcast(n(w*500+i), 1)
			}
		})
	}
	for range 2000 {
		_, err := q.Recv(t.Context())
		require.NoError(t, err)
	}
	wg.Wait()
}

func BenchmarkQueue(b *testing.B) {
	q := newQueue(0, 0)
	ev := n(1)
	b.ReportAllocs()
	for b.Loop() {
		q.PushBroadcast(ev, 1)
		if _, err := q.Recv(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAQueueThatDropsDoesNotAllocateForIt(t *testing.T) {
	q := newQueue(8, 0)
	ev := n(1)
	for range 100 {
		q.PushBroadcast(ev, 1)
	}
	require.Zero(t, testing.AllocsPerRun(1000, func() { q.PushBroadcast(ev, 1) }))
}
