package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/walltime"
)

// Identity is what the mesh needs to know about users: its own, and those of connected peers.
// presence.Directory is one. All methods are safe for concurrent use.
type Identity interface {
	App() identity.AppID
	Self() *identity.Statement // nil while the node has no user

	// Incarnation returns the number of this run, the same as in the hello. A second Mesh on the
	// same host needs another number: peers would take its messages for repeats of the first one's.
	Incarnation() uint64

	// Peer returns the verified hello of a connected peer. It waits for one that is under way.
	Peer(ctx context.Context, p peer.ID) (identity.Session, error)
}

// Observer is an [Identity] that knows of users outside the rooms, and wants to know who is in
// them: a member's statement may show a later log-in, or a second user of a name, before any hello
// does. presence.Directory is one.
type Observer interface {
	// Observe takes the verified statement of a member. The mesh calls it from goroutines of its
	// own.
	Observe(*identity.Statement)

	// OnlineAs returns the users of a name who are logged in on connected peers. It does not wait.
	OnlineAs(user string) []identity.Login
}

// Mesh sends broadcasts in rooms and direct messages over one libp2p host. Make one with [New]. Its
// methods are safe for concurrent use.
type Mesh struct {
	host   host.Host
	who    Identity
	finder Finder // nil: who is none
	log    *slog.Logger
	clock  walltime.Clock
	cfg    config
	app    identity.AppID
	key    ed25519.PrivateKey // the device key: the host's own

	ctx   context.Context // ends when Close has begun
	stop  context.CancelFunc
	close func() error
	tasks task.Group // every goroutine and every call that must end before Close returns
	talk  task.Group // the same for what neighbours say and ask, until goodbye has been said

	ids   atomic.Uint64 // the last send ID given
	stays atomic.Uint64 // the number of the last stay begun
	stats counters
	out   outbound
	to    destinations
	in    inbound
	// direct and broadcast hold this node to its rates, and paces remembers what was sent in rooms.
	direct, broadcast throttle
	paces             paces

	pubsub   *pubsub.PubSub
	flow     flow
	topics   roomTopics
	gate     gate
	kept     keptOrders
	links    links
	places   places
	repairs  repairs
	handed   handedRooms
	pulses   pulses
	verifier *identity.Verifier
	entries  entrySequence

	// defiant makes this node go on when an order puts it out. It is for tests.
	defiant bool

	mu    sync.Mutex
	rooms map[string]*Room // by name
	tags  map[[32]byte]*Room
	names map[string]chan struct{} // that are taken; not nil if the stay is over: closed when the name is free
}

// New makes a mesh on h. The caller closes h, after the mesh. The host's key must be Ed25519 and in
// its peerstore. New sends nothing and waits for nobody.
func New(h host.Host, who Identity, opts ...Option) (*Mesh, error) {
	cfg := defaultConfig()
	for _, o := range opts {
		o.apply(&cfg)
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	if a := cfg.authority; a != nil && a.App() != who.App() {
		return nil, fmt.Errorf("options: the authority is of app %s, the identity of app %s", a.App(), who.App())
	}
	key, err := deviceKey(h)
	if err != nil {
		return nil, fmt.Errorf("device key: %w", err)
	}
	if err := claimIncarnation(h, who.Incarnation()); err != nil {
		return nil, err
	}
	if err := cfg.store.claim(cfg.clock); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Mesh{
		host: h, who: who, log: cfg.log, clock: cfg.clock, cfg: cfg, app: who.App(), key: key,
		ctx: ctx, stop: stop, verifier: identity.NewVerifier(who.App(), identity.WithAuthority(cfg.authority)),
		rooms: make(map[string]*Room), tags: make(map[[32]byte]*Room), names: make(map[string]chan struct{}),
		in: inbound{clock: cfg.clock, rate: cfg.rates.Direct}, flow: flow{clock: cfg.clock},
	}
	m.finder, _ = who.(Finder)
	m.to.all, m.to.searches = make(map[destinationKey]*destination), make(chan struct{}, maxSearches)
	m.out.lanes = make(map[laneKey]*lane)
	m.in.init()
	m.direct.init(cfg.rates.Direct, DirectMessages, cfg.clock)
	m.broadcast.init(cfg.rates.Broadcast, BroadcastMessages, cfg.clock)
	m.close = sync.OnceValue(m.shutdown)
	if err := m.startGossip(); err != nil {
		m.close()
		return nil, fmt.Errorf("gossip: %w", err)
	}
	m.kept.init()
	if cfg.keeper != nil {
		m.tasks.Go(m.saveLoop)
	}
	if cfg.store != nil {
		m.tasks.Go(func() { cfg.store.run(m) })
	}
	h.SetStreamHandler(DirectProtocol, m.handleDirect)
	return m, nil
}

// claimIncarnation refuses the incarnation that an earlier mesh had on this host: peers would take
// the new mesh's first messages for repeats of the old one's, acknowledge them and throw them away.
func claimIncarnation(h host.Host, n uint64) error {
	const key = "starling/mesh/incarnation"
	if last, err := h.Peerstore().Get(h.ID(), key); err == nil && last == n {
		return fmt.Errorf("incarnation %d was that of another mesh on this host: make a new Identity", n)
	}
	return h.Peerstore().Put(h.ID(), key, n)
}

// deviceKey returns the host's private key as crypto/ed25519 needs it.
func deviceKey(h host.Host) (ed25519.PrivateKey, error) {
	key := h.Peerstore().PrivKey(h.ID())
	if key == nil {
		return nil, errors.New("the host's peerstore does not hold it")
	}
	if key.Type() != crypto.Ed25519 {
		return nil, fmt.Errorf("%v, want Ed25519", key.Type())
	}
	raw, err := key.Raw()
	if err != nil {
		return nil, err
	}
	return ed25519.PrivateKey(raw), nil
}

// Close leaves all rooms, ends every send that waits, and returns when every goroutine of the mesh
// has ended. It waits for no peer. It may be called again, from any goroutine; every call returns
// the same result.
func (m *Mesh) Close() error { return m.close() }

func (m *Mesh) shutdown() error {
	m.host.RemoveStreamHandler(DirectProtocol) // 1. take no new work
	rooms := m.markClosed()                    //    refuse handlers already on their way in
	m.stopRooms(rooms)                         // 2. say goodbye; neighbours may still ask for it
	m.talk.Close()
	m.stop()          // 3. end m.ctx: for us, and for pubsub, which has no Close
	m.out.interrupt() //    streams in both directions
	m.in.resetAll()
	m.tasks.Wait() // 4. wait, holding no lock
	m.talk.Wait()
	m.cfg.store.release()
	for _, r := range rooms {
		r.end(ErrClosed) // 5. wake readers with the reason
	}
	return nil
}

// markClosed lets no further call or task begin, and returns the rooms that are still joined.
func (m *Mesh) markClosed() []*Room {
	m.tasks.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	rooms := make([]*Room, 0, len(m.rooms))
	for _, r := range m.rooms {
		rooms = append(rooms, r)
	}
	return rooms
}

// nextID returns the number of an accepted send: one count over all kinds, from 1.
func (m *Mesh) nextID() uint64 { return m.ids.Add(1) }

// roomByTopic returns the joined room that has this GossipSub topic, or nil.
func (m *Mesh) roomByTopic(topic string) *Room {
	tag, err := topicEncoding.DecodeString(strings.TrimPrefix(topic, topicPrefix))
	if err != nil || len(tag) != len([32]byte{}) {
		return nil
	}
	return m.roomByTag([32]byte(tag))
}

// roomByTag returns the joined room that has this tag on the wire, or nil.
func (m *Mesh) roomByTag(tag [32]byte) *Room {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tags[tag]
}
