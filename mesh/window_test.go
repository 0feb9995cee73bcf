package mesh

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

const ms = time.Millisecond

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
	require.Equal(t, windowStallAll, f.wait())
	f.now = f.now.Add(100 * ms)
	require.Equal(t, windowStallAll-100*ms, f.wait())
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
	require.Equal(t, windowStallAll, f.wait())
}

func TestWindowsLearnOfWhatNeighboursHave(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		const n = 10 * ackEvery
		for range n {
			_, err := rooms[0].PublishText(t.Context(), "x")
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		under := func() map[peer.ID]uint64 {
			r := rooms[0]
			r.mu.Lock()
			defer r.mu.Unlock()
			u := make(map[peer.ID]uint64)
			for p, pw := range r.stay.window.peers {
				u[p] = r.stay.window.sum - pw.sum
			}
			return u
		}
		u := under()
		require.Len(t, u, 2)
		for p, n := range u {
			require.Less(t, n, uint64(ackEvery), "under way to %s", p)
		}
		require.NoError(t, rooms[1].Leave(t.Context()))
		time.Sleep(time.Second)
		require.Len(t, under(), 1, "after one has left")
	})
}

func TestAPublisherIsNotFasterThanItsReceivers(t *testing.T) {
	alice, bob := tcpPair(t)
	rooms := make([]*Room, 2)
	for i, s := range []*station{alice, bob} {
		r, err := s.Join(t.Context(), "ops")
		require.NoError(t, err)
		rooms[i] = r
	}
	require.NoError(t, rooms[0].WaitPeers(t.Context(), 1))
	for known := false; !known; { // bob has confirmed something
		_, err := rooms[0].PublishText(t.Context(), "x")
		require.NoError(t, err)
		rooms[0].mu.Lock()
		known = len(rooms[0].stay.window.peers) > 0
		rooms[0].mu.Unlock()
	}
	rooms[1].mu.Lock() // bob takes nothing
	before, start := alice.Stats().EnvelopesPublished, time.Now()
	go func() {
		data := make([]byte, MaxMessage)
		for range 500 {
			if _, err := rooms[0].PublishAsync(t.Context(), data); err != nil {
				return
			}
		}
	}()
	for {
		time.Sleep(10 * time.Millisecond)
		n := alice.Stats().EnvelopesPublished - before
		if time.Since(start) > windowStallAll/2 {
			break // nothing can be said about later
		}
		rooms[0].mu.Lock()
		limit := rooms[0].stay.window.peers[bob.host.ID()].limit
		rooms[0].mu.Unlock()
		if n > limit {
			t.Errorf("%d envelopes published to a neighbour that takes none, want %d at most", n, limit)
			break
		}
	}
	rooms[1].mu.Unlock()
}
