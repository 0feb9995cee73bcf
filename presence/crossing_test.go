package presence_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/presence"
)

// giveUp makes host i dial host j and close the connection after some time, as a host does that by
// then has another one. Host j sees an ordinary connection until it ends; host i never sees it.
func (r *rig) giveUp(i, j int, after time.Duration) {
	r.t.Helper()
	dialler, ok := r.net.Host(i).Network().(*swarm.Swarm)
	require.True(r.t, ok)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := dialler.TransportForDialing(r.net.Addr(j)).Dial(ctx, r.net.Addr(j), r.net.ID(j))
	require.NoError(r.t, err)
	soon(r.t, time.Second, "the connection", func() bool { return r.connected(j, i) })
	time.AfterFunc(after, func() { conn.Close() })
}

func TestAUserIsFoundThoughTheOtherSideGivesAConnectionUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		r.meet(0, 2)
		r.meet(1, 2)
		a.login("alice")
		b.login("bob")
		time.Sleep(time.Second)
		r.giveUp(1, 0, 100*time.Millisecond)
		got, err := a.find("bob")
		require.NoError(t, err)
		require.Equal(t, b.me(), got.Login)

		r.part(0, 1)
		time.Sleep(10 * time.Second)
		r.giveUp(1, 0, 100*time.Millisecond)
		require.Equal(t, presence.Online, a.status("bob").State)
	})
}

func TestAConnectionIsMadeAgainThatTheOtherSideGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		for range 10 {
			r.giveUp(1, 0, 20*time.Millisecond)
			_, err := a.Connect(t.Context(), r.net.Info(1))
			require.NoError(t, err)
			require.Equal(t, network.Connected, r.net.Host(0).Network().Connectedness(b.id))
			r.part(0, 1)
		}
		r.net.Isolate(1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := a.Connect(ctx, r.net.Info(1))
		require.Error(t, err)
	})
}

// The node's own dial fails while the other side's connection is there, which that side then gives
// up.
func TestAConnectionIsMadeAgainThatTheOtherSideGivesUpAfterTheOwnDialHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := new(failingDial)
		r := &rig{t: t, net: meshtest.New(t, meshtest.Options{Hosts: 2, Latency: 5 * time.Millisecond, Libp2p: func(i int) []libp2p.Option {
			if i == 0 {
				return []libp2p.Option{libp2p.ConnectionGater(failing)}
			}
			return nil
		}})}
		defer r.close()
		for i := range 2 {
			r.nodes = append(r.nodes, r.start(i, keysOf(t, r.net.HostKey(i)), testApp))
		}
		failing.until = func() { r.giveUp(1, 0, time.Millisecond) }
		_, err := r.nodes[0].Connect(t.Context(), r.net.Info(1))
		require.NoError(t, err)
		require.True(t, failing.done.Load())
		require.Equal(t, network.Connected, r.net.Host(0).Network().Connectedness(r.net.ID(1)))
	})
}

// failingDial refuses the first dial after something has happened.
type failingDial struct {
	gate
	until func()
	done  atomic.Bool
}

func (f *failingDial) InterceptPeerDial(peer.ID) bool {
	if f.done.Swap(true) {
		return true
	}
	f.until()
	return false
}

// The host reports connections from several goroutines at once: it may report the end of the first
// before the second.
func TestAPeerIsNotLostThatHasAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a := r.nodes[0]
		r.meet(0, 1)
		first := r.net.Host(0).Network().ConnsToPeer(r.net.ID(1))[0]
		a.Directory.StopHearing()
		require.NoError(t, first.Close())
		r.net.Connect(0, 1)
		a.Directory.HearEnd(first)
		time.Sleep(time.Second)
		require.Empty(t, of[presence.PeerDown](a), describe(a.heard()))
		_, err := a.Peer(t.Context(), r.net.ID(1))
		require.NoError(t, err)
	})
}

// After some failed hellos the next one comes a minute later, for example if the network was cut
// during the hellos. A caller that wants the peer meanwhile does not wait for that.
func TestConnectDoesNotWaitForThePauseAfterFailedHellos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		b.Hush()
		r.net.Connect(0, 1)
		soon(t, 2*time.Minute, "five failed hellos", func() bool { return a.Stats().HelloFailed == 5 })
		b.Unhush()
		start := time.Now()
		_, err := a.Connect(t.Context(), r.net.Info(1))
		require.NoError(t, err)
		require.Less(t, time.Since(start), time.Second)
	})
}

// Before a node searches, it takes in the connections that the host has not reported yet. It opens
// no further hello on those that it knows: peers limit how many one node may open.
func TestSearchesOpenNoFurtherHellos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		r.meet(0, 1)
		for i := range 100 {
			_, err := a.find(fmt.Sprint("nobody", i))
			require.ErrorIs(t, err, presence.ErrNotFound)
			time.Sleep(200 * time.Millisecond)
		}
		require.Zero(t, a.Stats().HelloFailed)
		require.Zero(t, b.Stats().Limited)
	})
}
