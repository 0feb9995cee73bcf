package node

import (
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// freshAddrs returns the addresses that a network listens on, with wildcards expanded to the
// current interface addresses. libp2p itself looks at the interfaces once a minute, which is too
// late for a laptop that has moved to another Wi-Fi.
func freshAddrs(n network.Network) ([]ma.Multiaddr, error) {
	interfaces, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return nil, err
	}
	// A link-local address needs the name of an interface, which differs from machine to machine.
	interfaces = slices.DeleteFunc(interfaces, manet.IsIP6LinkLocal)
	listening := slices.DeleteFunc(n.ListenAddresses(), func(a ma.Multiaddr) bool {
		_, err := manet.ToIP(a)
		return err != nil // such as /p2p-circuit, which stands for the relays in use
	})
	if len(listening) == 0 {
		return nil, nil
	}
	return manet.ResolveUnspecifiedAddresses(listening, interfaces)
}

// freshener is the AddrsFactory of the node's own host. It replaces the interface addresses that
// libp2p passes in with the current ones, and keeps the others: those from port mappings, from
// relays, and those that peers have observed.
type freshener struct {
	mu   sync.Mutex
	host host.Host       // nil while the host is being built
	ever map[string]bool // addresses that an interface has had, as bytes
}

func (f *freshener) use(h host.Host) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.host, f.ever = h, make(map[string]bool)
}

// factory is called by libp2p every 5 s, and when the host starts to listen on another address.
func (f *freshener) factory(addrs []ma.Multiaddr) []ma.Multiaddr {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.host == nil {
		return addrs
	}
	now, err := freshAddrs(f.host.Network())
	if err != nil {
		return addrs
	}
	if len(f.ever) > maxEver {
		clear(f.ever)
	}
	for _, a := range now {
		f.ever[string(a.Bytes())] = true
	}
	for _, a := range addrs {
		if !f.ever[string(a.Bytes())] && !ma.Contains(now, a) {
			now = append(now, a)
		}
	}
	return now
}

// maxEver bounds the addresses in ever. A laptop that has been to a thousand networks in one run
// may show an old address for a minute.
const maxEver = 4096

// freshHost is the host as mDNS sees it. mDNS asks it only for these addresses and the peer ID.
type freshHost struct{ host.Host }

func (h freshHost) Network() network.Network { return freshNetwork{h.Host.Network()} }

type freshNetwork struct{ network.Network }

func (n freshNetwork) InterfaceListenAddresses() ([]ma.Multiaddr, error) {
	return freshAddrs(n.Network)
}
