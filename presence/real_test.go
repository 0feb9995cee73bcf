package presence_test

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// Real transports on loopback each end connections in their own way. On each, a refusal must arrive
// before the end.

// real is a directory on a real host, and its events.
type real struct {
	*presence.Directory
	host   host.Host
	events chan presence.Event
}

func startReal(t testing.TB, listen string, app identity.AppID, keys *identity.Keys) *real {
	t.Helper()
	if keys == nil {
		var err error
		keys, err = identity.GenerateKeys()
		require.NoError(t, err)
	}
	h, err := libp2p.New(libp2p.Identity(keys.Libp2p()), libp2p.ListenAddrStrings(listen))
	require.NoError(t, err)
	r := &real{host: h, events: make(chan presence.Event, 1024)}
	r.Directory, err = presence.New(h, app, keys, presence.WithObserver(func(ev presence.Event) { r.events <- ev }))
	require.NoError(t, err)
	t.Cleanup(func() {
		r.Close()
		h.Close()
	})
	return r
}

// next waits for the next event of one type.
func next[E presence.Event](t testing.TB, r *real) E {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case ev := <-r.events:
			if e, ok := ev.(E); ok {
				return e
			}
		case <-limit:
			t.Fatalf("no %T came", *new(E))
		}
	}
}

var transports = map[string]string{"TCP": "/ip4/127.0.0.1/tcp/0", "QUIC": "/ip4/127.0.0.1/udp/0/quic-v1"}

func TestOverRealTransportsPeersMeetAndPart(t *testing.T) {
	for name, listen := range transports {
		t.Run(name, func(t *testing.T) {
			a, b := startReal(t, listen, testApp, nil), startReal(t, listen, testApp, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			require.NoError(t, b.Login(ctx, "bob"))
			require.NoError(t, a.host.Connect(ctx, *host.InfoFromHost(b.host)))
			up := next[presence.PeerUp](t, a)
			require.Equal(t, b.Self().Login(), up.Session.Statement.Login())
			next[presence.PeerUp](t, b)
			start := time.Now()
			require.NoError(t, b.Logout(ctx))
			require.False(t, next[presence.PeerChanged](t, a).Session.Statement.LoggedIn)
			require.Less(t, time.Since(start), time.Second)
			require.NoError(t, b.Close())
			require.NoError(t, b.host.Close())
			require.Equal(t, b.host.ID(), next[presence.PeerDown](t, a).Peer)
		})
	}
}

func TestOverRealTransportsAnotherAppIsToldWhy(t *testing.T) {
	for name, listen := range transports {
		t.Run(name, func(t *testing.T) {
			a, b := startReal(t, listen, testApp, nil), startReal(t, listen, identity.NewAppID("other"), nil)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			require.NoError(t, a.host.Connect(ctx, *host.InfoFromHost(b.host)))
			require.ErrorIs(t, next[presence.Refused](t, a).Err, identity.ErrOtherApp)
			require.ErrorIs(t, next[presence.Refused](t, b).Err, identity.ErrOtherApp)
			require.Eventually(t, func() bool {
				return a.host.Network().Connectedness(b.host.ID()) == network.NotConnected &&
					b.host.Network().Connectedness(a.host.ID()) == network.NotConnected
			}, 10*time.Second, time.Millisecond)
		})
	}
}

func TestNewRefusesAHostWithAnotherKey(t *testing.T) {
	keys, err := identity.GenerateKeys()
	require.NoError(t, err)
	a := startReal(t, transports["TCP"], testApp, nil)
	_, err = presence.New(a.host, testApp, keys)
	require.EqualError(t, err, "the host is "+a.host.ID().String()+", the device key is "+keys.PeerID().String()+"'s")
	_, err = presence.New(a.host, testApp, &identity.Keys{})
	require.EqualError(t, err, "keys without a device key")
}

func BenchmarkFindAConnectedUser(b *testing.B) {
	a, c := startReal(b, transports["TCP"], testApp, nil), startReal(b, transports["TCP"], testApp, nil)
	require.NoError(b, c.Login(b.Context(), "carol"))
	require.NoError(b, a.host.Connect(b.Context(), *host.InfoFromHost(c.host)))
	next[presence.PeerUp](b, a)
	addr := identity.Address{User: "carol"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Find(b.Context(), addr); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHello(b *testing.B) {
	a, c := startReal(b, transports["TCP"], testApp, nil), startReal(b, transports["TCP"], testApp, nil)
	require.NoError(b, a.Login(b.Context(), "alice"))
	require.NoError(b, c.Login(b.Context(), "carol"))
	info := peer.AddrInfo{ID: c.host.ID(), Addrs: c.host.Addrs()}
	for b.Loop() { // includes connecting
		if err := a.host.Connect(b.Context(), info); err != nil {
			b.Fatal(err)
		}
		next[presence.PeerUp](b, a)
		if err := a.host.Network().ClosePeer(info.ID); err != nil {
			b.Fatal(err)
		}
		next[presence.PeerDown](b, a)
	}
}
