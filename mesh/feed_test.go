package mesh

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return epoch.Add(d) }

// chain makes the envelopes of a feed, of the given numbers of items.
func chain(counts ...uint32) (out []*envelope) {
	first, previous := uint64(1), []byte(nil)
	for _, n := range counts {
		e := &envelope{Envelope: &wire.Envelope{First: first, Count: n, Previous: previous}, size: 100 * int(n)}
		e.hash = sha256.Sum256(binary.BigEndian.AppendUint64(previous, first))
		out = append(out, e)
		first, previous = first+uint64(n), e.hash[:]
	}
	return out
}

func firsts(ready []*envelope) (out []uint64) {
	for _, e := range ready {
		out = append(out, e.First)
	}
	return out
}

func TestFeedRestoresOrder(t *testing.T) {
	e := chain(1, 3, 2, 1)
	f := &feed{next: 1}
	for _, step := range []struct {
		in   *envelope
		out  []uint64
		want verdict
	}{
		{e[1], nil, taken},
		{e[3], nil, taken},
		{e[1], nil, stale},
		{e[0], []uint64{1, 2}, taken},
		{e[0], nil, stale},
		{e[2], []uint64{5, 7}, taken},
		{e[3], nil, stale},
	} {
		ready, v := f.take(epoch, step.in)
		require.Equal(t, step.want, v)
		require.Equal(t, step.out, firsts(ready))
	}
	require.EqualValues(t, 8, f.next)
	require.Zero(t, f.due(), "nothing waits")
	require.Zero(t, f.heldBytes)
}

func TestFeedGivesAGapUpWhenItsTimeIsOverAndSaysWhatIsLost(t *testing.T) {
	e := chain(1, 2, 1, 4, 1)
	f := &feed{next: 1}
	f.take(after(0), e[0])
	f.take(after(time.Second), e[2])
	f.take(after(2*time.Second), e[4])
	require.Equal(t, after(time.Second+gapWait), f.due())

	lost, ready, _ := f.expire(after(time.Second + gapWait - 1))
	require.Zero(t, lost)
	require.Empty(t, ready)

	lost, ready, v := f.expire(after(time.Second + gapWait))
	require.Equal(t, span{2, 3}, lost)
	require.Equal(t, []uint64{4}, firsts(ready))
	require.Equal(t, taken, v)

	// The gap behind it began when the first one closed.
	require.Equal(t, after(time.Second+2*gapWait), f.due())
	lost, ready, _ = f.expire(f.due())
	require.Equal(t, span{5, 8}, lost)
	require.Equal(t, []uint64{9}, firsts(ready))
	require.Zero(t, f.due())
	_, v = f.take(after(time.Hour), e[1])
	require.Equal(t, stale, v, "what was given up is not delivered out of order")
}

func TestFeedWaitsNoLongerThanItsBoundsAllow(t *testing.T) {
	counts := make([]uint32, maxHeld+3)
	for i := range counts {
		counts[i] = 1
	}
	e := chain(counts...)
	f := &feed{next: 1}
	for _, one := range e[1 : maxHeld+1] {
		f.take(epoch, one)
	}
	require.Equal(t, epoch.Add(gapWait), f.due())
	f.take(epoch, e[maxHeld+1])
	lost, ready, _ := f.expire(epoch)
	require.Equal(t, span{1, 1}, lost)
	require.Len(t, ready, maxHeld+1)

	f = &feed{next: 1}
	e[1].size = maxHeldBytes + 1
	f.take(epoch, e[1])
	require.Equal(t, epoch, f.due())
}

func TestFeedTakesItsBaselineFromAHeadOrTheFirstEnvelope(t *testing.T) {
	e := chain(2, 2, 2)
	f := &feed{}
	f.from(&wire.Head{Last: 2, Hash: e[0].hash[:]})
	_, v := f.take(epoch, e[0])
	require.Equal(t, stale, v, "from before our time")
	f.from(&wire.Head{Last: 99})
	ready, _ := f.take(epoch, e[1])
	require.Equal(t, []uint64{3}, firsts(ready), "a later head changes nothing")

	f = &feed{}
	ready, _ = f.take(epoch, e[0])
	require.Equal(t, []uint64{1}, firsts(ready), "the beginning needs no head")

	// Without a head the first one waits for one that it has overtaken.
	f = &feed{}
	ready, _ = f.take(epoch, e[2])
	require.Empty(t, ready)
	ready, _ = f.take(after(baselineWait/2), e[1])
	require.Empty(t, ready)
	require.Equal(t, after(baselineWait), f.due())
	lost, ready, _ := f.expire(after(baselineWait))
	require.Zero(t, lost)
	require.Equal(t, []uint64{3, 5}, firsts(ready))
	require.Zero(t, f.due())

	// A head that comes meanwhile ends the wait.
	f = &feed{}
	f.take(epoch, e[1])
	f.take(epoch, e[2])
	f.from(&wire.Head{Last: 4, Hash: e[1].hash[:]})
	ready, v = f.settle(epoch)
	require.Equal(t, taken, v)
	require.Equal(t, []uint64{5}, firsts(ready))
	require.Zero(t, f.due())

	f = &feed{}
	f.from(&wire.Head{Last: 2, Hash: e[1].hash[:]})
	_, v = f.take(epoch, e[1])
	require.Equal(t, forked, v, "it does not continue what the head proves")
}

func TestFeedThatForksIsHeardNoMore(t *testing.T) {
	other := func(e *envelope) *envelope {
		c := *e
		c.hash[0] ^= 1
		return &c
	}
	for name, feedIt := range map[string]func(*feed, []*envelope) verdict{
		"two envelopes with one successor": func(f *feed, e []*envelope) verdict {
			f.take(epoch, other(e[0]))
			_, v := f.take(epoch, e[1])
			return v
		},
		"two envelopes behind a gap": func(f *feed, e []*envelope) verdict {
			f.take(epoch, e[2])
			_, v := f.take(epoch, other(e[2]))
			return v
		},
		"an envelope across the end": func(f *feed, e []*envelope) verdict {
			f.take(epoch, e[0])
			_, v := f.take(epoch, &envelope{Envelope: &wire.Envelope{First: 1, Count: 9}})
			return v
		},
		"a held one that begins too early": func(f *feed, e []*envelope) verdict {
			f.take(epoch, &envelope{Envelope: &wire.Envelope{First: 2, Count: 1}})
			_, v := f.take(epoch, &envelope{Envelope: &wire.Envelope{First: 1, Count: 2}})
			return v
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := chain(1, 1, 1)
			f := &feed{next: 1}
			require.Equal(t, forked, feedIt(f, e))
			for _, one := range e {
				ready, v := f.take(epoch, one)
				require.Empty(t, ready)
				require.Equal(t, forked, v)
			}
			require.Zero(t, f.due())
		})
	}
}

// Whatever the order, and whatever is lost: each item is delivered once and in order, or reported lost, never both.
func TestFeedAccountsForEverySequence(t *testing.T) {
	for seed := range uint64(500) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			counts := make([]uint32, 1+r.IntN(40))
			for i := range counts {
				counts[i] = 1 + r.Uint32N(4)
			}
			all := chain(counts...)
			var in []*envelope
			for _, e := range all[:len(all)-1] {
				for n := r.IntN(3); n > 0; n-- { // lost, once or twice
					in = append(in, e)
				}
			}
			r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
			in = append(in, all[len(all)-1]) // or the tail could be missing, which only a head would tell

			f := &feed{next: 1}
			now, next := epoch, uint64(1)
			account := func(lost span, ready []*envelope, v verdict) {
				require.NotEqual(t, forked, v)
				if lost.last != 0 {
					require.Equal(t, next, lost.first)
					next = lost.last + 1
				}
				for _, e := range ready {
					require.Equal(t, next, e.First)
					next = e.Next()
				}
			}
			for _, e := range in {
				now = now.Add(time.Duration(r.IntN(int(gapWait / 2))))
				account(f.expire(now))
				ready, v := f.take(now, e)
				account(span{}, ready, v)
			}
			for !f.due().IsZero() {
				account(f.expire(f.due()))
			}
			require.Equal(t, all[len(all)-1].Next(), next)
			require.Zero(t, f.heldBytes)
		})
	}
}
