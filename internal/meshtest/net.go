package meshtest

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
	"go.uber.org/fx"
)

// port is the UDP port of every host; hosts differ in their IP address.
const port = 4001

// connectTimeout bounds each connection that a topology makes, in virtual time.
const connectTimeout = 10 * time.Second

// Options describe a simulated network. The zero value is a network without hosts, latency, limits
// or loss.
type Options struct {
	Hosts   int           // how many hosts New starts
	Latency time.Duration // one way, between any two hosts
	Jitter  time.Duration // added to each packet, uniform in [0, Jitter): packets may overtake each other
	// Bits/s of each host, separately up and down; 0 is unlimited. A queue over 200 ms drops
	// packets.
	Bandwidth int
	Seed      uint64 // of keys, topologies and losses; 0 is 1

	// Public gives hosts addresses that look public (1.0.0.1 and up). By default they look private
	// (10.0.0.1 and up).
	Public bool

	// Key returns the identity of host i. If the function or its result is nil, the key is derived
	// from the seed.
	Key func(i int) crypto.PrivKey

	// Libp2p returns further options for host i. The resource manager is the null one unless set
	// here.
	Libp2p func(i int) []libp2p.Option
}

// Net is a simulated network. Its methods may be called from any goroutine of the bubble.
type Net struct {
	t    testing.TB
	opts Options

	close func()

	mu    sync.Mutex // guards what follows, never held across a call into libp2p
	rng   *rand.Rand
	nodes []*node
	sock  map[netip.AddrPort]*socket
	rules rules
	shut  bool
}

// node is one host: its current instance, and what a restart keeps.
type node struct {
	key  crypto.PrivKey
	ip   netip.Addr
	opts []libp2p.Option
	host host.Host
}

// New starts a network of o.Hosts unconnected hosts. It fails the test if one cannot start. The
// network is closed when the test, or the bubble in which it was made, ends.
func New(t testing.TB, o Options) *Net {
	t.Helper()
	oneProcessor()
	if s := os.Getenv("STARLING_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			t.Fatalf("meshtest: STARLING_SEED: %v", err)
		}
		o.Seed = seed
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	n := &Net{
		t:    t,
		opts: o,
		rng:  rand.New(rand.NewPCG(o.Seed, 0x57a21196)),
		sock: make(map[netip.AddrPort]*socket),
	}
	n.close = sync.OnceFunc(n.shutdown)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("meshtest: STARLING_SEED=%d", o.Seed)
		}
		n.Close()
	})
	for i := range o.Hosts {
		var key crypto.PrivKey
		if o.Key != nil {
			key = o.Key(i)
		}
		n.NewHost(key)
	}
	return n
}

// NewHost adds a host with the given key and a new address and returns its number. If key is nil,
// one is derived from the seed. The options are applied after those of [Options.Libp2p].
func (n *Net) NewHost(key crypto.PrivKey, opts ...libp2p.Option) int {
	n.t.Helper()
	if key == nil {
		key = n.Key()
	}
	n.mu.Lock()
	i := len(n.nodes)
	nd := &node{key: key, ip: n.ip(i)}
	n.nodes = append(n.nodes, nd)
	n.mu.Unlock()
	if n.opts.Libp2p != nil {
		nd.opts = append(nd.opts, n.opts.Libp2p(i)...)
	}
	nd.opts = append(nd.opts, opts...)
	n.start(i)
	return i
}

// Key returns a new key that depends on the seed and on everything drawn from it before.
func (n *Net) Key() crypto.PrivKey {
	var seed [ed25519.SeedSize]byte
	n.mu.Lock()
	for i := range seed {
		seed[i] = byte(n.rng.Uint32())
	}
	n.mu.Unlock()
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		panic(err) // the key was made above
	}
	return key
}

func (n *Net) ip(i int) netip.Addr {
	first := byte(10)
	if n.opts.Public {
		first = 1
	}
	i++
	return netip.AddrFrom4([4]byte{first, byte(i >> 16), byte(i >> 8), byte(i)})
}

// start builds host i over a new socket at its address.
func (n *Net) start(i int) {
	n.t.Helper()
	nd := n.node(i)
	h, err := libp2p.New(
		libp2p.Identity(nd.key),
		libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", nd.ip, port)),
		libp2p.Transport(libp2pquic.NewTransport),
		n.transport(i, nd.ip),
		libp2p.DisableIdentifyAddressDiscovery(), // its timers stall a bubble
		libp2p.DisableMetrics(),
		libp2p.ChainOptions(nd.opts...),
		func(cfg *libp2p.Config) error {
			if cfg.ResourceManager == nil { // the caller chose none
				cfg.ResourceManager = &network.NullResourceManager{}
			}
			return nil
		},
	)
	if err != nil {
		n.t.Fatalf("meshtest: host %d: %v", i, err)
	}
	n.mu.Lock()
	nd.host = h
	n.mu.Unlock()
}

// sourceIP answers when quicreuse asks which local address to dial from.
type sourceIP netip.Addr

func (s sourceIP) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) {
	return netip.Addr(s).AsSlice(), nil
}

// transport makes QUIC use a socket of this network.
func (n *Net) transport(i int, ip netip.Addr) libp2p.Option {
	build := func(l fx.Lifecycle, srk quic.StatelessResetKey, tok quic.TokenGeneratorKey, opts ...quicreuse.Option) (*quicreuse.ConnManager, error) {
		cm, err := quicreuse.NewConnManager(srk, tok, opts...)
		if err != nil {
			return nil, err
		}
		l.Append(fx.StopHook(cm.Close)) // nothing else closes a manager that was passed in
		return cm, nil
	}
	return libp2p.QUICReuse(build,
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return sourceIP(ip), nil }),
		quicreuse.OverrideListenUDP(func(_ string, addr *net.UDPAddr) (net.PacketConn, error) {
			at := addr.AddrPort()
			if at.Addr().Unmap() != ip || at.Port() == 0 {
				return nil, fmt.Errorf("meshtest: host %d listens on %s only, not on %s", i, ip, addr)
			}
			return n.listen(i, netip.AddrPortFrom(ip, at.Port()))
		}))
}

func (n *Net) node(i int) *node {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i < 0 || i >= len(n.nodes) {
		panic(fmt.Sprintf("meshtest: no host %d of %d", i, len(n.nodes)))
	}
	return n.nodes[i]
}

// Len returns the number of hosts, dead ones included.
func (n *Net) Len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.nodes)
}

// Host returns host i; after [Net.Restart] that is the new one.
func (n *Net) Host(i int) host.Host {
	nd := n.node(i)
	n.mu.Lock()
	defer n.mu.Unlock()
	return nd.host
}

// HostKey returns the private key of host i.
func (n *Net) HostKey(i int) crypto.PrivKey { return n.node(i).key }

// ID returns the peer ID of host i.
func (n *Net) ID(i int) peer.ID { return n.Host(i).ID() }

// Addr returns the address of host i without its peer ID, known even before the host listens and
// after it died.
func (n *Net) Addr(i int) ma.Multiaddr {
	return ma.StringCast(fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", n.node(i).ip, port))
}

// Info returns the peer ID and address of host i.
func (n *Net) Info(i int) peer.AddrInfo {
	return peer.AddrInfo{ID: n.ID(i), Addrs: []ma.Multiaddr{n.Addr(i)}}
}

// PeerAddr returns the address of host i with its peer ID, in the form that people pass on.
func (n *Net) PeerAddr(i int) string {
	return fmt.Sprintf("%s/p2p/%s", n.Addr(i), n.ID(i))
}

// TryConnect connects host i to host j, in at most 10 s of virtual time.
func (n *Net) TryConnect(i, j int) error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	return n.Host(i).Connect(ctx, n.Info(j))
}

// Connect connects host i to host j and fails the test if it cannot.
func (n *Net) Connect(i, j int) {
	n.t.Helper()
	if err := n.TryConnect(i, j); err != nil {
		n.t.Fatalf("meshtest: connect %d to %d: %v", i, j, err)
	}
}

// Connected reports whether host i believes that it is connected to host j.
func (n *Net) Connected(i, j int) bool {
	return n.Host(i).Network().Connectedness(n.ID(j)) == network.Connected
}

// Close closes the hosts that are still running and then their sockets. It may be called again.
func (n *Net) Close() { n.close() }

func (n *Net) shutdown() {
	n.mu.Lock()
	n.shut = true
	var hosts []host.Host
	for _, nd := range n.nodes {
		if nd.host != nil {
			hosts = append(hosts, nd.host)
		}
	}
	n.mu.Unlock()
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Go(func() { h.Close() })
	}
	wg.Wait()
	n.mu.Lock()
	left := n.sock
	n.sock = make(map[netip.AddrPort]*socket)
	n.mu.Unlock()
	for _, s := range left {
		s.shut()
	}
}
