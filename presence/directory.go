package presence

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

// Directory knows who the connected peers are, shows peers who this node is, and finds users. Make
// one with [New]. All methods are safe for concurrent use.
type Directory struct {
	host        host.Host
	id          peer.ID
	app         identity.AppID
	keys        *identity.Keys
	userKey     identity.PublicKey
	cfg         config
	verifier    *identity.Verifier
	incarnation uint64
	started     time.Time
	events      *dispatcher
	stats       counters

	ctx    context.Context // ends after Close has said good-bye
	stop   context.CancelFunc
	close  func() error
	tasks  task.Group                    // every goroutine and handler that must end before Close returns
	notify *network.NotifyBundle         // reports connections of the host
	inGate chan struct{}                 // a token for each hello that a peer may open: see maxInbound
	told   *lru.Cache[notice, time.Time] // notices sent, and when

	tokenWake task.Wake // makes tendTokens check
	dht       *dht.DHT
	statuses  *inquiries
	watchGate chan struct{} // a token for each watch that is served: see maxWatchers

	mu      sync.Mutex
	closing bool // accept nothing new
	user    string
	self    *identity.Statement
	// Logged in, as the program sees it: self is not of a log-in while its token does not count.
	in        bool
	token     loginToken   // in app mode: of the last log-in
	pending   string       // the user whose log-in failed for its token: see UpdateLoginToken
	listTold  [32]byte     // the list of revocations that peers have been told about
	news      task.Changes // self has changed
	version   uint64       // counts the changes of self
	highest   uint64       // the highest sequence seen for our user key
	twin      bool         // another node with our device key was reported
	contacts  map[peer.ID]*contact
	names     index[string]                            // of sessions, by user ID
	subjects  index[identity.Subject]                  // of sessions, by user: see identity.Subject
	progress  task.Changes                             // a contact has confirmed a statement, or is gone
	searches  map[string]*search                       // under way, by address
	devices   *lru.Cache[peer.ID, *identity.Statement] // the latest statements of our user's other devices
	conflicts *lru.Cache[claim, struct{}]              // reported to the observer
	refusals  *lru.Cache[peer.ID, refusal]             // recent ones
}

const (
	maxDevices   = 64   // other devices of our user
	maxConflicts = 1024 // names and keys that were reported
	maxRefusals  = 1024 // peers
	maxTold      = 1024 // notices
	maxInbound   = 256  // hellos opened by peers at once, 32 KiB of buffers each
)

// New makes a directory on a host whose key is the device key. It starts at once to greet the peers
// that are connected, and will greet those that connect later. It opens no connections and does not
// wait; Close ends it and leaves the host open.
func New(h host.Host, app identity.AppID, keys *identity.Keys, opts ...Option) (*Directory, error) {
	cfg := defaults()
	for _, o := range opts {
		o(&cfg)
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("presence: options: %w", err)
	}
	if err := keys.Check(); err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	if a := cfg.authority; a != nil && a.App() != app {
		return nil, fmt.Errorf("presence: the authority is of another app: %s", a.Name())
	}
	if id := keys.PeerID(); id != h.ID() {
		return nil, fmt.Errorf("presence: the host is %s, the device key is %s's", h.ID(), id)
	}
	d := &Directory{
		host: h, id: h.ID(), app: app, keys: keys, userKey: keys.UserKey(), cfg: cfg,
		verifier:    identity.NewVerifier(app, identity.WithAuthority(cfg.authority)),
		incarnation: newIncarnation(),
		started:     time.Now(),
		events:      newDispatcher(cfg.observer),
		inGate:      make(chan struct{}, maxInbound),
		told:        newLRU[notice, time.Time](maxTold),
		tokenWake:   task.NewWake(),
		statuses:    newInquiries(),
		watchGate:   make(chan struct{}, maxWatchers),
		highest:     cfg.store.Sequence(),
		contacts:    make(map[peer.ID]*contact),
		names:       make(index[string]),
		subjects:    make(index[identity.Subject]),
		searches:    make(map[string]*search),
		devices:     newLRU[peer.ID, *identity.Statement](maxDevices),
		conflicts:   newLRU[claim, struct{}](maxConflicts),
		refusals:    newLRU[peer.ID, refusal](maxRefusals),
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.close = sync.OnceValue(d.shutdown)
	go d.events.run()
	d.tasks.Go(d.refresh)
	if cfg.authority != nil {
		d.loadList()
		d.tasks.Go(d.tendTokens)
		h.SetStreamHandler(RevocationsProtocol, d.handle(d.serveList))
	}
	if err := d.openDHT(); err != nil {
		h.RemoveStreamHandler(RevocationsProtocol)
		d.stop()
		d.tasks.Wait()
		d.events.end()
		return nil, err
	}
	h.SetStreamHandler(HelloProtocol, d.handle(d.serveHello))
	h.SetStreamHandler(WhoisProtocol, d.handle(d.serveWhois))
	h.SetStreamHandler(NoticeProtocol, d.handle(d.serveNotice))
	h.SetStreamHandler(WatchProtocol, d.handle(d.serveWatch))
	d.notify = &network.NotifyBundle{
		ConnectedF:    func(_ network.Network, c network.Conn) { d.connected(c, c.Stat().Direction == network.DirOutbound) },
		DisconnectedF: func(_ network.Network, c network.Conn) { d.disconnected(c) },
	}
	h.Network().Notify(d.notify)
	for _, c := range h.Network().Conns() {
		// Greet even if the other side dialled: its hello may have come before our handler was
		// there.
		d.connected(c, true)
	}
	return d, nil
}

// App returns the app that the directory belongs to.
func (d *Directory) App() identity.AppID { return d.app }

// Incarnation returns the number that distinguishes this run of the node from every other; random,
// never 0.
func (d *Directory) Incarnation() uint64 { return d.incarnation }

// Online returns the log-ins of connected peers, sorted by name, key and peer. It does not include
// this node's own.
func (d *Directory) Online() []identity.Login {
	now := time.Now()
	d.mu.Lock()
	var all []identity.Login
	for _, c := range d.contacts {
		if c.loggedIn(now) {
			all = append(all, c.session.Statement.Login())
		}
	}
	d.mu.Unlock()
	slices.SortFunc(all, func(a, b identity.Login) int {
		return cmp.Or(cmp.Compare(a.User, b.User), slices.Compare(a.Key[:], b.Key[:]), cmp.Compare(a.Peer, b.Peer))
	})
	return all
}

// Foreign reports whether this node or that peer recently refused a hello: within the last 10
// minutes if the peer is of another app, within the last minute for any other reason. A search for
// peers should not dial it.
func (d *Directory) Foreign(p peer.ID) bool {
	r, ok := d.refusals.Get(p)
	return ok && time.Now().Before(r.until)
}

// Close says good-bye to the connected peers if the node is logged in, which takes at most half a
// second. It ends everything that the directory does, and returns when all its goroutines have
// ended. The host stays open. The observer must not call it. It may be called again; every call
// returns nil.
func (d *Directory) Close() error { return d.close() }

func (d *Directory) shutdown() error {
	for _, p := range protocols {
		d.host.RemoveStreamHandler(p)
	}
	d.mu.Lock()
	d.closing = true
	bye := d.in
	if bye {
		d.logoutLocked()
	}
	d.mu.Unlock()
	if bye {
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		d.farewell(ctx)
		cancel()
	}

	d.host.Network().StopNotify(d.notify)
	d.mu.Lock()
	d.tasks.Close()
	d.mu.Unlock()
	d.stop()
	d.tasks.Wait()
	_ = d.dht.Close()
	d.events.end()
	return nil
}

// closeGrace is how long Close allows for the good-bye: enough for a round trip to most places, and
// short enough to go unnoticed when a program ends.
const closeGrace = 500 * time.Millisecond

// handle makes a stream handler from f. It refuses streams once closing has begun, and ends f's
// stream when the directory is closed.
func (d *Directory) handle(f func(context.Context, network.Stream)) network.StreamHandler {
	return func(s network.Stream) {
		if !d.enter() {
			_ = s.Reset()
			return
		}
		defer d.tasks.Leave()
		defer context.AfterFunc(d.ctx, func() { _ = s.Reset() })()
		f(d.ctx, s)
	}
}

// enter counts the caller among the tasks. It returns false once closing has begun.
func (d *Directory) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.closing && d.tasks.Enter()
}

func newIncarnation() uint64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	c, err := lru.New[K, V](size)
	if err != nil {
		panic("presence: " + err.Error()) // only a size below 1 fails
	}
	return c
}
