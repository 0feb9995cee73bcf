package presence_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// BenchmarkStatusConnected asks for the status of a connected user over loopback. Every few seconds
// one of the questions takes a round trip.
func BenchmarkStatusConnected(b *testing.B) {
	start := func() (*presence.Directory, peer.AddrInfo) {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
		require.NoError(b, err)
		b.Cleanup(func() { h.Close() })
		raw, err := h.Peerstore().PrivKey(h.ID()).Raw()
		require.NoError(b, err)
		d, err := presence.New(h, testApp, &identity.Keys{Device: raw, User: raw}, presence.WithDHT(presence.LAN))
		require.NoError(b, err)
		b.Cleanup(func() { d.Close() })
		return d, peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}
	}
	alice, _ := start()
	bob, at := start()
	ctx := context.Background()
	require.NoError(b, alice.Login(ctx, "alice"))
	require.NoError(b, bob.Login(ctx, "bob"))
	who := identity.Address{User: "bob"}
	require.NoError(b, alice.Dial(ctx, at))
	_, err := alice.Peer(ctx, at.ID)
	require.NoError(b, err)
	took := make([]time.Duration, 0, 1<<20)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		s, err := alice.Status(ctx, who)
		if d := time.Since(began); len(took) < cap(took) {
			took = append(took, d)
		}
		if err != nil || s.State != presence.Online {
			b.Fatal(s, err)
		}
	}
	b.StopTimer()
	slices.Sort(took)
	median := took[len(took)/2]
	b.ReportMetric(float64(median.Nanoseconds()), "median-ns")
	if median >= 100*time.Microsecond {
		b.Fatalf("median %v", median)
	}
}
