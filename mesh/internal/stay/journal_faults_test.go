package stay

import (
	"errors"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// bobs returns a journal that has begun, with bob's feed in it.
func bobs(limits Retention) (*journal, *Feed) {
	j := newJournal(FeedTag{}, limits)
	j.becomeReady(epoch)
	return j, j.open(epoch, entry("bob", "b", 1, 1, true))
}

// takeAll makes the journal take envelopes one at a time.
func (j *journal) takeAll(now time.Time, f *Feed, list ...*Envelope) {
	for _, e := range list {
		e.came, e.tag, e.sealed = now, f.tag, []byte{byte(e.First)}
		j.take(now, "b", f, e)
	}
}

func TestTheLatestOfAFeedIsKeptHoweverOldItIs(t *testing.T) {
	j, f := bobs(Retention{Messages: 100, Bytes: 100, Age: time.Minute})
	e := chain(1, 1, 1)
	j.takeAll(epoch, f, e[:2]...)
	now := after(time.Hour)
	e[2].sealed, e[2].came = []byte{3}, epoch
	_, v := j.take(now, "b", f, e[2])
	require.Equal(t, taken, v)
	j.expire(now)
	list, gone, _ := j.answer(f.tag, span{1, 3}, 100)
	require.EqualValues(t, 2, gone)
	require.Len(t, list, 1, "it proves to others how far the feed has got")
	require.EqualValues(t, 3, list[0].First)
}

func TestWhoAsksHearsOfALossThatThisNodeHadAsWell(t *testing.T) {
	j, f := bobs(plenty)
	j.claim(epoch, "c", f.tag, 5, 1, true)
	e := chain(4, 1)
	j.takeAll(epoch, f, e[1])
	j.becomeReady(epoch)
	require.Equal(t, span{2, 4}, j.giveUp(after(time.Second), f).lost, "item 1 is the entry, which is known")
	begins := func(now time.Time, age time.Duration) uint64 {
		first, _ := j.firsts(now, age, 0)(f)
		return first
	}
	require.EqualValues(t, 4, begins(after(time.Second), time.Hour), "at least this one is lost for whoever was there")
	require.EqualValues(t, 6, begins(after(time.Hour), time.Second), "but not for who has come since")
}

func TestWhoDoesNotAnswerIsAskedAgain(t *testing.T) {
	j, f := bobs(plenty)
	near := []peer.ID{"c"}
	j.claim(epoch, "c", f.tag, 5, 1, true)
	j.becomeReady(epoch)
	now, asked := epoch, 0
	for range 1000 {
		due := j.due()
		if due.IsZero() {
			break
		}
		now = due
		pulls, lost := j.plan(now, near, near, false, false)
		require.Empty(t, lost)
		for _, p := range pulls {
			asked++
			j.answered(now, p, Outcome{Err: errors.New("timeout")})
		}
	}
	require.Equal(t, 1+maxAgain, asked, "and then it has to say again that it has something")
	require.Less(t, now.Sub(epoch), digestEvery)
	j.claim(now, "c", f.tag, 5, 0, true)
	pulls, _ := j.plan(after(time.Hour), near, near, false, false)
	require.Len(t, pulls, 1)
}

func TestTheDigestCountsAFeedFromWhenItsMemberIsKnown(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	bob := entry("bob", "b", 1, 1, true)
	j.resume = map[FeedTag]uint64{bob.Tag(): 7}
	j.claim(epoch, "c", bob.Tag(), 9, 0, true)
	without := j.sum()
	j.open(epoch, bob)
	require.NotEqual(t, without, j.sum())
}

// The timer would spin for as long as the goodbye waits.
func TestTheGraceOfAMemberThatOthersSayHasLeftIsNotWaitedFor(t *testing.T) {
	const grace = 10 * time.Second
	r := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "a", grace)
	s, _ := r.apply(epoch, entry("bob", "b", 1, 1, true))
	s.feed.next = 1
	r.lost(epoch, "b")
	now := after(grace - time.Second)
	r.hearsay(now, entry("bob", "b", 2, 1, false), time.Time{})
	require.Equal(t, now.Add(lostWait), r.due())
	require.Empty(t, r.expire(after(grace)))
	require.Len(t, r.expire(r.due()), 1)
}
