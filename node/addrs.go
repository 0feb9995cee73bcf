package node

import (
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// freshAddrs are the addresses that a network listens on, with wildcards expanded to what the interfaces have now. libp2p
// itself looks at them once a minute: too late for a laptop that has come to another Wi-Fi.
func freshAddrs(n network.Network) ([]ma.Multiaddr, error) {
	interfaces, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return nil, err
	}
	// A link-local address means nothing without the name of an interface, which is another one elsewhere.
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

// freshener is the AddrsFactory of the node's own host: it puts the addresses of now in the place of libp2p's older ones, and
// leaves those alone that are of no interface: from port mappings, relays, and what others have observed.
type freshener struct {
	mu   sync.Mutex
	host host.Host       // nil while it is being built
	ever map[string]bool // addresses that an interface has had, as bytes
}

func (f *freshener) use(h host.Host) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.host, f.ever = h, make(map[string]bool)
}

// factory is called by libp2p every 5 s, and when the host listens on another address.
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

// maxEver bounds the addresses that interfaces have had: a laptop that has been to a thousand networks in one run may show
// an old address for a minute.
const maxEver = 4096

// freshHost is a host to mDNS, which asks for nothing but these addresses and the peer ID.
type freshHost struct{ host.Host }

func (h freshHost) Network() network.Network { return freshNetwork{h.Host.Network()} }

type freshNetwork struct{ network.Network }

func (n freshNetwork) InterfaceListenAddresses() ([]ma.Multiaddr, error) {
	return freshAddrs(n.Network)
}
