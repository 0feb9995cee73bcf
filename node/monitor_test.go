package node

import (
	"context"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
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
