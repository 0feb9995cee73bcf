package mesh

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/starling-mesh/starling/mesh/internal/stay"
	"github.com/stretchr/testify/require"
)

func TestWindowsLearnOfWhatNeighboursHave(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		const n = 10 * stay.AckEvery
		for range n {
			_, err := rooms[0].PublishText(t.Context(), "x")
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		under := func() map[peer.ID]uint64 {
			u := make(map[peer.ID]uint64)
			for p, w := range rooms[0].inside().Windows {
				u[p] = w.UnderWay
			}
			return u
		}
		u := under()
		require.Len(t, u, 2)
		for p, n := range u {
			require.Less(t, n, uint64(stay.AckEvery), "under way to %s", p)
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
		known = len(rooms[0].inside().Windows) > 0
	}
	rooms[1].mu.Lock() // bob takes nothing
	before, start := alice.Stats().EnvelopesPublished, time.Now()
	go func() {
		data := make([]byte, MaxMessage)
		for range 500 {
			if _, err := rooms[0].PublishAsync(t.Context(), data, WithWaiting()); err != nil {
				return
			}
		}
	}()
	for {
		time.Sleep(10 * time.Millisecond)
		n := alice.Stats().EnvelopesPublished - before
		if time.Since(start) > stay.WindowStallAll/2 {
			break // nothing can be said about later
		}
		limit := rooms[0].inside().Windows[bob.host.ID()].Limit
		if n > limit {
			t.Errorf("%d envelopes published to a neighbour that takes none, want %d at most", n, limit)
			break
		}
	}
	rooms[1].mu.Unlock()
}
