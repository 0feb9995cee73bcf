package mesh

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

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
			r.stay.HearGreeting(time.Now(), p, &wire.RoomFrame_Greeting{Reply: true, Digest: make([]byte, 32), Heads: r.stay.Inspect().Digest}, rooms[1].stay.Own())
			r.mu.Unlock()
			s := r.mesh.Stats()
			return s.RoomFrames - before.RoomFrames, s.RoomFramesDropped - before.RoomFramesDropped
		}
		frames, dropped := again()
		require.EqualValues(t, []uint64{3, 0}, []uint64{frames, dropped}, "greeting and roster, and a question")
		served := r.mesh.links.budget(p).rosters
		require.True(t, served.AllowN(time.Now(), int(served.Tokens())))
		frames, dropped = again()
		require.EqualValues(t, []uint64{1, 1}, []uint64{frames, dropped})
		time.Sleep(time.Second)
		frames, dropped = again()
		require.EqualValues(t, []uint64{3, 0}, []uint64{frames, dropped})
	})
}

// A member that joins is in agreement with all, even if an answer takes long and there are more to
// ask than may be asked at a time.
func TestManyWhoJoinEachOtherOverLongLinksAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members = stay.MaxAsking + 6
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
				require.Less(t, time.Since(start), stay.JoinWait, "station %d", i)
				for p, n := range r.inside().Near {
					require.True(t, n.Agreed, "station %d with %s", i, p)
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
		require.True(t, r.inside().Near[f.net.ID(1)].Agreed)
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
			require.Zero(t, r.inside().Waiting, "station %d", i)
		}
		require.Less(t, frames(), 2*usual+50)
	})
}
