package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"go.uber.org/fx"

	"github.com/starling-mesh/starling/identity"
)

const (
	// A frozen peer is detected after a keep-alive and a write timeout, 9 s at most; with yamux's
	// own 30 s and 10 s it would take 40 s.
	keepAlive    = 5 * time.Second
	writeTimeout = 4 * time.Second
	// dialTimeoutLAN bounds dials to private addresses. A peer that does not answer there in this
	// time is not there.
	dialTimeoutLAN = 1500 * time.Millisecond
	// dialTimeout bounds dials to public addresses, handshake included.
	dialTimeout = 10 * time.Second
	// connGrace is how long a new connection is not trimmed: time for hello, and for a room to
	// protect it.
	connGrace = 20 * time.Second
)

// newHost builds the node's libp2p host, which does not listen yet, and returns it with the
// function that closes it.
//
// Identify and ping stay on: libp2p's own parts and other implementations need identify, and a node
// uses ping to find its dead connections after it has slept. Dialling through relays is on. Serving
// as a relay, AutoNAT v2 and hole punching are off.
func newHost(cfg *config, keys *identity.Keys) (host.Host, func() error, error) {
	limits, err := newResourceManager()
	if err != nil {
		return nil, nil, err
	}
	conns, err := connmgr.NewConnManager(cfg.connsLow, cfg.connsHigh, connmgr.WithGracePeriod(connGrace))
	if err != nil {
		return nil, nil, errors.Join(err, limits.Close())
	}
	fresh, events := new(freshener), newBus(eventbus.NewBus())
	opts := []libp2p.Option{
		libp2p.AddrsFactory(fresh.factory),
		libp2p.Identity(keys.Libp2p()),
		libp2p.UserAgent(userAgent()),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Muxer(yamux.ID, newYamux()),
		libp2p.ResourceManager(limits),
		libp2p.ConnectionManager(conns),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.SwarmOpts(swarm.WithDialRanker(rankDials), swarm.WithDialTimeoutLocal(dialTimeoutLAN)),
		libp2p.EnableRelay(),
		libp2p.DisableMetrics(),
		libp2p.WithFxOption(fx.Decorate(func(event.Bus) event.Bus { return events })),
	}
	if cfg.portMapping {
		opts = append(opts, libp2p.NATPortMap())
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		events.finish()
		return nil, nil, errors.Join(err, conns.Close(), limits.Close())
	}
	fresh.use(h)
	return h, func() error {
		err := h.Network().Close() // connections first: they cause the events
		events.drain()
		err = errors.Join(err, h.Close())
		events.finish()
		return err
	}, nil
}

func newYamux() network.Multiplexer {
	t := *yamux.DefaultTransport
	t.KeepAliveInterval = keepAlive
	t.ConnectionWriteTimeout = writeTimeout
	return &t
}

// userAgent returns what identify sends to other nodes about this one.
func userAgent() string {
	const module = "github.com/starling-mesh/starling"
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
			if m.Path == module && m.Version != "" && m.Version != "(devel)" {
				version = m.Version
			}
		}
	}
	return "starling/" + version
}

// hostKey returns the device key of a host that the caller made.
func hostKey(h host.Host) (ed25519.PrivateKey, error) {
	key := h.Peerstore().PrivKey(h.ID())
	if key == nil {
		return nil, errors.New("its peerstore does not hold its private key")
	}
	if key.Type() != crypto.Ed25519 {
		return nil, fmt.Errorf("its key is %v, want Ed25519", key.Type())
	}
	raw, err := key.Raw()
	if err != nil {
		return nil, err
	}
	return ed25519.PrivateKey(raw), nil
}

// swarmOf returns what the swarm has beyond network.Network; nil for a network of another kind.
func swarmOf(h host.Host) interface{ Backoff() *swarm.DialBackoff } {
	s, _ := h.Network().(interface{ Backoff() *swarm.DialBackoff })
	return s
}

// clearBackoff makes the next dial to p a real one: after a failure the swarm refuses to dial for 5
// s or more, and this node paces its dials itself.
func clearBackoff(h host.Host, p peer.ID) {
	if s := swarmOf(h); s != nil {
		s.Backoff().Clear(p)
	}
}
