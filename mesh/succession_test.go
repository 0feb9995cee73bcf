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
		brings time.Duration // when one says that it has more of the earlier stay
		begins time.Duration
	}{
		"nobody was met":                  {0, false, never, 0},
		"the earlier stay has ended":      {meetWait, true, never, 0},
		"those who were met have no more": {meetWait, false, never, meetWait},
		"others are met all the time":     {never, false, never, 2 * meetWait},
		"one has more":                    {meetWait, false, meetWait / 2, lackWait},
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
			j.claim(now, "author", later.tag, 2, 1, true)
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
	any := func(now time.Time, but peer.ID) bool {
		return ps.lately(now, func(p peer.ID) bool { return p != but })
	}
	ps.left(epoch, "a")
	ps.left(epoch, "b")
	require.True(t, any(after(apartWait-1), "a"))
	require.False(t, any(after(apartWait), ""))
	ps.back(after(time.Minute), "c")
	require.False(t, any(after(time.Minute), ""), "one that was never away says nothing of the others")
	ps.back(after(time.Minute), "a")
	require.True(t, any(after(time.Minute), ""), "b may come back as well")
	require.False(t, any(after(time.Minute), "b"))
	require.False(t, any(after(time.Minute+apartWait), ""))

	ps.left(after(time.Minute+partedFor), "d")
	require.NotContains(t, ps, peer.ID("b"), "it is forgotten")
	for i := range 2 * maxParted {
		ps.left(after(time.Hour), peer.ID(fmt.Sprint(i)))
	}
	require.Len(t, ps, maxParted)
}
