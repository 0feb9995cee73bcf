package dht

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"sync"
	"testing"
	"time"

	dsq "github.com/ipfs/go-datastore/query"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
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
func (n *node) kept(key string) []byte {
	all, err := n.first().Store.Query(context.Background(), dsq.Query{})
	if err != nil {
		panic(err)
	}
	entries, err := all.Rest()
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		rec := new(recpb.Record)
		if proto.Unmarshal(e.Value, rec) == nil && string(rec.Key) == key {
			return rec.Value
		}
	}
	return nil
}

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

func seeded(b byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	return ed25519.NewKeyFromSeed(seed)
}

const acme = "acme.ops"

var issuerKey = seeded(77)

func public(key ed25519.PrivateKey) identity.PublicKey {
	return identity.PublicKey(key.Public().(ed25519.PublicKey))
}

func issuer(t *testing.T, key ed25519.PrivateKey) *identity.Issuer {
	t.Helper()
	i, err := identity.NewIssuer(acme, key, identity.WithRoot(public(issuerKey)))
	require.NoError(t, err)
	return i
}

// authority returns an authority for the test's issuer.
func authority(t *testing.T) *identity.Authority {
	t.Helper()
	issuers, err := identity.NewIssuers(issuer(t, issuerKey).Public())
	require.NoError(t, err)
	a, err := identity.NewAuthority(acme, issuers, identity.WithLeeway(identity.DefaultLeeway))
	require.NoError(t, err)
	return a
}

// token returns a log-in token for a user on a device.
func token(t *testing.T, keys *identity.Keys, user string, life time.Duration, change ...func(*identity.Claims)) string {
	t.Helper()
	return tokenBy(t, issuerKey, keys, user, life, change...)
}

func tokenBy(t *testing.T, key ed25519.PrivateKey, keys *identity.Keys, user string, life time.Duration, change ...func(*identity.Claims)) string {
	t.Helper()
	now := time.Now()
	c := identity.Claims{User: user, Device: keys.DeviceKey(), Issued: now, Expires: now.Add(life)}
	for _, f := range change {
		f(&c)
	}
	s, err := issuer(t, key).Issue(c)
	require.NoError(t, err)
	return s
}
