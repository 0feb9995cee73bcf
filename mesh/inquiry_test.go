package mesh

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/wire"
)

func TestFewAreAskedAtATime(t *testing.T) {
	const limit = 8
	ns := make(neighbours)
	var ids []peer.ID
	for i := range 3 * limit {
		p := peer.ID(fmt.Sprint(i))
		ids = append(ids, p)
		ns[p] = new(neighbour)
		ns[p].inquire(epoch, true)
		greet, _ := ns.next(epoch, slices.Values(ids), limit)
		if i < limit {
			require.Equal(t, []peer.ID{p}, greet)
			ns[p].greet(epoch, ask)
		}
	}
	greet, due := ns.next(epoch, slices.Values(ids), limit)
	require.Empty(t, greet)
	require.Equal(t, epoch.Add(askPatience), due, "one that does not answer holds up nobody for longer")

	ns["0"].told(false)
	greet, _ = ns.next(after(time.Millisecond), slices.Values(ids), limit)
	require.Equal(t, ids[limit:limit+1], greet)
	ns[greet[0]].greet(after(time.Millisecond), ask)

	// Nobody else answers: the others have their turn all the same, and none has to wait for
	// something else to happen.
	now, asked := due, limit+1
	for rounds := 0; asked < len(ids); rounds++ {
		require.Less(t, rounds, 4)
		greet, due = ns.next(now, slices.Values(ids), limit)
		require.NotEmpty(t, greet)
		for _, p := range greet {
			ns[p].greet(now, ns[p].want)
		}
		asked += len(greet)
		require.Equal(t, asked < len(ids), !due.IsZero(), "somebody is left, and somebody comes for him")
		now = due
	}
}

func TestWhoGoesOnToDifferIsAskedMoreAndMoreSeldom(t *testing.T) {
	// within returns how often a neighbour is asked in a minute.
	within := func(n *neighbour, news func(asked int) bool) (asked int, now time.Time) {
		for now = epoch; now.Before(after(time.Minute)); now = now.Add(10 * time.Millisecond) {
			if n.inquire(now, false); n.want == ask {
				n.greet(now, ask)
				n.told(news(asked))
				asked++
			}
		}
		return asked, now
	}
	asked, _ := within(new(neighbour), func(int) bool { return true })
	require.Equal(t, 121, asked, "after 0.25 s, and then every 0.5 s: each answer has something new")
	asked, _ = within(new(neighbour), func(asked int) bool { return asked%20 == 9 })
	require.Equal(t, 18, asked, "news at the tenth time: 0.5, 1, 2, 4 and 5 s again")
	n := new(neighbour)
	asked, now := within(n, func(int) bool { return false })
	require.Equal(t, 16, asked, "after 0.25, 0.5, 1, 2, 4 and then every 5 s")
	n.inquire(n.asked.Add(time.Millisecond), false)
	require.Equal(t, n.asked.Add(maxGap), n.wantAt)
	n.told(true)
	require.Equal(t, n.asked.Add(newsGap), n.wantAt, "also what was put off before")
	n.greet(now, ask)
	n.hear(now, true, true, true)
	n.inquire(n.asked.Add(askEvery), false)
	require.Equal(t, ask, n.want, "they agree")
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

// A neighbour that asks for the whole roster again and again gets only so much a second.
func TestRostersAreTakenFromAPeersBudget(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		r, p := rooms[0], f.net.ID(1)
		again := func() (frames, dropped uint64) {
			before := r.mesh.Stats()
			r.mu.Lock()
			r.stay.answer(time.Now(), p, &wire.RoomFrame_Greeting{Reply: true, Digest: make([]byte, 32), Heads: r.stay.journal.sum()})
			r.mu.Unlock()
			s := r.mesh.Stats()
			return s.RoomFrames - before.RoomFrames, s.RoomFramesDropped - before.RoomFramesDropped
		}
		frames, dropped := again()
		require.EqualValues(t, []uint64{2, 0}, []uint64{frames, dropped}, "greeting and roster")
		served := r.mesh.links.budget(p).rosters
		require.True(t, served.AllowN(time.Now(), int(served.Tokens())))
		frames, dropped = again()
		require.EqualValues(t, []uint64{1, 1}, []uint64{frames, dropped})
		time.Sleep(time.Second)
		frames, dropped = again()
		require.EqualValues(t, []uint64{2, 0}, []uint64{frames, dropped})
	})
}

// A member that joins is in agreement with all, even if an answer takes long and there are more to
// ask than may be asked at a time.
func TestManyWhoJoinEachOtherOverLongLinksAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members = maxAsking + 6
		f := &flock{t: t, net: meshtest.New(t, meshtest.Options{Hosts: members, Latency: 150 * time.Millisecond}), all: newHellos()}
		for i := range members {
			f.at = append(f.at, f.all.station(t, f.net.Host(i), fmt.Sprintf("u%d", i)))
		}
		f.net.ConnectAll()
		time.Sleep(5 * time.Second)
		var joins sync.WaitGroup
		for i := range members {
			joins.Go(func() {
				start := time.Now()
				r := f.join(i, "ops")
				require.Less(t, time.Since(start), joinWait, "station %d", i)
				r.mu.Lock()
				defer r.mu.Unlock()
				for p, n := range r.stay.neighbours {
					require.True(t, n.agreed, "station %d with %s", i, p)
				}
			})
		}
		joins.Wait()
	})
}

// Most of the neighbours that a member asks as it joins are gone without a word. It knows all
// members nevertheless, from the one that is left.
func TestSilentNeighboursDoNotKeepAMemberFromAskingOthers(t *testing.T) {
	inBubble(t, 24, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		require.NoError(t, rooms[0].Leave(t.Context()))
		far := make([]int, 0, 22)
		for i := 2; i < 24; i++ {
			far = append(far, i)
		}
		f.net.Split([]int{0}, far)
		r := f.join(0, "ops")
		require.Len(t, r.Members(), 24)
		r.mu.Lock()
		require.True(t, r.stay.neighbours[f.net.ID(1)].agreed)
		r.mu.Unlock()
		f.net.Heal()
	})
}

// An insider says two things at once, where nobody knows where its feed begins. Members do not ask
// each other about it for ever.
func TestAForkWithoutABaselineIsNotSought(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		m := f.insider("ops")
		time.Sleep(30 * time.Second)
		frames := func() uint64 {
			before := f.sum(func(s Stats) uint64 { return s.RoomFrames })
			time.Sleep(time.Minute)
			return f.sum(func(s Stats) uint64 { return s.RoomFrames }) - before
		}
		usual := frames()
		m.publish(m.seal(5, make([]byte, 32), "one"))
		m.publish(m.seal(5, make([]byte, 32), "other"))
		time.Sleep(30 * time.Second)
		for i, r := range rooms {
			r.mu.Lock()
			require.Empty(t, r.stay.journal.waiting, "station %d", i)
			r.mu.Unlock()
		}
		require.Less(t, frames(), 2*usual+50)
	})
}
