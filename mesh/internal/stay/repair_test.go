package stay

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// What is held behind a gap is told and given to neighbours, so that they wait at the same time.
func TestWhatIsHeldBehindAGapIsThereForOthers(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	f := j.open(epoch, entry("alice", "a", 1, 1, true))
	e := chain(1, 3, 2, 2, 1) // items 1, 2 to 4, 5 and 6, 7 and 8, 9
	for i := range e {
		e[i].sealed, e[i].came = bytes.Repeat([]byte{byte(i)}, 100), after(time.Duration(i)*time.Second)
	}
	for _, i := range []int{0, 1, 3, 4} {
		e[i].how = Repaired
		j.take(after(10*time.Second), "b", f, e[i])
	}
	require.EqualValues(t, 4, f.reach("a"), "to the author it would be an acknowledgement")
	require.EqualValues(t, 9, f.reach("b"))
	require.Equal(t, []*Feed{f}, j.announce(after(10*time.Second+fetchedWait)))

	sealed := func(list []Kept) (out []byte) {
		for _, k := range list {
			out = append(out, k.Sealed[0])
		}
		return out
	}
	for _, c := range []struct {
		span   span
		budget int
		want   []byte
		gone   uint64
		more   bool
	}{
		{span{2, 0}, 1000, []byte{1, 3, 4}, 0, false},
		{span{5, 0}, 1000, []byte{3, 4}, 0, false},
		{span{5, 6}, 1000, nil, 0, false},
		{span{5, 7}, 1000, []byte{3}, 0, false},
		{span{8, 8}, 1000, []byte{3}, 0, false},
		{span{5, 0}, 150, []byte{3}, 0, true},
		{span{5, 0}, 1, []byte{3}, 0, true},
	} {
		list, gone, more := j.serve(f.tag, c.span, c.budget)
		require.Equal(t, c.want, sealed(list), c)
		require.Equal(t, c.gone, gone, c)
		require.Equal(t, c.more, more, c)
	}
	list, _, _ := j.answer(f.tag, span{5, 0}, 1000)
	require.Empty(t, list, "it is not yet for the app")

	// What the store gave is in the ring also behind a hole, and what waits for the hole is held.
	for _, i := range []int{1, 4} {
		j.ring.put(f.tag, f.entry.Statement.Subject(), Kept{First: e[i].First, count: e[i].Count, Sealed: e[i].sealed, At: e[i].came})
	}
	list, _, _ = j.serve(f.tag, span{2, 0}, 1000)
	require.Equal(t, []byte{1, 3, 4}, sealed(list), "each once, rising")

	for age, want := range map[time.Duration]uint64{
		9500 * time.Millisecond: 2, // published half a second after item 1
		8500 * time.Millisecond: 5, // items 5 and 6 are missing here, and may be younger
		6500 * time.Millisecond: 9,
		5500 * time.Millisecond: 10,
	} {
		first, _ := j.firsts(after(10*time.Second), age, 0)(f)
		require.Equal(t, want, first, age)
	}

	a := j.giveUp(after(20*time.Second), f)
	require.Equal(t, span{5, 6}, a.lost)
	require.Equal(t, []uint64{7, 9}, firsts(a.ready))
	require.EqualValues(t, 9, f.reach("b"))
}

// An answer has no room for all: a feed that got something comes after those that got nothing.
func TestFeedsTakeTurnsInWhatANeighbourIsAskedFor(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	e := chain(1, 1, 1, 1)
	var feeds []*Feed
	for i, name := range []string{"alice", "bob", "carol"} {
		f := j.open(epoch, entry(name, name, 1, byte(i+1), true))
		j.take(epoch, "b", f, e[0])
		j.claim(epoch, "b", f.tag, 4, 0, false)
		feeds = append(feeds, f)
	}
	pulls, _ := j.ask(after(time.Minute), "b")
	require.Len(t, pulls, 1)
	require.Same(t, feeds[0], pulls[0].wants[0].feed)
	j.take(after(time.Minute), "b", feeds[0], e[1])
	j.answered(after(time.Minute), pulls[0], Outcome{more: true})
	require.Equal(t, []*Feed{feeds[1], feeds[2], feeds[0]}, slices.Collect(j.lacking.all()))
}

func TestASourceThatCouldNotHelpGivesWayToAnother(t *testing.T) {
	var p repair
	for i := range maxSources {
		p.source(peer.ID(fmt.Sprint(i)), 9)
	}
	p.source("late", 9)
	require.NotContains(t, p.sources, peer.ID("late"), "there are enough")
	p.try("3", lacks)
	p.source("late", 9)
	require.Contains(t, p.sources, peer.ID("late"))
	require.NotContains(t, p.sources, peer.ID("3"))
	require.Len(t, p.sources, maxSources)
}
