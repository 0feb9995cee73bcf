package stay

import (
	"os"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// cutWorld is a world whose neighbours say nothing and do not answer while they are cut off. Then
// they say that they will never have what is missing.
type cutWorld struct {
	deafWorld
	now   time.Time
	cut   bool
	pulls []Pull
	lost  []Lost
}

func (w *cutWorld) Pull(p Pull) { w.pulls = append(w.pulls, p) }

func (w *cutWorld) Spoke(peer.ID) time.Time {
	if w.cut {
		return time.Time{}
	}
	return w.now
}

func (w *cutWorld) Notice(n Notice) {
	if n, ok := n.(Lost); ok {
		w.lost = append(w.lost, n)
	}
}

// lacks2and3 returns a feed of which a stay has the items 1 and 4 from "a".
func lacks2and3(t *testing.T, st *Stay) *Feed {
	t.Helper()
	e := chain(1, 1, 1, 1)
	f := st.journal.open(epoch, entry("u", "author", 1, 1, true))
	for _, i := range []int{0, 3} {
		e[i].tag, e[i].came = f.tag, epoch
		st.journal.take(epoch, "a", f, e[i])
	}
	require.True(t, f.proven())
	return f
}

// A member that is cut off hears nothing of those that have what is missing. Its connections may
// seem to last, or end.
func TestTheTimeOfACutDoesNotCountForAGap(t *testing.T) {
	for name, end := range map[string]bool{"connections seem to last": false, "connections end": true} {
		t.Run(name, func(t *testing.T) {
			w := &cutWorld{now: epoch}
			st, _ := begunStay(t, epoch, w)
			st.Begin(epoch)
			near := []peer.ID{"a", "b"}
			for _, p := range near {
				st.Subscribed(epoch, p)
			}
			f := lacks2and3(t, st)
			tick := func() {
				for st.Tick(w.now); len(w.pulls) > 0; w.pulls = w.pulls[1:] {
					o := Outcome{Err: os.ErrDeadlineExceeded}
					if !w.cut {
						o = Outcome{gone: map[FeedTag]uint64{f.tag: 3}}
					}
					st.Answered(w.now, w.pulls[0], o)
				}
				w.now = w.now.Add(50 * time.Millisecond)
			}
			w.cut = true
			if end {
				for _, p := range near {
					st.Disconnected(w.now, p)
				}
			}
			for w.now.Before(after(time.Minute)) {
				tick()
				require.Empty(t, w.lost, "after %v", w.now.Sub(epoch))
			}
			w.cut = false
			if end {
				for _, p := range near {
					st.Subscribed(w.now, p)
				}
			}
			healed := w.now
			for len(w.lost) == 0 {
				require.Less(t, w.now.Sub(healed), time.Minute)
				tick()
			}
			require.GreaterOrEqual(t, w.now.Sub(healed), lostWait)
			require.Less(t, w.now.Sub(healed), ApartWait+retryWait<<maxAgain)
			require.EqualValues(t, 2, w.lost[0].First)
			require.EqualValues(t, 3, w.lost[0].Last)
		})
	}
}

// Nobody retains what is missing any more, so it is not waited for.
func TestAGapIsGivenUpInACutThatLastsLongerThanTheRetention(t *testing.T) {
	w := &cutWorld{now: epoch, cut: true}
	st, _ := begunStay(t, epoch, w)
	st.Begin(epoch)
	st.Subscribed(epoch, "a")
	lacks2and3(t, st)
	for len(w.lost) == 0 {
		for st.Tick(w.now); len(w.pulls) > 0; w.pulls = w.pulls[1:] {
			st.Answered(w.now, w.pulls[0], Outcome{Err: os.ErrDeadlineExceeded})
		}
		w.now = w.now.Add(time.Second)
		require.Less(t, w.now.Sub(epoch), plenty.Age+time.Minute)
	}
	require.Greater(t, w.now.Sub(epoch), plenty.Age)
}

// A neighbour that comes back from a cut itself lacks for a moment what it will get.
func TestAGapIsNotGivenUpWhileANeighbourHasJustComeBack(t *testing.T) {
	w := &cutWorld{now: epoch}
	st, _ := begunStay(t, epoch, w)
	st.Begin(epoch)
	for i, u := range []string{"a", "b"} {
		st.apply(epoch, entry("user "+u, u, 100, byte(i+2), true))
		st.Subscribed(epoch, peer.ID(u))
	}
	st.Disconnected(epoch, "b")
	f := lacks2and3(t, st)
	tick := func() {
		for st.Tick(w.now); len(w.pulls) > 0; w.pulls = w.pulls[1:] {
			o := Outcome{gone: map[FeedTag]uint64{f.tag: 3}} // "a" has joined later
			if w.pulls[0].From == "b" {
				o = Outcome{}
			}
			st.Answered(w.now, w.pulls[0], o)
		}
		w.now = w.now.Add(50 * time.Millisecond)
	}
	for w.now.Before(epoch.Add(ApartWait - goneWait)) {
		tick()
		require.Empty(t, w.lost, "b may come back")
	}
	back := w.now
	st.Subscribed(back, "b")
	for len(w.lost) == 0 {
		require.Less(t, w.now.Sub(back), time.Minute)
		tick()
	}
	require.GreaterOrEqual(t, w.now.Sub(back), backWait)
	require.Less(t, w.now.Sub(back), backWait+2*retryWait)
}
