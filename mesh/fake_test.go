package mesh

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// hellos is what the hellos between the hosts of a test would have said, all of it at once.
type hellos struct {
	app identity.AppID

	mu       sync.Mutex
	sessions map[peer.ID]identity.Session
}

func newHellos() *hellos {
	return &hellos{app: identity.NewAppID("mesh test"), sessions: make(map[peer.ID]identity.Session)}
}

// fakeIdentity is the Identity of one host, kept up to date by hand.
type fakeIdentity struct {
	all         *hellos
	id          peer.ID
	keys        *identity.Keys
	incarnation uint64
	self        atomic.Pointer[identity.Statement]
}

var incarnations atomic.Uint64

// identityOf gives a host a new process that has no user yet.
func (h *hellos) identityOf(t testing.TB, hst host.Host) *fakeIdentity {
	t.Helper()
	key, err := deviceKey(hst)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeIdentity{all: h, id: hst.ID(), keys: &identity.Keys{Device: key, User: key}, incarnation: 1000 + incarnations.Add(1)}
	f.tell()
	return f
}

// be sets the user and whether it is logged in; an empty name means no user.
func (f *fakeIdentity) be(t testing.TB, user string, loggedIn bool) *fakeIdentity {
	t.Helper()
	if user == "" {
		f.self.Store(nil)
	} else {
		now := time.Now()
		st, err := f.keys.Sign(identity.Statement{
			App: f.all.app, User: user, Sequence: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(24 * time.Hour), LoggedIn: loggedIn,
		})
		if err != nil {
			t.Fatal(err)
		}
		f.self.Store(st)
	}
	f.tell()
	return f
}

func (f *fakeIdentity) tell() {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	f.all.sessions[f.id] = identity.Session{Statement: f.self.Load(), Incarnation: f.incarnation}
}

func (f *fakeIdentity) login() identity.Login { return f.self.Load().Login() }

func (f *fakeIdentity) App() identity.AppID       { return f.all.app }
func (f *fakeIdentity) Incarnation() uint64       { return f.incarnation }
func (f *fakeIdentity) Self() *identity.Statement { return f.self.Load() }

func (f *fakeIdentity) Peer(ctx context.Context, p peer.ID) (identity.Session, error) {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	s, ok := f.all.sessions[p]
	if !ok {
		return s, errors.New("no hello from that peer")
	}
	return s, nil
}

// inbox keeps what a mesh takes outside rooms.
type inbox struct {
	full atomic.Bool

	mu   sync.Mutex
	msgs []*DirectMessage
	more chan struct{}
}

func newInbox() *inbox { return &inbox{more: make(chan struct{}, 1)} }

func (b *inbox) take(m *DirectMessage, size int) bool {
	if b.full.Load() {
		return false
	}
	b.mu.Lock()
	b.msgs = append(b.msgs, m)
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
	return true
}

func (b *inbox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.msgs)
}

// texts returns the payloads so far.
func (b *inbox) texts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s []string
	for _, m := range b.msgs {
		s = append(s, string(m.Data))
	}
	return s
}

// await waits until n messages are there.
func (b *inbox) await(t testing.TB, n int) []*DirectMessage {
	t.Helper()
	patience := time.NewTimer(30 * time.Second)
	defer patience.Stop()
	for {
		b.mu.Lock()
		msgs := b.msgs
		b.mu.Unlock()
		if len(msgs) >= n {
			return msgs
		}
		select {
		case <-b.more:
		case <-patience.C:
			t.Fatalf("%d messages after 30s, want %d", len(msgs), n)
		}
	}
}

// station is a host with a mesh, and what a test needs of both.
type station struct {
	*Mesh
	host  host.Host
	who   *fakeIdentity
	inbox *inbox
}

func (s *station) login() identity.Login { return s.who.login() }

// station puts a mesh on a host and logs a user in. It is closed with the test.
func (h *hellos) station(t testing.TB, hst host.Host, user string, opts ...Option) *station {
	t.Helper()
	s := &station{host: hst, who: h.identityOf(t, hst), inbox: newInbox()}
	if user != "" {
		s.who.be(t, user, true)
	}
	m, err := New(hst, s.who, append([]Option{WithInbox(s.inbox.take)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	s.Mesh = m
	t.Cleanup(func() { m.Close() })
	return s
}

// tcpHost is a real host on loopback, over TCP alone.
func tcpHost(t testing.TB) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func connect(t testing.TB, a, b host.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
}

// tcpPair returns two real stations, alice and bob, connected.
func tcpPair(t testing.TB, opts ...Option) (alice, bob *station) {
	t.Helper()
	all := newHellos()
	alice = all.station(t, tcpHost(t), "alice", opts...)
	bob = all.station(t, tcpHost(t), "bob", opts...)
	connect(t, alice.host, bob.host)
	return alice, bob
}
