package stay

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

// askedWorld is a world that notes what is lost, and the questions in greetings.
type askedWorld struct {
	losses
	asked []question
}

type question struct {
	to    peer.ID
	heads bool // it has a digest of heads
}

func (w *askedWorld) Tell(p peer.ID, f *wire.RoomFrame) {
	if g := f.GetGreeting(); g != nil && g.Reply {
		w.asked = append(w.asked, question{p, len(g.Heads) > 0})
	}
}

// guessed returns a stay in which the feed of "author" has begun at item 3 with a guess, after the
// word of "b", and has got to item 4. "c" is a neighbour as well.
func guessed(t *testing.T, world World) (*Stay, *Feed, time.Time) {
	st, _ := begunStay(t, epoch, world)
	st.Begin(epoch)
	for i, u := range []string{"b", "c"} {
		st.apply(epoch, entry("user "+u, u, 100, byte(i+2), true))
		st.Subscribed(epoch, peer.ID(u))
	}
	now := epoch.Add(time.Minute)
	st.apply(now, entry("user a", "author", 100, 9, true))
	f := st.roster.devices["author"].feed
	require.NoError(t, st.HearHeads(now, "b", positions(&wire.Position{Feed: f.tag[:], Last: 4, First: 3, Unsure: true})))
	now = now.Add(BaselineWait + 2*sureWait)
	st.Tick(now)
	require.EqualValues(t, 3, f.floor)
	require.True(t, f.guessed)
	e := chain(1, 1, 1, 1)[2:]
	for i := range e {
		e[i].tag, e[i].how, e[i].came = f.tag, Repaired, now
		_, v := st.journal.take(now, "b", f, e[i])
		require.Equal(t, taken, v)
	}
	require.EqualValues(t, 5, f.next)
	return st, f, now.Add(time.Second)
}

func positions(list ...*wire.Position) *wire.RoomFrame_Heads {
	return &wire.RoomFrame_Heads{Feeds: list}
}

// A neighbour that has got as far may have begun earlier. Its digest of heads does not show it.
func TestANeighbourThatMentionsAFeedThatBeganWithAGuessIsAskedWhereItBegins(t *testing.T) {
	world := new(askedWorld)
	st, f, now := guessed(t, world)
	mention := func() {
		world.asked = nil
		require.NoError(t, st.HearHeads(now, "c", positions(&wire.Position{Feed: f.tag[:], Last: 4})))
		st.inquiries(now)
	}
	mention()
	require.Equal(t, []question{{"c", false}}, world.asked)
	mention()
	require.Empty(t, world.asked, "it has just been asked")
	now = now.Add(compareEvery)
	st.inquiries(now)
	require.Equal(t, []question{{"c", false}}, world.asked, "it may have learned more since")

	require.NoError(t, st.HearHeads(now, "c", positions(&wire.Position{Feed: f.tag[:], Last: 4, First: 2, Unsure: true})))
	require.Equal(t, [][2]uint64{{2, 2}}, world.lost)
	require.True(t, st.journal.moved.has(f), "neighbours may have made the same guess")
	now = now.Add(compareEvery)
	mention()
	require.Equal(t, []question{{"c", false}}, world.asked, "nobody is sure yet")

	now = now.Add(compareEvery)
	require.NoError(t, st.HearHeads(now, "c", positions(&wire.Position{Feed: f.tag[:], Last: 4, First: 2})))
	require.Equal(t, [][2]uint64{{2, 2}}, world.lost)
	mention()
	require.Empty(t, world.asked, "it was sure")
	st.greet(now, "c", compare)
	require.Equal(t, []question{{"c", true}}, world.asked)
}

func TestAGuessIsAskedAboutForAsLongAsAnybodyMayKnowBetter(t *testing.T) {
	world := new(askedWorld)
	st, f, now := guessed(t, world)
	now, world.asked = now.Add(doubtTime), nil
	require.NoError(t, st.HearHeads(now, "c", positions(&wire.Position{Feed: f.tag[:], Last: 4})))
	st.inquiries(now)
	require.Empty(t, world.asked, "those that were fetching have it, or have given it up")
	asks := func(heads bool) {
		t.Helper()
		world.asked = nil
		st.greet(now, "c", compare)
		st.greet(now, "c", ask)
		require.Equal(t, []question{{"c", heads}, {"c", heads}}, world.asked)
	}
	asks(false)
	now = now.Add(plenty.Age)
	st.journal.sweep(now)
	asks(true)
}

// Both have begun a feed with a guess, so neither shows a digest when it asks.
func TestTwoThatDoubtTheirBeginningsDoNotAskEachOtherInTurn(t *testing.T) {
	world := new(askedWorld)
	st, _, now := guessed(t, world)
	world.asked = nil
	hear := func(heads []byte) {
		now = now.Add(compareEvery)
		st.HearGreeting(now, "c", &wire.RoomFrame_Greeting{Digest: st.roster.sum(), Heads: heads, Reply: true, Compare: true}, st.roster.devices["c"].entry)
	}
	hear(nil)
	require.Equal(t, []question{{"c", true}}, world.asked, "it may have got further")
	hear(st.journal.sum())
	require.Len(t, world.asked, 1)
}

// A feed in which the guess has skipped something begins here later than it may for others.
func TestANodeThatHasSkippedItemsIsNotSureWhereAFeedBeginsForOthers(t *testing.T) {
	for _, skips := range []bool{false, true} {
		j := newJournal(FeedTag{}, plenty)
		j.since = epoch
		j.becomeReady(epoch)
		f := j.open(epoch, entry("user a", "author", 100, 9, true))
		j.claim(epoch, "b", f.tag, 4, 3, false)
		now, _ := j.expireUntil(t, epoch, f.begun)
		e := chain(1, 1, 1, 1)[2:]
		for i := range e {
			e[i].tag, e[i].how, e[i].came = f.tag, Repaired, now
			j.take(now, "b", f, e[i])
		}
		if skips {
			require.Equal(t, span{2, 2}, j.claim(now, "c", f.tag, 4, 2, true).lost)
		} else {
			j.claim(now, "c", f.tag, 4, 3, true)
		}
		first, sure := j.firsts(now, now.Sub(epoch)-time.Second, 0)(f)
		require.EqualValues(t, 3, first)
		require.Equal(t, !skips, sure, "what was skipped may be for who joined a second later")
	}
}

// The gap before what is held was known; that it begins earlier is news.
func TestAGapThatTurnsOutToBeLongerIsWaitedForAnew(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	f := j.open(epoch, entry("user a", "author", 100, 9, true))
	e := chain(1, 1, 1, 1, 1)
	e[4].tag, e[4].how, e[4].came = f.tag, Repaired, epoch
	j.take(epoch, "b", f, e[4])
	j.claim(epoch, "b", f.tag, 5, 4, false)
	now, _ := j.expireUntil(t, epoch, f.begun)
	require.True(t, f.proven())
	now = now.Add(lostWait - time.Second)
	require.Zero(t, j.claim(now, "c", f.tag, 5, 2, true).lost)
	require.EqualValues(t, 2, f.next)
	require.Equal(t, now, f.gapSince)
}
