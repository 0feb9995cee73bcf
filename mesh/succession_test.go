package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// A member was killed and has come back. Its later stay begins at once, unless others that were
// just met may have more of the earlier one.
func TestALaterStayWaitsForWhatNeighboursJustMetMayHaveOfTheEarlierOne(t *testing.T) {
	const never = time.Hour
	for name, c := range map[string]struct {
		met    time.Duration // until when a neighbour counts as just met
		ended  bool          // the goodbye of the earlier stay has been delivered
		gossip bool          // the first item of the later stay comes by gossip, and nobody says anything
		brings time.Duration // when one says that it has more of the earlier stay
		begins time.Duration
	}{
		"nobody was met":                  {0, false, false, never, 0},
		"the earlier stay has ended":      {meetWait, true, false, never, 0},
		"those who were met have no more": {meetWait, false, false, never, meetWait},
		"others are met all the time":     {never, false, false, never, 2 * meetWait},
		"one has more":                    {meetWait, false, false, meetWait / 2, lackWait},
		"nobody was met, by gossip":       {0, false, true, never, 0},
		"no more, by gossip":              {meetWait, false, true, never, meetWait},
		"all the time, by gossip":         {never, false, true, never, 2 * meetWait},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJournal(feedTag{}, DefaultRetention)
			j.becomeReady(epoch)
			now := epoch
			j.meeting = func(at time.Time, about peer.ID) bool {
				require.Equal(t, peer.ID("author"), about)
				return at.Before(epoch.Add(c.met))
			}
			earlier := j.open(now, entry("u", "author", 1, 1, true))
			earlier.begin(1)
			earlier.ended = c.ended
			later := j.open(now, entry("u", "author", 2, 2, true))
			if c.gossip {
				first := chain(1)[0]
				first.tag = later.tag
				j.take(now, "other", later, first)
			} else {
				j.claim(now, "author", later.tag, 2, 1, true)
			}
			for later.next == 0 {
				require.Less(t, now.Sub(epoch), time.Minute)
				if now = now.Add(10 * time.Millisecond); now.Sub(epoch) == c.brings {
					j.claim(now, "other", earlier.tag, 3, 1, true)
				}
				j.expire(now)
			}
			took := now.Sub(epoch)
			require.GreaterOrEqual(t, took, c.begins)
			require.Less(t, took, max(c.begins, baselineWait)+2*busyWait)
		})
	}
}

func TestANeighbourIsPartedUntilItIsBackOrForLong(t *testing.T) {
	ps := make(parted)
	lately := func(now time.Time, but peer.ID) bool {
		return ps.lately(now, func(p peer.ID) bool { return p != but })
	}
	ps.left(epoch, "a")
	ps.left(epoch, "b")
	require.True(t, lately(after(apartWait-1), "a"))
	require.False(t, lately(after(apartWait), ""))
	ps.back(after(time.Minute), "c")
	require.False(t, lately(after(time.Minute), ""), "one that was never away says nothing of the others")
	ps.back(after(time.Minute), "a")
	require.True(t, lately(after(time.Minute), ""), "b may come back as well")
	require.False(t, lately(after(time.Minute), "b"))
	require.False(t, lately(after(time.Minute+apartWait), ""))

	ps.left(after(partedFor-1), "c")
	ps.back(after(partedFor), "c")
	require.NotContains(t, ps, peer.ID("b"), "it is forgotten, whoever comes back")
	for i := range 2 * maxParted {
		ps.left(after(time.Hour+time.Duration(i)), peer.ID(fmt.Sprint(i)))
	}
	require.Len(t, ps, maxParted)
	require.NotContains(t, ps, peer.ID("0"))
	require.Contains(t, ps, peer.ID(fmt.Sprint(2*maxParted-1)), "the latest are remembered")
}
