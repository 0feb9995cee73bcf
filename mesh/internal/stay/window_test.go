package stay

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// feedTo is a window and its clock: envelopes of ten items each.
type feedTo struct {
	window
	now time.Time
	n   uint64
}

func (f *feedTo) publish(n int) {
	for range n {
		f.n++
		f.published(f.now, 10*f.n)
	}
}

func (f *feedTo) confirm(p peer.ID, n uint64) bool { return f.confirmed(f.now, p, 10*n) }

func (f *feedTo) wait() time.Duration { return f.blocked(f.now) }

func newFeedTo() *feedTo { return &feedTo{now: time.Unix(1e9, 0)} }

func TestNobodyWaitsForNeighboursThatNeverConfirm(t *testing.T) {
	f := newFeedTo()
	f.publish(3 * maxMarks)
	require.Zero(t, f.wait())
	require.LessOrEqual(t, len(f.marks), maxMarks, "what is remembered")
	require.True(t, f.confirm("a", f.n), "the latest is remembered")
}

func TestAPublisherWaitsAtTheWindowUntilItIsConfirmed(t *testing.T) {
	f := newFeedTo()
	f.publish(1)
	require.True(t, f.confirm("a", 1))
	f.publish(minWindow)
	require.Zero(t, f.wait(), "a confirmation within the best time has widened the window by one")
	f.publish(1)
	require.Equal(t, WindowStallAll, f.wait())
	f.now = f.now.Add(100 * ms)
	require.Equal(t, WindowStallAll-100*ms, f.wait())
	require.True(t, f.confirm("a", 3))
	require.Zero(t, f.wait())
}

func TestConfirmationsCountOnceAndOnlyForwards(t *testing.T) {
	f := newFeedTo()
	f.publish(5)
	require.False(t, f.confirmed(f.now, "a", 15), "no envelope ends there")
	require.False(t, f.confirmed(f.now, "a", 1<<63), "not published yet")
	require.True(t, f.confirm("a", 1))
	require.True(t, f.confirm("b", 3))
	require.False(t, f.confirm("b", 3))
	require.False(t, f.confirm("b", 2))
	require.False(t, f.confirm("b", 1), "confirmed by all")
	require.True(t, f.confirm("b", 5))
}

func TestTheWindowGrowsWhileConfirmationsComeSoonAndShrinksWhenTheyWait(t *testing.T) {
	f := newFeedTo()
	round := func(took time.Duration) {
		f.publish(1)
		f.now = f.now.Add(took)
		require.True(t, f.confirm("a", f.n))
	}
	round(50 * ms)
	for range 100 {
		round(55 * ms)
	}
	require.EqualValues(t, minWindow+101, f.peers["a"].limit)
	for range 1000 {
		round(55 * ms)
	}
	require.EqualValues(t, maxWindow, f.peers["a"].limit)
	round(80 * ms)
	require.EqualValues(t, maxWindow*3/4, f.peers["a"].limit)
	for range 100 {
		round(80 * ms)
	}
	require.EqualValues(t, minWindow, f.peers["a"].limit)
}

func TestOneSilentNeighbourHoldsTheOthersUpForAMoment(t *testing.T) {
	f := newFeedTo()
	f.publish(1)
	f.confirm("a", 1)
	f.confirm("b", 1)
	f.publish(minWindow + 1)
	f.now = f.now.Add(10 * ms)
	f.confirm("b", f.n)
	require.Equal(t, windowStall-10*ms, f.wait())
	f.now = f.now.Add(windowStall)
	require.Zero(t, f.wait())
	f.publish(10)
	f.confirm("b", f.n)
	require.Zero(t, f.wait(), "still silent")
	f.confirm("a", 5)
	require.NotZero(t, f.wait(), "it takes again")
	f.forget("a")
	require.Zero(t, f.wait())
}

func TestSilenceBeginsWithWhatIsNotConfirmed(t *testing.T) {
	f := newFeedTo()
	f.publish(1)
	f.confirm("a", 1)
	f.now = f.now.Add(time.Hour) // the room is quiet
	f.publish(minWindow + 1)
	require.Equal(t, WindowStallAll, f.wait())
}
