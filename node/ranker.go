package node

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	// lanStep separates the dials to the private TCP addresses of one peer. It is long enough for
	// the first dial to finish on a LAN, and short enough for the right address of many (bridges,
	// virtual machines) to be tried soon.
	lanStep = 10 * time.Millisecond
	// lanFallback is how long QUIC waits for TCP on private addresses. A TCP connection with TLS
	// takes 5 ms there.
	lanFallback = 150 * time.Millisecond
)

// rankDials orders the addresses of a peer for dialling. On private and loopback addresses TCP
// comes first, since it carries twice as much there and reveals a killed process in milliseconds,
// while QUIC needs half a minute. On public ones it keeps libp2p's own order, QUIC first.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	var private, rest []ma.Multiaddr
	public := false
	for _, a := range addrs {
		switch {
		case !isRelayed(a) && manet.IsPrivateAddr(a):
			private = append(private, a)
		default:
			public = public || !isRelayed(a)
			rest = append(rest, a)
		}
	}
	ranked := rankPrivate(private)
	offset := time.Duration(0)
	if len(private) > 0 && !public {
		offset = swarm.RelayDelay // libp2p delays relays behind public addresses only
	}
	for _, r := range swarm.DefaultDialRanker(rest) {
		r.Delay += offset
		ranked = append(ranked, r)
	}
	return ranked
}

func rankPrivate(addrs []ma.Multiaddr) []network.AddrDelay {
	slices.SortStableFunc(addrs, func(a, b ma.Multiaddr) int { return cmp.Compare(classOf(a), classOf(b)) })
	ranked := make([]network.AddrDelay, 0, len(addrs))
	var tcp, other time.Duration
	for _, a := range addrs {
		if isTCP(a) {
			ranked = append(ranked, network.AddrDelay{Addr: a, Delay: tcp})
			tcp += lanStep
			other = lanFallback
			continue
		}
		ranked = append(ranked, network.AddrDelay{Addr: a, Delay: other})
		other += lanStep
	}
	return ranked
}

// classOf ranks TCP before the rest, and IPv4 before IPv6: a LAN is most likely to carry those.
func classOf(a ma.Multiaddr) int {
	class := 0
	if !isTCP(a) {
		class += 2
	}
	if has(a, ma.P_IP6) {
		class++
	}
	return class
}

func isTCP(a ma.Multiaddr) bool { return has(a, ma.P_TCP) }

func isRelayed(a ma.Multiaddr) bool { return has(a, ma.P_CIRCUIT) }

func has(a ma.Multiaddr, code int) bool {
	found := false
	ma.ForEach(a, func(c ma.Component) bool {
		found = c.Protocol().Code == code
		return !found
	})
	return found
}
