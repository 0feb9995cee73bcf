package node

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
)

func TestAUsableAddressReachesOut(t *testing.T) {
	for addr, want := range map[string]bool{
		"/ip4/192.168.1.7": true,
		"/ip4/169.254.3.4": true, // what machines on a cable without a router give themselves
		"/ip4/127.0.0.1":   false,
		"/ip4/127.5.0.1":   false,
		"/ip6/::1":         false,
		"/ip6/fe80::1":     false,
		"/ip6/fd00::1":     true,
		"/ip6/2001:db8::1": true,
	} {
		require.Equal(t, want, reachesOut(ma.StringCast(addr)), addr)
	}
}

func TestANodeIsOnLoopbackAloneIfItWasToldSo(t *testing.T) {
	for _, c := range []struct {
		listen []string
		want   bool
	}{
		{nil, false},
		{[]string{"/ip4/0.0.0.0/tcp/0"}, false},
		{[]string{"/ip4/127.0.0.1/tcp/0"}, true},
		{[]string{"/ip4/127.0.0.1/tcp/0", "/ip6/::1/udp/0/quic-v1"}, true},
		{[]string{"/ip4/127.0.0.1/tcp/0", "/ip4/192.0.2.7/tcp/0"}, false},
	} {
		require.Equal(t, c.want, loopbackOnly(c.listen), "%v", c.listen)
	}
}

func TestAPeerOnLoopbackMakesLoopbackUsable(t *testing.T) {
	var nodes []*Node
	for range 2 {
		n, err := New(WithListen("/ip4/127.0.0.1/tcp/0"), WithoutMDNS(), WithoutDHT())
		require.NoError(t, err)
		defer n.Close()
		nodes = append(nodes, n)
	}
	require.False(t, nodes[0].meetsOnLoopback())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, nodes[0].Connect(ctx, nodes[1].Addrs()[0].String()))
	for {
		ev, err := nodes[0].Recv(ctx)
		require.NoError(t, err)
		if _, up := ev.(*PeerUp); up {
			break
		}
	}
	require.True(t, nodes[0].meetsOnLoopback())
}

// wires is what the system says of the interfaces, as a test sets it.
type wires struct{ usable, silent atomic.Bool }

func (w *wires) look() (usable, known bool) { return w.usable.Load(), !w.silent.Load() }

// onWires starts two connected nodes in a simulated network. The first has interfaces as w says.
func onWires(t *testing.T, w *wires) (net *meshtest.Net, a *Node) {
	net = meshtest.New(t, meshtest.Options{Hosts: 2, Latency: 5 * time.Millisecond})
	for i := range 2 {
		opts := []Option{WithHost(net.Host(i)), WithoutMDNS()}
		if i == 0 {
			opts = append(opts, func(c *config) { c.interfaces = w.look })
		}
		n, err := New(opts...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, n.Close()) })
		if i == 0 {
			a = n
		}
	}
	return net, a
}

// until waits until the node's connection has a state, and returns how long that took.
func until(t *testing.T, n *Node, want ConnectionState) time.Duration {
	t.Helper()
	begun := time.Now()
	for n.Connection() != want {
		require.Less(t, time.Since(begun), time.Minute, "it is %s, and does not get %s", n.Connection(), want)
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begun)
}

func TestTheLossOfTheLastInterfaceIsSeenSoonAndItsReturnMakesTheNodeDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(wires)
		w.usable.Store(true)
		net, a := onWires(t, w)
		net.Connect(0, 1)
		time.Sleep(time.Second)
		require.Equal(t, Connected, a.Connection())

		net.Cut(0, 1)
		w.usable.Store(false)
		require.LessOrEqual(t, until(t, a, Disconnected), watchEvery)
		until(t, a, Lost)
		time.Sleep(5 * time.Minute) // the pauses between dials have grown
		failed := a.Stats().DialsFailed
		for a.Stats().DialsFailed == failed { // so that the next dial is some seconds off
			time.Sleep(10 * time.Millisecond)
		}
		dials := a.Stats().Dials
		w.usable.Store(true)
		time.Sleep(watchEvery)
		synctest.Wait()
		require.Greater(t, a.Stats().Dials, dials)
		net.Heal()
		until(t, a, Reconnected)
	})
}

func TestANodeWithoutAnInterfaceFailsAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(wires)
		_, a := onWires(t, w)
		require.Equal(t, Connecting, a.Connection())
		require.LessOrEqual(t, until(t, a, Failed), failAfter+10*time.Millisecond)
		w.usable.Store(true)
		require.LessOrEqual(t, until(t, a, Connected), watchEvery)
	})
}

func TestASystemThatDoesNotSayChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(wires)
		w.silent.Store(true)
		_, a := onWires(t, w)
		require.Equal(t, Connected, a.Connection(), "nothing speaks against it")
		w.silent.Store(false)
		until(t, a, Disconnected)
		w.silent.Store(true)
		w.usable.Store(true)
		time.Sleep(2 * watchEvery)
		require.Equal(t, Disconnected, a.Connection())
	})
}
