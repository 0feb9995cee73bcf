package presence_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/presence"
)

func TestEverythingWorksOverARelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4)
		defer r.close()
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[3]
		const via = 2
		service, err := relay.New(r.net.Host(via))
		require.NoError(t, err)
		defer service.Close()
		r.net.Cut(0, 1) // a and b reach each other only through the relay
		require.NoError(t, r.nodes[via].Close())
		r.nodes[via] = nil // the relay is not a Starling node
		r.net.Connect(1, via)
		_, err = client.Reserve(t.Context(), r.net.Host(1), r.net.Info(via))
		require.NoError(t, err)
		circuit := ma.StringCast(r.net.PeerAddr(via) + "/p2p-circuit")
		b.login("bob")
		c.login("carol")
		r.meet(3, 1)

		ctx := network.WithAllowLimitedConn(t.Context(), "test")
		require.NoError(t, r.net.Host(0).Connect(ctx, peer.AddrInfo{ID: b.id, Addrs: []ma.Multiaddr{circuit}}))
		require.Equal(t, network.Limited, r.net.Host(0).Network().Connectedness(b.id))
		s, err := a.Peer(t.Context(), b.id)
		require.NoError(t, err)
		require.Equal(t, b.me(), s.Statement.Login())
		got, err := a.find("bob")
		require.NoError(t, err)
		require.Equal(t, presence.Connected, got.Source)

		got, err = a.find("carol") // b knows her
		require.NoError(t, err)
		require.Equal(t, presence.Whois, got.Source)

		start := time.Now()
		require.NoError(t, b.Logout(t.Context()))
		require.Less(t, time.Since(start), time.Second)
		require.False(t, a.sees(b))
	})
}

func TestHelloSurvivesLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		r.net.Connect(0, 1)
		r.net.Loss(30)
		for range 5 {
			b.login("bob")
			soon(t, time.Minute, "the log-in", func() bool { return a.sees(b) })
			require.NoError(t, b.Logout(t.Context()))
			soon(t, time.Minute, "the log-out", func() bool { return !a.sees(b) })
		}
	})
}
