package stay

import (
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// The last packets of a killed neighbour are often read after its connection has ended.
func TestAKilledOnlyNeighbourIsShownIn3SThoughItsLastEnvelopeIsReadLate(t *testing.T) {
	r := newRig(t)
	u1 := r.entry("u1", 1, true)
	r.meet(u1)
	r.Begin(r.now)
	r.Receive(r.now, u1.Statement.Peer, r.envelope(u1, 1), Gossiped)
	r.pass(10 * time.Second)
	r.w.cut()
	killed := r.now
	last := r.envelope(u1, 2, "last words")
	r.w.link = Apart
	r.Disconnected(r.now, u1.Statement.Peer)
	r.now = r.now.Add(ms)
	r.Receive(r.now, u1.Statement.Peer, last, Gossiped)
	took := make(map[string]time.Duration)
	for r.now.Sub(killed) < 15*time.Second {
		r.pass(10 * ms)
		for _, l := range r.w.cut() {
			took[l] = r.now.Sub(killed)
		}
	}
	t.Log(took)
	require.Contains(t, took, "?u1")
	require.LessOrEqual(t, took["?u1"], 3*time.Second)
	require.Less(t, took["u1:last words"], time.Second)
}

// A silent member whose goodbye is passed on has not been heard.
func TestAGoodbyeIsNotAReturn(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1)
	r.meet(u2)
	r.Begin(r.now)
	r.Receive(r.now, u1.Statement.Peer, r.envelope(u1, 1, "a"), Gossiped)
	r.pass(time.Second)
	r.w.cut()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(3 * time.Second)
	require.Equal(t, []string{"?u1"}, r.w.cut())
	r.roster_(u2.Statement.Peer, r.entry("u1", 1, false))
	r.pass(15 * time.Second)
	require.Equal(t, []string{"-u1 quit"}, r.w.cut())
}

// What was not told in a large room is not taken back in a small one, and what was is.
func TestSilenceAcrossALargeRoom(t *testing.T) {
	for name, largeFirst := range map[string]bool{"silent while large": true, "heard while large": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.Large = 4
			u1, u2, u3 := r.entry("u1", 1, true), r.entry("u2", 2, true), r.entry("u3", 3, true)
			r.meet(u1)
			r.meet(u2)
			r.Begin(r.now)
			if largeFirst {
				r.meet(u3)
			}
			r.pass(time.Second)
			r.w.cut()
			r.Disconnected(r.now, u1.Statement.Peer)
			r.pass(3 * time.Second)
			if !largeFirst {
				r.meet(u3)
				r.pass(ms * 100)
				r.meet(u1)
				r.pass(ms * 100)
			}
			r.apply(r.now, r.entry("u3", 3, false))
			r.pass(100 * ms)
			r.meet(u1)
			r.pass(time.Second)
			got := r.w.cut()
			count := func(l string) (n int) {
				for _, g := range got {
					if g == l {
						n++
					}
				}
				return n
			}
			require.Equal(t, count("?u1"), count("!u1"), "%q", got)
		})
	}
}

// A neighbour is heard just when it is about to be reported: pulses has noted that it was heard,
// and the stay learns of the silence afterwards. From then on it beats, and says nothing else.
func TestANeighbourThatIsHeardWhileItIsReportedIsNotShownAsSilentForLong(t *testing.T) {
	r := newRig(t)
	u1 := r.entry("u1", 1, true)
	r.meet(u1)
	r.Begin(r.now)
	r.w.spoke = func(peer.ID) time.Time { return r.now }
	r.pass(7 * time.Second)
	r.w.cut()
	r.Audible(r.now, u1.Statement.Peer)
	r.Hushed(r.now, u1.Statement.Peer)
	r.pass(time.Minute) // it beats all the time
	got := r.w.cut()
	require.False(t, slices.Contains(got, "?u1") && !slices.Contains(got, "!u1"), "%q", got)
}

// An old envelope that had to be fetched does not show that a frozen member is heard again.
func TestAnOldEnvelopeThatIsFetchedIsNoSignOfLife(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1)
	r.meet(u2)
	r.Begin(r.now)
	r.Receive(r.now, u1.Statement.Peer, r.envelope(u1, 1, "a"), Gossiped)
	r.pass(time.Second)
	old := r.envelope(u1, 3, "b")
	r.pass(7 * time.Second)
	r.w.cut()
	r.Hushed(r.now, u1.Statement.Peer)
	require.Equal(t, []string{"?u1"}, r.w.cut())
	r.pass(time.Second)
	r.Receive(r.now, u2.Statement.Peer, old, Repaired)
	r.pass(time.Second)
	require.Equal(t, []string{"u1:b"}, r.w.cut())
}

// A member answers accusations every 3 s at most: one that has just answered is given that time.
func TestAMemberThatHasJustAnsweredIsNotShownAsSilentSoon(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1, u2)
	r.settle()
	s := r.roster.devices[u2.Statement.Peer]
	r.apply(r.now, r.entry("u2", 2, true)) // its answer to another
	r.roster.suspect(r.now, s, u1.Statement.Peer)
	r.pass(r.roster.answerEvery() + r.roster.replyWait() - mindEvery)
	require.Empty(t, r.w.cut())
	r.pass(2 * mindEvery)
	require.Equal(t, []string{"?u2"}, r.w.cut())
}
