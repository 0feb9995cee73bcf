package node

import (
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

func TestDialsAreRanked(t *testing.T) {
	const ms = time.Millisecond
	type dial struct {
		addr  string
		delay time.Duration
	}
	for _, c := range []struct {
		name  string
		addrs []string
		want  []dial
	}{
		{"none", nil, nil},
		{
			"on a LAN TCP first, IPv4 before IPv6",
			[]string{"/ip6/fd00::1/udp/1/quic-v1", "/ip6/fd00::1/tcp/1", "/ip4/10.0.0.1/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/1"},
			[]dial{
				{"/ip4/10.0.0.1/tcp/1", 0}, {"/ip4/192.168.1.1/tcp/1", 10 * ms}, {"/ip6/fd00::1/tcp/1", 20 * ms},
				{"/ip4/10.0.0.1/udp/1/quic-v1", 150 * ms}, {"/ip6/fd00::1/udp/1/quic-v1", 160 * ms},
			},
		},
		{
			"loopback counts as LAN",
			[]string{"/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/127.0.0.1/tcp/1"},
			[]dial{{"/ip4/127.0.0.1/tcp/1", 0}, {"/ip4/127.0.0.1/udp/1/quic-v1", 150 * ms}},
		},
		{
			"QUIC alone does not wait",
			[]string{"/ip4/10.0.0.1/udp/1/quic-v1"},
			[]dial{{"/ip4/10.0.0.1/udp/1/quic-v1", 0}},
		},
		{
			"on the internet QUIC first",
			[]string{"/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1"},
			[]dial{{"/ip4/1.2.3.4/udp/1/quic-v1", 0}, {"/ip4/1.2.3.4/tcp/1", 250 * ms}},
		},
		{
			"both at once, each in its order",
			[]string{"/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1"},
			[]dial{{"/ip4/10.0.0.1/tcp/1", 0}, {"/ip4/1.2.3.4/udp/1/quic-v1", 0}, {"/ip4/1.2.3.4/tcp/1", 250 * ms}},
		},
		{
			"a relay waits for the LAN",
			[]string{relayAddr, "/ip4/10.0.0.1/tcp/1"},
			[]dial{{"/ip4/10.0.0.1/tcp/1", 0}, {relayAddr, 500 * ms}},
		},
		{
			"a relay alone does not wait",
			[]string{relayAddr},
			[]dial{{relayAddr, 0}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var addrs []ma.Multiaddr
			for _, a := range c.addrs {
				addrs = append(addrs, ma.StringCast(a))
			}
			var got []dial
			for _, r := range rankDials(addrs) {
				got = append(got, dial{r.Addr.String(), r.Delay})
			}
			require.Equal(t, c.want, got)
		})
	}
}

const relayAddr = "/ip4/10.0.0.9/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit"
