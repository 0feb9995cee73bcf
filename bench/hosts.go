package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// newHost returns a libp2p host with its default security and muxer, over TCP on loopback.
func newHost(tb testing.TB, keys *identity.Keys) host.Host {
	tb.Helper()
	h, err := libp2p.New(libp2p.Identity(keys.Libp2p()), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.DisableRelay(), libp2p.DisableMetrics(), libp2p.DisableIdentifyAddressDiscovery())
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// connectAll connects every host to every other.
func connectAll(tb testing.TB, hosts []host.Host) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, a := range hosts {
		for _, b := range hosts[:i] {
			if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// hellos replaces the hellos between nodes: every node knows all users at once, since a benchmark
// measures what follows.
type hellos struct {
	app identity.AppID

	mu       sync.Mutex
	sessions map[peer.ID]identity.Session
}

func newHellos() *hellos {
	return &hellos{app: identity.NewAppID("starling bench"), sessions: make(map[peer.ID]identity.Session)}
}

// user is the identity of one node.
type user struct {
	all         *hellos
	incarnation uint64
	self        *identity.Statement
}

var incarnations atomic.Uint64

// logIn makes the user of one node known to all.
func (h *hellos) logIn(tb testing.TB, keys *identity.Keys, name string) *user {
	tb.Helper()
	now := time.Now()
	st, err := keys.Sign(identity.Statement{
		App: h.app, User: name, Sequence: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(24 * time.Hour), LoggedIn: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
	u := &user{all: h, incarnation: incarnations.Add(1), self: st}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[keys.PeerID()] = identity.Session{Statement: st, Incarnation: u.incarnation}
	return u
}

func (u *user) App() identity.AppID       { return u.all.app }
func (u *user) Incarnation() uint64       { return u.incarnation }
func (u *user) Self() *identity.Statement { return u.self }

func (u *user) Peer(_ context.Context, p peer.ID) (identity.Session, error) {
	u.all.mu.Lock()
	defer u.all.mu.Unlock()
	s, ok := u.all.sessions[p]
	if !ok {
		return s, errors.New("no hello from that peer")
	}
	return s, nil
}

// node is a host with a mesh on it.
type node struct {
	*mesh.Mesh
	host  host.Host
	login identity.Login
}

func (n *node) close() {
	n.Mesh.Close()
	n.host.Close()
}

// newNodes returns n nodes, u0 and so on, all connected.
func newNodes(tb testing.TB, n int, opts ...mesh.Option) []*node {
	tb.Helper()
	all := newHellos()
	nodes := make([]*node, n)
	hosts := make([]host.Host, n)
	for i := range nodes {
		keys, err := identity.GenerateKeys()
		if err != nil {
			tb.Fatal(err)
		}
		u := all.logIn(tb, keys, fmt.Sprintf("u%d", i))
		hosts[i] = newHost(tb, keys)
		m, err := mesh.New(hosts[i], u, opts...)
		if err != nil {
			tb.Fatal(err)
		}
		nodes[i] = &node{Mesh: m, host: hosts[i], login: u.self.Login()}
	}
	connectAll(tb, hosts)
	return nodes
}
