package stay

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

// chain makes the envelopes of a feed, with the given numbers of items.
func chain(counts ...uint32) (out []*Envelope) {
	first, previous := uint64(1), []byte(nil)
	for _, n := range counts {
		e := &Envelope{Envelope: &wire.Envelope{First: first, Count: n, Previous: previous}, Size: 100 * int(n)}
		e.hash = sha256.Sum256(binary.BigEndian.AppendUint64(previous, first))
		out = append(out, e)
		first, previous = first+uint64(n), e.hash[:]
	}
	return out
}

func firsts(ready []*Envelope) (out []uint64) {
	for _, e := range ready {
		out = append(out, e.First)
	}
	return out
}

func TestFeedRestoresOrder(t *testing.T) {
	e := chain(1, 3, 2, 1)
	f := &Feed{next: 1}
	for _, step := range []struct {
		in   *Envelope
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
	require.Empty(t, f.missing(0))
	require.Zero(t, f.gapSince)
	require.Zero(t, f.heldBytes)
}

func TestAFeedThatHasOnlyItsAuthorsEntryLacksNothingWithoutIt(t *testing.T) {
	f := &Feed{next: 1, floor: 1}
	require.EqualValues(t, 0, f.position(), "the entry is not known")
	f.entry = entry("u", "author", 1, 1, true)
	require.EqualValues(t, 1, f.position())
	e := chain(1, 2, 1)
	f.take(epoch, e[1])
	require.EqualValues(t, 3, f.position())

	// Two members that know the entry have the same, whether the item has come or not.
	with, without := newJournal(FeedTag{}, plenty), newJournal(FeedTag{}, plenty)
	for _, j := range []*journal{with, without} {
		j.open(epoch, f.entry).begin(1)
	}
	with.take(epoch, "", with.feeds[f.entry.Tag()], e[0])
	require.Equal(t, with.sum(), without.sum())

	// A member that has no more than the entry says that nothing is for the other one, and is not
	// asked for the item.
	first, sure := without.firsts(after(time.Minute), time.Second, 0)(without.feeds[f.entry.Tag()])
	require.EqualValues(t, 2, first)
	require.True(t, sure)
	without.claim(after(time.Minute), "a", f.entry.Tag(), 1, 2, true)
	require.Zero(t, without.lacking.len())
}

func TestFeedKnowsWhatIsMissingAndWhatIsLostWithIt(t *testing.T) {
	e := chain(1, 2, 1, 4, 1)
	f := &Feed{next: 1}
	f.take(after(0), e[0])
	f.take(after(time.Second), e[2])
	f.take(after(2*time.Second), e[4])
	require.Equal(t, []span{{2, 3}, {5, 8}}, f.missing(0))
	require.Equal(t, []span{{2, 3}, {5, 8}, {10, 12}}, f.missing(12), "a neighbour says that it has more")
	require.True(t, f.proven())
	require.Equal(t, after(time.Second), f.gapSince)

	lost, ready, v := f.giveUp(after(4 * time.Second))
	require.Equal(t, span{2, 3}, lost)
	require.Equal(t, []uint64{4}, firsts(ready))
	require.Equal(t, taken, v)

	require.Equal(t, after(4*time.Second), f.gapSince, "the gap behind it began when the first one closed")
	lost, ready, _ = f.giveUp(after(5 * time.Second))
	require.Equal(t, span{5, 8}, lost)
	require.Equal(t, []uint64{9}, firsts(ready))
	require.False(t, f.proven())
	_, v = f.take(after(time.Hour), e[1])
	require.Equal(t, stale, v, "what was given up is not delivered out of order")
}

func TestFeedHoldsNoMoreThanItsBoundsAllowAndTheLatestGivesWay(t *testing.T) {
	counts := make([]uint32, maxHeld+3)
	for i := range counts {
		counts[i] = 1
	}
	e := chain(counts...)
	f := &Feed{next: 1}
	for _, one := range e[2 : maxHeld+2] {
		_, v := f.take(epoch, one)
		require.Equal(t, taken, v)
	}
	_, v := f.take(epoch, e[maxHeld+2])
	require.Equal(t, full, v)
	_, v = f.take(epoch, e[1])
	require.Equal(t, taken, v, "what comes before pushes out the latest")
	require.Len(t, f.held, maxHeld)
	ready, _ := f.take(epoch, e[0])
	require.Len(t, ready, maxHeld+1)
	require.Zero(t, f.heldBytes)

	f = &Feed{next: 1}
	e[2].Size = maxHeldBytes + 1
	_, v = f.take(epoch, e[2])
	require.Equal(t, taken, v, "one is always held: it proves the gap")
	_, v = f.take(epoch, e[3])
	require.Equal(t, full, v)
}

func TestFeedBeginsWhereNeighboursSayOrWithWhatComesFirst(t *testing.T) {
	e := chain(2, 2, 2)
	f := &Feed{}
	f.begin(3)
	_, v := f.take(epoch, e[0])
	require.Equal(t, stale, v, "from before our time")
	f.begin(99)
	ready, _ := f.take(epoch, e[1])
	require.Equal(t, []uint64{3}, firsts(ready), "a later word changes nothing")

	// The first one waits for one that it has overtaken.
	f = &Feed{}
	ready, _ = f.take(epoch, e[2])
	require.Empty(t, ready)
	ready, _ = f.take(after(BaselineWait/2), e[1])
	require.Empty(t, ready)
	require.Equal(t, after(BaselineWait+2*sureWait), f.baselineDue())
	ready, _ = f.suppose(after(BaselineWait))
	require.Equal(t, []uint64{3, 5}, firsts(ready))
	require.Zero(t, f.baselineDue())

	// What neighbours say counts for more than what came.
	f = &Feed{beginning: beginning{claim: 5}, claimed: epoch}
	f.take(epoch, e[1])
	f.take(epoch, e[2])
	ready, v = f.suppose(epoch)
	require.Equal(t, taken, v)
	require.Equal(t, []uint64{5}, firsts(ready))
	require.Zero(t, f.baselineDue())

	// It may lie within an envelope.
	f = &Feed{}
	f.begin(4)
	ready, v = f.take(epoch, e[1])
	require.Equal(t, taken, v)
	require.Equal(t, []uint64{3}, firsts(ready))
	require.EqualValues(t, 4, f.floor, "of which only item 4 is for the app")
}

func TestFeedThatForksIsHeardNoMore(t *testing.T) {
	other := func(e *Envelope) *Envelope {
		c := *e
		c.hash[0] ^= 1
		return &c
	}
	for name, feedIt := range map[string]func(*Feed, []*Envelope) verdict{
		"two envelopes with one successor": func(f *Feed, e []*Envelope) verdict {
			f.take(epoch, other(e[0]))
			_, v := f.take(epoch, e[1])
			return v
		},
		"two envelopes behind a gap": func(f *Feed, e []*Envelope) verdict {
			f.take(epoch, e[2])
			_, v := f.take(epoch, other(e[2]))
			return v
		},
		"an envelope across the end": func(f *Feed, e []*Envelope) verdict {
			f.take(epoch, e[0])
			_, v := f.take(epoch, &Envelope{Envelope: &wire.Envelope{First: 1, Count: 9}})
			return v
		},
		"a held one that begins too early": func(f *Feed, e []*Envelope) verdict {
			f.take(epoch, &Envelope{Envelope: &wire.Envelope{First: 2, Count: 1}})
			_, v := f.take(epoch, &Envelope{Envelope: &wire.Envelope{First: 1, Count: 2}})
			return v
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := chain(1, 1, 1)
			f := &Feed{next: 1}
			require.Equal(t, forked, feedIt(f, e))
			for _, one := range e {
				ready, v := f.take(epoch, one)
				require.Empty(t, ready)
				require.Equal(t, forked, v)
			}
			require.Empty(t, f.missing(9))
		})
	}
}

// Whatever the order, and whatever is lost: each item is delivered once and in order, or reported
// lost, never both.
func TestFeedAccountsForEverySequence(t *testing.T) {
	for seed := range uint64(500) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			counts := make([]uint32, 1+r.IntN(40))
			for i := range counts {
				counts[i] = 1 + r.Uint32N(4)
			}
			all := chain(counts...)
			var in []*Envelope
			for _, e := range all[:len(all)-1] {
				for n := r.IntN(3); n > 0; n-- { // lost, once or twice
					in = append(in, e)
				}
			}
			r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
			in = append(in, all[len(all)-1]) // otherwise the tail could be missing, which only a head would show

			f := &Feed{next: 1}
			now, next := epoch, uint64(1)
			account := func(lost span, ready []*Envelope, v verdict) {
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
				now = now.Add(time.Second)
				ready, v := f.take(now, e)
				account(span{}, ready, v)
				if f.proven() && r.IntN(4) == 0 {
					account(f.giveUp(now))
				}
			}
			for f.proven() {
				account(f.giveUp(now))
			}
			require.Equal(t, all[len(all)-1].Next(), next)
			require.Zero(t, f.heldBytes)
		})
	}
}

func TestTheEntryThatAFeedBeginsWithIsNeverLost(t *testing.T) {
	for name, c := range map[string]struct {
		entry *Entry
		feed  []*Envelope // of which the last one is held
		lost  span
	}{
		"with what follows it":            {entry("u", "author", 1, 1, true), chain(1, 2, 1), span{2, 3}},
		"in one envelope with others":     {entry("u", "author", 1, 1, true), chain(3, 1), span{2, 3}},
		"of an author that is not known":  {nil, chain(1, 2, 1), span{1, 3}},
		"before this node's time already": {entry("u", "author", 1, 1, true), chain(1, 2, 1, 1), span{3, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &Feed{entry: c.entry}
			f.begin(1)
			if len(c.feed) == 4 {
				f.next, f.floor = 3, 3
			}
			_, v := f.take(epoch, c.feed[len(c.feed)-1])
			require.Equal(t, taken, v)
			lost, ready, _ := f.giveUp(after(time.Second))
			require.Equal(t, c.lost, lost)
			require.Len(t, ready, 1)
		})
	}
}
