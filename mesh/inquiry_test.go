package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

func TestFewAreAskedAtATime(t *testing.T) {
	ns := make(neighbours)
	var ids []peer.ID
	for i := range 3 * maxAsking {
		p := peer.ID(fmt.Sprint(i))
		ids = append(ids, p)
		ns[p] = new(neighbour)
		now := ns.inquire(epoch, ns[p], true)
		require.Equal(t, i < maxAsking, now, i)
		if now {
			ns[p].greet(epoch, ask)
		}
	}
	greet, due := ns.next(epoch, ids)
	require.Empty(t, greet)
	require.Equal(t, epoch.Add(askPatience), due, "one that does not answer holds up nobody for longer")

	ns["0"].told()
	greet, _ = ns.next(after(time.Millisecond), ids)
	require.Equal(t, ids[maxAsking:], greet, "the others may have nothing new to tell by now")
	for _, p := range greet {
		require.Equal(t, compare, ns[p].want)
		ns[p].greet(after(time.Millisecond), compare)
	}

	p := ids[maxAsking]
	require.Equal(t, ask, ns[p].hear(after(2*time.Millisecond), false, false, true), "it has")
	require.True(t, ns.inquire(after(2*time.Millisecond), ns[p], false))
	ns[p].greet(after(2*time.Millisecond), ask)
	q := ids[maxAsking+1]
	require.Equal(t, ask, ns[q].hear(after(2*time.Millisecond), false, false, true))
	require.False(t, ns.inquire(after(2*time.Millisecond), ns[q], false), "there are enough again")
	require.Equal(t, ask, ns[q].want, "it has been compared with")
	ns["1"].told()
	greet, _ = ns.next(after(3*time.Millisecond), ids)
	require.Equal(t, []peer.ID{q}, greet)
}

func TestWhoGoesOnToDifferIsAskedMoreAndMoreSeldom(t *testing.T) {
	n := new(neighbour)
	ns := neighbours{"a": n}
	now, asked := epoch, 0
	for now.Before(after(time.Minute)) {
		if ns.inquire(now, n, false) {
			n.greet(now, ask)
			n.told()
			asked++
		}
		now = now.Add(10 * time.Millisecond)
	}
	require.Equal(t, 11, asked, "after 0.25, 0.5, 1, 2, 4, 8 and then every 10 s")
	n.hear(now, true, true, true)
	require.True(t, ns.inquire(n.asked.Add(askEvery), n, false), "they agree")
}

func TestAnAnswerToAComparisonIsAskedForWhatItShows(t *testing.T) {
	n := new(neighbour)
	require.Equal(t, answer, n.hear(epoch, false, false, false), "heads and roster follow what was asked for")
	n.greet(epoch, compare)
	require.Equal(t, ask, n.hear(epoch, false, false, true))
	require.Equal(t, answer, n.hear(epoch, false, false, true), "once")
	require.Equal(t, ask, n.hear(epoch, true, false, true))
	require.Equal(t, answer, n.hear(epoch, true, true, false), "just compared with")
	require.Equal(t, compare, n.hear(after(compareEvery), true, true, false))
}

// A neighbour that asks for the whole roster again and again is given so much a second and no more.
func TestRostersAreTakenFromAPeersBudget(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		r, p := rooms[0], f.net.ID(1)
		again := func() (frames, dropped uint64) {
			before := r.mesh.Stats()
			r.mu.Lock()
			r.answerLocked(p, &wire.RoomFrame_Greeting{Reply: true, Digest: make([]byte, 32), Heads: r.journal.sum()})
			r.mu.Unlock()
			s := r.mesh.Stats()
			return s.RoomFrames - before.RoomFrames, s.RoomFramesDropped - before.RoomFramesDropped
		}
		frames, dropped := again()
		require.EqualValues(t, []uint64{2, 0}, []uint64{frames, dropped}, "greeting and roster")
		served := r.mesh.links.budget(p).served
		require.True(t, served.AllowN(time.Now(), int(served.Tokens())))
		frames, dropped = again()
		require.EqualValues(t, []uint64{1, 1}, []uint64{frames, dropped})
		time.Sleep(time.Second)
		frames, dropped = again()
		require.EqualValues(t, []uint64{2, 0}, []uint64{frames, dropped})
	})
}
