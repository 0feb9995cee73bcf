package presence_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/presence"
	"github.com/starling-mesh/starling/presence/internal/dhttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testApp = identity.NewAppID("presence.test")

const latency = 5 * time.Millisecond

// rig is a simulated network with a directory on each host.
type rig struct {
	t     *testing.T
	net   *meshtest.Net
	nodes []*node
}

// node is a directory and the events that its observer received.
type node struct {
	*presence.Directory
	t    *testing.T
	id   peer.ID
	keys *identity.Keys

	authority *identity.Authority // nil: in open mode

	mu     sync.Mutex
	events []presence.Event
}

// newRig starts n unconnected hosts with a directory on each.
func newRig(t *testing.T, n int, opts ...presence.Option) *rig {
	t.Helper()
	r := &rig{t: t, net: meshtest.New(t, meshtest.Options{Hosts: n, Latency: latency})}
	for i := range n {
		r.nodes = append(r.nodes, r.start(i, keysOf(t, r.net.HostKey(i)), testApp, opts...))
	}
	return r
}

// bare starts n hosts without directories.
func bare(t *testing.T, n int) *rig {
	t.Helper()
	return &rig{t: t, net: meshtest.New(t, meshtest.Options{Hosts: n, Latency: latency}), nodes: make([]*node, n)}
}

// start makes a directory on host i; close closes it.
func (r *rig) start(i int, keys *identity.Keys, app identity.AppID, opts ...presence.Option) *node {
	r.t.Helper()
	n := &node{t: r.t, id: r.net.ID(i), keys: keys}
	opts = append([]presence.Option{presence.WithObserver(n.observe)}, opts...)
	var err error
	n.Directory, err = presence.New(r.net.Host(i), app, keys, opts...)
	require.NoError(r.t, err)
	return n
}

// sameUser gives hosts a and b one user key.
func (r *rig) sameUser(a, b int, opts ...presence.Option) {
	r.t.Helper()
	user := seeded(200)
	for _, i := range []int{a, b} {
		if r.nodes[i] != nil {
			require.NoError(r.t, r.nodes[i].Close())
		}
		r.nodes[i] = r.start(i, keysOf(r.t, r.net.HostKey(i)).WithUser(user), testApp, opts...)
	}
}

func (r *rig) close() {
	r.t.Helper()
	var wg sync.WaitGroup
	for _, n := range r.nodes {
		if n != nil {
			wg.Go(func() { n.Close() })
		}
	}
	wg.Wait()
}

// meet connects hosts a and b and waits until each knows the other.
func (r *rig) meet(a, b int) {
	r.t.Helper()
	r.net.Connect(a, b)
	for _, pair := range [][2]int{{a, b}, {b, a}} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := r.nodes[pair[0]].Peer(ctx, r.nodes[pair[1]].id)
		cancel()
		require.NoError(r.t, err, "%d does not know %d", pair[0], pair[1])
	}
}

func (n *node) observe(ev presence.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, ev)
}

// heard returns the events that the observer has received. Only the test's own goroutine may call
// it.
func (n *node) heard() []presence.Event {
	synctest.Wait() // the observer has its own goroutine
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

// login logs in and fails the test if that fails.
func (n *node) login(user string) {
	n.t.Helper()
	require.NoError(n.t, n.Login(context.Background(), user))
}

func (n *node) loggedIn() bool { return n.Self() != nil && n.Self().LoggedIn }

// me returns the node's log-in.
func (n *node) me() identity.Login { return n.Self().Login() }

// sees reports whether n knows the log-in of m.
func (n *node) sees(m *node) bool {
	return slices.ContainsFunc(n.Online(), func(l identity.Login) bool { return l.Peer == m.id })
}

func (n *node) find(addr string) (presence.Found, error) {
	n.t.Helper()
	a, err := identity.ParseAddress(addr)
	require.NoError(n.t, err)
	return n.Find(context.Background(), a)
}

// of returns the events of one type.
func of[E presence.Event](n *node) []E {
	var out []E
	for _, ev := range n.heard() {
		if e, ok := ev.(E); ok {
			out = append(out, e)
		}
	}
	return out
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

func keysOf(t *testing.T, key crypto.PrivKey) *identity.Keys {
	t.Helper()
	raw, err := key.Raw()
	require.NoError(t, err)
	return &identity.Keys{Device: raw, User: raw}
}

var seeded = dhttest.Seeded

// connected reports whether host a has a connection to host b.
func (r *rig) connected(a, b int) bool {
	return r.net.Host(a).Network().Connectedness(r.net.ID(b)) == network.Connected
}

func describe(evs []presence.Event) string {
	out := ""
	for _, ev := range evs {
		out += fmt.Sprintf("%T ", ev)
	}
	return out
}

type ed25519PublicKey = ed25519.PublicKey

func sha256Sum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
