package stay

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func TestAQuestionThatWasLateIsKnownByItsAnswer(t *testing.T) {
	const ready = 20 * time.Millisecond
	for _, c := range []struct {
		name                string
		past                Past
		joined, slack, took time.Duration
		want                time.Duration
	}{
		{"within what was allowed for", Past{}, time.Minute, 50 * time.Millisecond, 40 * time.Millisecond, 0},
		{"later than that", Past{}, time.Minute, 50 * time.Millisecond, 250 * time.Millisecond, 200 * time.Millisecond},
		{"of who wants some of the past", Past{Age: time.Hour}, time.Minute, 50 * time.Millisecond, time.Second, 950 * time.Millisecond},
		{"of a newcomer, answered before it was ready", Past{}, 10 * time.Millisecond, 0, 10 * time.Millisecond, 0},
		{"of a newcomer, asked before it was ready", Past{}, 10 * time.Millisecond, 0, 5 * time.Second, 4980 * time.Millisecond},
		{"of who wants everything", Past{All: true}, time.Minute, 0, time.Second, 0},
	} {
		asked, _ := pastAsked(c.past.ask(c.joined, c.slack))
		require.Equal(t, c.want, c.past.late(asked, c.joined+c.took, ready), c.name)
	}
	asked, _ := pastAsked((Past{}).ask(math.MaxInt64/2, maxTransitSlack))
	require.Positive(t, asked)
}

// First a member that joined later than this one says where a feed begins, and then one that was
// there.
func TestABeginningThatNobodyWasSureOfIsRegretted(t *testing.T) {
	e := chain(1, 3, 2, 2)
	begun := func(first uint64, sure bool) (*journal, *Feed) {
		j := newJournal(FeedTag{}, plenty)
		j.becomeReady(epoch)
		f := j.open(epoch, entry("alice", "a", 1, 1, true))
		j.claim(epoch, "late", f.tag, 6, first, sure)
		return j, f
	}
	j, f := begun(5, false)
	require.Equal(t, after(BaselineWait+sureWait), f.baselineDue(), "somebody may be sure")
	j.expire(after(BaselineWait + sureWait))
	ready, _ := j.take(after(4*time.Second), "late", f, e[2])
	require.Len(t, ready, 1)
	require.Zero(t, j.claim(after(5*time.Second), "empty", f.tag, 3, 4, false), "it has nothing, and is not sure")
	a := j.claim(after(5*time.Second), "other", f.tag, 8, 3, false)
	require.Equal(t, span{3, 4}, a.lost, "it has that, sure or not")
	require.Zero(t, j.claim(after(5*time.Second), "other", f.tag, 9, 3, false), "once")
	j.since = epoch
	first, sure := j.firsts(after(5*time.Second), 6*time.Second, 0)(f)
	require.EqualValues(t, 3, first, "others hear of it")
	require.False(t, sure)
	first, _ = j.firsts(after(5*time.Second), 2*time.Second, 0)(f)
	require.Greater(t, first, uint64(4), "unless their time began later")
	a = j.claim(after(5*time.Second), "there", f.tag, 8, 1, true)
	require.Equal(t, span{2, 2}, a.lost, "item 1 is the entry, which is known")
	require.Zero(t, j.claim(after(6*time.Second), "there", f.tag, 8, 1, true), "once")

	j, f = begun(5, false)
	j.claim(epoch, "there", f.tag, 6, 2, true)
	require.Equal(t, after(BaselineWait), f.baselineDue())
	j.expire(after(BaselineWait))
	require.EqualValues(t, 2, f.next, "who is sure counts, also if others say something later")

	j, f = begun(5, true)
	j.expire(after(BaselineWait))
	j.take(after(time.Second), "late", f, e[2])
	require.Zero(t, j.claim(after(2*time.Second), "there", f.tag, 8, 1, true), "somebody was sure")

	j, f = begun(5, false)
	a = j.claim(epoch, "a", f.tag, 6, 2, true)
	require.Equal(t, f, a.feed, "the author's word needs no waiting")
	require.EqualValues(t, 2, f.next)
}

// A member that has been told that something is lost must not get it afterwards.
func TestABeginningThatNobodyWasSureOfIsCorrectedBeforeItIsRegretted(t *testing.T) {
	e := chain(1, 3, 2, 2)
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	f := j.open(epoch, entry("alice", "a", 1, 1, true))
	j.claim(epoch, "late", f.tag, 8, 5, false)
	j.expire(after(BaselineWait + sureWait))
	require.EqualValues(t, 5, f.next, "a guess")
	require.Zero(t, j.claim(after(4*time.Second), "behind", f.tag, 1, 2, true), "it is sure, and has nothing yet")
	require.EqualValues(t, 5, f.next, "it may only lag: what it lacks need not be for this node")
	require.Zero(t, j.claim(after(4*time.Second), "a", f.tag, 8, 1, true))
	ready, _ := j.take(after(5*time.Second), "a", f, e[0])
	require.Len(t, ready, 1)
	ready, _ = j.take(after(5*time.Second), "a", f, e[1])
	require.Len(t, ready, 1)
}

func TestWhatIsSurelyFromBeforeIsPassedOver(t *testing.T) {
	e := chain(1, 3, 2, 2)
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	f := j.open(epoch, entry("alice", "a", 1, 1, true))
	j.claim(epoch, "a", f.tag, 8, 2, true)
	require.EqualValues(t, 2, f.next)
	alice := &seat{feed: f} // her envelopes from before that are not wanted either
	sent := func(at time.Time) *Envelope {
		e[1].SentMs = at.UnixMilli()
		return e[1]
	}
	since := after(5 * time.Second)
	require.False(t, j.unwanted(f, sent(epoch), since, alice), "nothing is known of alice's clock")
	require.False(t, j.unwanted(f, sent(epoch), since, nil), "nor of alice")

	ahead := time.Hour // her clock
	alice.transit.late(after(ahead+6*time.Second), after(6*time.Second+50*time.Millisecond))
	alice.transit.late(after(ahead+7*time.Second), after(7*time.Second+900*time.Millisecond))
	require.True(t, j.unwanted(f, sent(after(ahead+4940*time.Millisecond)), since, alice))
	require.False(t, j.unwanted(f, sent(after(ahead+4950*time.Millisecond)), since, alice), "her fastest took 50 ms: this may be the moment itself")
	require.False(t, j.unwanted(f, sent(after(ahead)), Past{All: true}.since(since), alice))
	require.True(t, j.unwanted(f, sent(after(ahead)), Past{Age: 4 * time.Second}.since(since), alice))
	require.False(t, j.unwanted(f, sent(after(ahead)), Past{Age: 5 * time.Second}.since(since), alice))

	j.resume = map[FeedTag]uint64{f.tag: 1}
	require.False(t, j.unwanted(f, sent(after(ahead)), since, alice), "a reader goes on where it was")
	j.resume = nil
	_, v := j.skip(after(8*time.Second), f, e[1])
	require.Equal(t, taken, v)
	require.Equal(t, e[1].Next(), f.next)
	ready, _ := j.take(after(8*time.Second), "b", f, e[2])
	require.Len(t, ready, 1, "the rest follows, and nothing is told as lost")
	require.False(t, j.unwanted(f, e[3], since, alice), "nor passed over from then on")
}

// The neighbour has had the item late, takes it for younger than it is, and says that it is for
// this node. But it knows the author's clock.
func TestWhoSaysThatSomethingOldIsForThisNodeIsJudgedByItsWordOfTheClock(t *testing.T) {
	const way = 60 * time.Millisecond
	since, now := after(10*time.Second), after(11*time.Second)
	shows := func(alice *seat, by peer.ID) {
		alice.clocks.hear(now, alice.Peer, by, uint64(now.Add(-way).UnixMilli())) // it was on its way for so long
	}
	for _, c := range []struct {
		name       string
		claim      string // by whom
		words      []peer.ID
		old, young bool
	}{
		{"nobody knows her clock", "b", nil, false, false},
		{"another neighbour does: it may lie", "b", []peer.ID{"c"}, false, false},
		{"the neighbour does", "b", []peer.ID{"b"}, true, false},
		{"both do", "b", []peer.ID{"c", "b"}, true, false},
		{"the neighbour does, and another that does not is as sure", "b d", []peer.ID{"b"}, false, false},
		{"she says so herself", "a", []peer.ID{"a"}, false, false},
	} {
		e := chain(1, 3, 2, 2)
		j := newJournal(FeedTag{}, plenty)
		j.becomeReady(since)
		f := j.open(since, entry("alice", "a", 1, 1, true))
		alice := &seat{feed: f}
		alice.Peer = "a"
		for _, by := range c.words {
			shows(alice, by)
		}
		j.early = func(f *Feed, e *Envelope) bool { return j.unwanted(f, e, since, alice) }
		for i := range e {
			e[i].SentMs, e[i].came = since.Add(time.Duration(i-2)*time.Second).UnixMilli(), now
		}
		for _, by := range strings.Fields(c.claim) {
			j.claim(now, peer.ID(by), f.tag, 8, 2, true)
		}
		require.Equal(t, c.old, j.early(f, e[1]), c.name)
		require.Equal(t, c.young, j.early(f, e[3]), c.name)
		if f.next == 0 {
			j.take(now, "c", f, e[1])
			due := j.expire(f.baselineDue())
			require.Len(t, due, 1, c.name)
			if c.old {
				require.Empty(t, due[0].ready, c.name)
				require.Equal(t, e[1].Next(), f.next, c.name)
			} else {
				require.Equal(t, []uint64{2}, firsts(due[0].ready), c.name)
			}
		}
	}
}
