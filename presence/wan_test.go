package presence_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/presence"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

// privateAddr returns the address that host i states beside its public one, on a LAN behind it.
func privateAddr(i int) ma.Multiaddr {
	return ma.StringCast(fmt.Sprintf("/ip4/192.168.1.%d/udp/4001/quic-v1", i+1))
}

// internet starts n unconnected hosts, each with an address on the internet and one on a LAN,
// without directories. Those in hidden state only their address on the LAN.
func internet(t *testing.T, n int, hidden ...int) *rig {
	t.Helper()
	return &rig{t: t, nodes: make([]*node, n), net: meshtest.New(t, meshtest.Options{
		Hosts: n, Latency: latency, Public: true,
		Libp2p: func(i int) []libp2p.Option {
			return []libp2p.Option{libp2p.AddrsFactory(func(addrs []ma.Multiaddr) []ma.Multiaddr {
				for _, h := range hidden {
					if h == i {
						return []ma.Multiaddr{privateAddr(i)}
					}
				}
				return append(addrs[:len(addrs):len(addrs)], privateAddr(i))
			})}
		},
	})}
}

func (r *rig) open(i int, scopes ...presence.Scope) *node {
	r.t.Helper()
	r.nodes[i] = r.start(i, keysOf(r.t, r.net.HostKey(i)), testApp, presence.WithDHT(scopes...), presence.WithRemembered(forgetful{}))
	return r.nodes[i]
}

func TestAUserIsFoundThroughTheDirectoryOfTheInternet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		presence.WithoutWhois(t)
		const n = 6
		r := internet(t, n)
		defer r.close()
		for i := range n {
			r.open(i, presence.WAN)
		}
		r.net.Chain()
		time.Sleep(10 * time.Second)
		a, b := r.nodes[0], r.nodes[n-1]
		b.login("dora")
		b.stored()
		a.login("alice")
		for _, who := range []string{"dora", b.me().Address().String()} {
			r.part(0, n-1)
			s := a.status(who)
			require.Equal(t, presence.Online, s.State, "%s: %+v", who, s)
			require.Equal(t, b.me(), s.Login)
		}
		require.Equal(t, presence.Offline, a.status("nobody").State)

		key := dht.KeyOfKey(testApp, b.keys.UserKey().Fingerprint())
		keepers := 0
		for _, node := range r.nodes[:n-1] {
			if rec := node.Stored(key); rec != nil {
				keepers++
				require.Equal(t, []ma.Multiaddr{r.net.Addr(n - 1)}, rec.Addrs, "no address of the LAN")
			}
		}
		require.Positive(t, keepers)
		time.Sleep(9 * time.Minute)
		before := r.nodes[1].Stored(key).Issued
		time.Sleep(2 * time.Minute)
		require.True(t, r.nodes[1].Stored(key).Issued.After(before), "stored anew after 10 min")
		require.Less(t, time.Since(r.nodes[1].Stored(key).Issued), 2*time.Minute)
	})
}

func TestTheDirectoryOfTheInternetIsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		presence.WithoutWhois(t)
		const n, hidden = 5, 3
		r := internet(t, n, hidden)
		defer r.close()
		for i := range n - 1 {
			r.open(i, presence.WAN)
		}
		local := r.open(n-1, presence.LAN)
		r.net.Star(1)
		time.Sleep(10 * time.Second)
		b := r.nodes[0]
		b.login("dora")
		b.stored()
		local.login("alice")
		r.part(0, n-1)
		s := local.status("dora")
		require.NotEqual(t, presence.Online, s.State, "a node of the LAN's directory alone: %+v", s)
		require.False(t, r.connected(0, n-1))

		secret := r.nodes[hidden]
		secret.login("carol")
		time.Sleep(10 * time.Second)
		key := dht.KeyOfKey(testApp, secret.keys.UserKey().Fingerprint())
		// Node 1 is on that LAN too, and has received the address there.
		r.net.Host(1).Peerstore().AddAddrs(secret.id, []ma.Multiaddr{privateAddr(hidden), r.net.Addr(hidden)}, time.Hour)
		require.Equal(t, []ma.Multiaddr{r.net.Addr(hidden)}, b.Named(t.Context(), r.nodes[1].id, secret.id), "it is not passed on")
		require.Equal(t, []ma.Multiaddr{r.net.Addr(1)}, b.Named(t.Context(), r.nodes[1].id, r.nodes[1].id), "nor is one's own")
		for i, node := range r.nodes[:hidden] {
			if rec := node.Stored(key); rec != nil {
				require.Empty(t, rec.Addrs, "node %d knows the address of a LAN", i)
			}
		}
	})
}
