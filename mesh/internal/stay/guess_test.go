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

// guessed returns a stay in which the feed of "author" has begun at item 4 with a guess, after the
// word of "b", and has got to item 5. "c" is a neighbour as well.
func guessed(t *testing.T, world World) (*Stay, *Feed, time.Time) {
	st, _ := begunStay(t, epoch, world)
	st.Begin(epoch)
	for i, u := range []string{"b", "c"} {
		st.apply(epoch, entry("user "+u, u, 100, byte(i+2), true))
		st.Subscribed(epoch, peer.ID(u))
	}
	now := epoch.Add(time.Minute)
	who := entry("user a", "author", 100, 9, true)
	tag := who.Tag()
	require.NoError(t, st.HearHeads(now, "b", positions(st,
		&wire.Position{Feed: tag[:], Last: 5, First: 4, Unsure: true},
		&wire.Position{Feed: []byte("invented by b..."), Last: 5, First: 4, Unsure: true})))
	now = now.Add(BaselineWait + 2*sureWait)
	st.Tick(now)
	f := st.journal.feeds[tag]
	require.EqualValues(t, 4, f.floor)
	require.False(t, st.journal.doubts(), "nobody knows whose they are, or whether they exist")
	st.apply(now, who)
	require.True(t, st.journal.doubts())
	e := chain(1, 1, 1, 1, 1)[3:]
	for i := range e {
		e[i].tag, e[i].how, e[i].came = f.tag, Repaired, now
		_, v := st.journal.take(now, "b", f, e[i])
		require.Equal(t, taken, v)
	}
	require.EqualValues(t, 6, f.next)
	now = now.Add(time.Second)
	st.announce(now)
	return st, f, now
}

// positions returns heads that answer a question of a stay.
func positions(st *Stay, list ...*wire.Position) *wire.RoomFrame_Heads {
	return &wire.RoomFrame_Heads{Feeds: list, Answers: st.journal.self[:]}
}

// A neighbour that has got as far may have begun earlier. Its digest of heads does not show it.
func TestANeighbourThatMentionsAFeedThatBeganWithAGuessIsAskedWhereItBegins(t *testing.T) {
	world := new(askedWorld)
	st, f, now := guessed(t, world)
	mention := func() {
		world.asked = nil
		require.NoError(t, st.HearHeads(now, "c", positions(st, &wire.Position{Feed: f.tag[:], Last: 5})))
		st.inquiries(now)
	}
	says := func(first uint64, unsure bool) {
		require.NoError(t, st.HearHeads(now, "c", positions(st, &wire.Position{Feed: f.tag[:], Last: 5, First: first, Unsure: unsure})))
	}
	again := func(wait time.Duration) {
		t.Helper()
		mention()
		require.Empty(t, world.asked, "it has just been asked")
		now = now.Add(wait)
		st.inquiries(now)
		require.Equal(t, []question{{"c", false}}, world.asked, "it may have learned more since")
	}
	mention()
	require.Equal(t, []question{{"c", false}}, world.asked)
	again(compareEvery)

	require.False(t, st.journal.moved.has(f))
	says(3, true)
	require.Equal(t, [][2]uint64{{3, 3}}, world.lost)
	require.True(t, st.journal.moved.has(f), "neighbours may have made the same guess")
	again(compareEvery)

	now = now.Add(doubtTime)
	mention()
	require.Equal(t, []question{{"c", false}}, world.asked)
	again(doubtTime)

	says(2, true)
	require.Equal(t, [][2]uint64{{3, 3}, {2, 2}}, world.lost)
	now = now.Add(doubtTime)
	mention()
	require.Empty(t, world.asked, "there is no earlier message")
}

func TestAGuessIsAskedAboutUntilSomebodyIsSureOrNobodyKnows(t *testing.T) {
	for _, sure := range []bool{false, true} {
		world := new(askedWorld)
		st, f, now := guessed(t, world)
		asks := func(heads bool) {
			t.Helper()
			world.asked = nil
			st.greet(now, "c", compare)
			st.greet(now, "c", ask)
			require.Equal(t, []question{{"c", heads}, {"c", heads}}, world.asked)
		}
		asks(false)
		if sure {
			require.NoError(t, st.HearHeads(now, "c", positions(st, &wire.Position{Feed: f.tag[:], Last: 5, First: 4})))
		} else {
			now = f.guessedAt.Add(plenty.Age)
			st.journal.sweep(now)
			asks(false)
			now = now.Add(1)
			st.journal.sweep(now)
		}
		asks(true)
		require.Empty(t, world.lost)
	}
}

// Both have begun a feed with a guess. If neither ever showed its digest, each comparison would
// cause another one.
func TestWhoDoubtsABeginningComparesInTurnWithADigest(t *testing.T) {
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

// When this node missed what the guess has skipped, it cannot say when that was published.
func TestWhatAGuessHasSkippedMayBeForThoseWhoJoinedLaterToo(t *testing.T) {
	for _, skips := range []bool{false, true} {
		j := newJournal(FeedTag{}, plenty)
		j.since = epoch
		j.becomeReady(epoch)
		f := j.open(epoch, entry("user a", "author", 100, 9, true))
		j.claim(epoch, "b", f.tag, 5, 4, false)
		now, _ := j.expireUntil(t, epoch, f.begun)
		e := chain(1, 1, 1, 1, 1)[3:]
		for i := range e {
			e[i].tag, e[i].how, e[i].came = f.tag, Repaired, now.Add(time.Duration(i)*time.Second)
			j.take(e[i].came, "b", f, e[i])
		}
		if skips {
			require.Equal(t, span{2, 3}, j.claim(now, "c", f.tag, 5, 2, true).lost)
		} else {
			j.claim(now, "c", f.tag, 5, 4, true)
		}
		now = now.Add(time.Second)
		says := func(joined time.Time, first uint64, sure bool) {
			t.Helper()
			gotFirst, gotSure := j.firsts(now, now.Sub(joined), 0)(f)
			require.EqualValues(t, first, gotFirst)
			require.Equal(t, sure, gotSure)
		}
		if before, joined := epoch.Add(-1), epoch.Add(time.Millisecond); skips {
			says(before, 2, false)
			says(joined, 2, false)
		} else {
			says(before, 4, false)
			says(joined, 4, true)
		}
		says(e[1].came, 5, true)
		says(now.Add(time.Second), 6, true)
	}
}
