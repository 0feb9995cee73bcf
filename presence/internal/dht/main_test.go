package dht

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/presence/internal/dhttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testApp = identity.NewAppID("dht.test")

// rig is a simulated network with a DHT on each host, and nothing else.
type rig struct {
	t     *testing.T
	net   *meshtest.Net
	nodes []*node
}

// node is a DHT and what is around it: a statement to keep, and what the DHT has passed on.
type node struct {
	*DHT
	keys *identity.Keys

	mu       sync.Mutex
	st       *identity.Statement
	observed []*identity.Statement
}

func (n *node) Shown() *identity.Statement {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.st == nil || !n.st.LoggedIn {
		return nil
	}
	return n.st
}

// Observe logs out for a later log-in, as a directory does.
func (n *node) Observe(st *identity.Statement) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.observed = append(n.observed, st)
	if n.st != nil && st.Newer(n.st) {
		n.st = nil
	}
}

func (n *node) seen() []*identity.Statement {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*identity.Statement(nil), n.observed...)
}

func (n *node) Foreign(peer.ID) bool { return false }

// sign returns a statement of now.
func (n *node) sign(t *testing.T, user string, in bool) *identity.Statement {
	t.Helper()
	now := time.Now()
	st, err := n.keys.Sign(identity.Statement{
		App: testApp, User: user, Sequence: uint64(now.UnixMilli()), LoggedIn: in, Issued: now, Expires: now.Add(time.Hour),
	})
	require.NoError(t, err)
	return st
}

// show makes the node show a statement.
func (n *node) show(st *identity.Statement) {
	n.mu.Lock()
	n.st = st
	n.mu.Unlock()
	n.Wake()
}

func (n *node) first() *Instance { return n.Instances()[0] }

// kept returns what the node itself keeps under a key; nil: nothing.
func (n *node) kept(key string) []byte { return dhttest.Kept(n.first().Store, key) }

// newRig starts n unconnected hosts, each part of the DHT of its LAN; in app mode if a is not nil.
func newRig(t *testing.T, n int, a *identity.Authority) *rig {
	t.Helper()
	r := &rig{t: t, net: meshtest.New(t, meshtest.Options{Hosts: n, Latency: 5 * time.Millisecond})}
	for i := range n {
		raw, err := r.net.HostKey(i).Raw()
		require.NoError(t, err)
		r.start(i, &identity.Keys{Device: raw, User: raw}, a)
	}
	return r
}

// start makes the DHT of host i.
func (r *rig) start(i int, keys *identity.Keys, a *identity.Authority) {
	r.t.Helper()
	n := &node{keys: keys}
	cfg := Config{
		Host: r.net.Host(i), App: testApp, Keys: keys, Vouched: a != nil,
		Scopes: []Scope{LAN}, Log: slog.New(slog.DiscardHandler),
	}
	if a != nil {
		cfg.App = a.App()
	}
	cfg.Verifier = identity.NewVerifier(cfg.App, identity.WithAuthority(a))
	var err error
	n.DHT, err = New(cfg, n)
	require.NoError(r.t, err)
	for len(r.nodes) <= i {
		r.nodes = append(r.nodes, nil)
	}
	r.nodes[i] = n
}

func (r *rig) close() {
	r.t.Helper()
	var wg sync.WaitGroup
	for _, n := range r.nodes {
		wg.Go(func() { _ = n.Close() })
	}
	wg.Wait()
}

// soon waits until ok returns true, for at most limit of virtual time.
func soon(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	start := time.Now()
	for !ok() {
		require.Less(t, time.Since(start), limit, "in vain: %s", what)
		time.Sleep(time.Millisecond)
	}
}

const acme = dhttest.App

var (
	seeded    = dhttest.Seeded
	issuerKey = dhttest.IssuerKey
	public    = dhttest.Public
	issuer    = dhttest.Issuer
	token     = dhttest.Token
	tokenBy   = dhttest.TokenBy
)

// authority returns an authority for the test's issuer.
func authority(t *testing.T) *identity.Authority {
	t.Helper()
	return dhttest.Authority(t, identity.DefaultLeeway)
}
