package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/events"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/presence"
)

// ErrClosed says that the node is closed, or was closed while the call waited. It is
// [identity.ErrClosed].
var ErrClosed = identity.ErrClosed

// ErrOtherDevice reports that a host and a data directory have different device keys.
var ErrOtherDevice = errors.New("the host has another key than the data directory")

// goodbyeTimeout bounds how long Close takes to say goodbye to peers. Leaving rooms runs at the
// same time, and takes at most 1 s too.
const goodbyeTimeout = time.Second

// historyFile is the file of WithHistoryStore in the data directory.
const historyFile = "history.db"

// Node is one embedded node. Make one with [New]. Its methods are safe for concurrent use, except
// that only one goroutine at a time may read with Recv or Events.
type Node struct {
	cfg      config
	settings mesh.Settings
	log      *slog.Logger
	clock    walltime.Clock
	app      identity.AppID
	tokens   *identity.Authority // nil: open mode
	dir      *identity.Dir       // nil: in memory
	keys     *identity.Keys
	pins     *identity.Pins
	host     host.Host
	presence *presence.Directory
	store    *mesh.Store // nil: rooms are kept in memory
	mesh     *mesh.Mesh
	queue    *events.Queue[Event]
	lan      *lan // nil: no mDNS
	dialer   *dialer
	monitor  *monitor
	retries  chan struct{} // holds a token for each retry of Connect under way

	ctx   context.Context // ends when Close has said goodbye
	stop  context.CancelFunc
	close func() error
	undo  []func() error // closes what New has opened, last first
	tasks task.Group     // every goroutine and every call that Close waits for

	mu    sync.Mutex
	peers map[peer.ID]Peer // the connected peers, as the events have reported them
}

// New starts a node: it opens the data directory, listens, and looks for peers from then on. It
// waits for no other node. The node has no user yet: see [Node.Login] and [Node.SetUser].
func New(opts ...Option) (*Node, error) {
	cfg := defaultConfig()
	for _, o := range opts {
		o(&cfg)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	settings, _ := mesh.Settle(cfg.mesh...) // validate has checked them
	ctx, stop := context.WithCancel(context.Background())
	n := &Node{
		cfg: cfg, settings: settings, log: cfg.log, clock: cfg.clock,
		queue: newQueue(settings.Queue, cfg.clock),
		ctx:   ctx, stop: stop,
		retries: make(chan struct{}, connectRetries),
		peers:   make(map[peer.ID]Peer),
	}
	n.close = sync.OnceValue(n.shutdown)
	for _, step := range []func() error{n.openApp, n.openKeys, n.openHost, n.openLayers, n.listen} {
		if err := step(); err != nil {
			n.stop()
			n.closeAll()
			return nil, err
		}
	}
	n.start()
	return n, nil
}

// openApp reads the issuers, if there are any.
func (n *Node) openApp() (err error) {
	issuers := n.cfg.issuers
	if n.cfg.issuersFile != "" {
		if issuers, err = identity.ReadIssuers(n.cfg.issuersFile); err != nil {
			return err
		}
	}
	if issuers.IsZero() {
		n.app = identity.NewAppID(n.cfg.app)
		return nil
	}
	if n.tokens, err = identity.NewAuthority(n.cfg.app, issuers, identity.WithLeeway(n.cfg.leeway)); err != nil {
		return err
	}
	n.app = n.tokens.App()
	return nil
}

// openKeys takes the keys from the data directory, from the caller's host, or makes new ones.
func (n *Node) openKeys() (err error) {
	switch h := n.cfg.host; {
	case n.cfg.dataDir != "":
		if n.dir, err = identity.OpenDir(n.cfg.dataDir); err != nil {
			return err
		}
		n.dir.SetClock(n.clock)
		n.undo = append(n.undo, n.dir.Close)
		n.keys = n.dir.Keys()
		if h != nil && h.ID() != n.keys.PeerID() {
			return ErrOtherDevice
		}
	case h != nil:
		key, err := hostKey(h)
		if err != nil {
			return fmt.Errorf("host: %w", err)
		}
		n.keys = &identity.Keys{Device: key, User: key}
	default:
		if n.keys, err = identity.GenerateKeys(); err != nil {
			return err
		}
	}
	if n.cfg.userKey != nil {
		var user ed25519.PrivateKey
		if user, err = identity.ParseKey(n.cfg.userKey); err != nil {
			return err
		}
		n.keys = n.keys.WithUser(user)
	}
	return nil
}

func (n *Node) openHost() (err error) {
	if n.host = n.cfg.host; n.host != nil {
		return nil
	}
	var closeHost func() error
	if n.host, closeHost, err = newHost(&n.cfg, n.keys); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	n.undo = append(n.undo, closeHost)
	return nil
}

// openLayers puts presence and mesh on the host before it listens, so that every connection finds
// their handlers.
func (n *Node) openLayers() (err error) {
	n.dialer, n.monitor = newDialer(n), newMonitor(n)
	if n.pins = identity.NewPins(); n.dir != nil {
		n.pins = n.dir.Pins()
	}
	if n.cfg.mdns {
		n.lan = newLAN(n.host, n.app, n.log, n.clock, func(info peer.AddrInfo) {
			n.dialer.want(n.clock.Now(), info.ID, info.Addrs, onLAN)
		})
	}
	n.host.Network().Notify(n.dialer)
	n.undo = append(n.undo, func() error {
		n.host.Network().StopNotify(n.dialer)
		return nil
	})
	opts := []presence.Option{
		presence.WithObserver(n.observe), presence.WithLogger(n.log), presence.WithClock(n.clock), presence.WithMaxMessage(n.settings.MaxMessage),
		presence.WithGrace(n.settings.Grace), presence.WithRates(n.settings.Rates),
		presence.WithAuthority(n.tokens), presence.WithPins(n.pins),
	}
	if n.cfg.dht {
		scopes := []presence.Scope{presence.LAN}
		if n.cfg.wan {
			scopes = append(scopes, presence.WAN)
		}
		opts = append(opts, presence.WithDHT(scopes...))
	}
	if n.dir != nil {
		opts = append(opts, presence.WithRemembered(n.dir))
	}
	if n.presence, err = presence.New(n.host, n.app, n.keys, opts...); err != nil {
		return err
	}
	n.undo = append(n.undo, n.presence.Close)
	if n.cfg.keepHistory {
		if n.store, err = mesh.OpenStore(filepath.Join(n.dir.Path(), historyFile), 0); err != nil {
			return err
		}
		n.undo = append(n.undo, n.store.Close)
	}
	around := []mesh.Option{
		mesh.WithLogger(n.log), mesh.WithClock(n.clock), mesh.WithInbox(n.takeDirect), mesh.WithPins(n.pins),
		mesh.WithAuthority(n.tokens), mesh.WithStore(n.store), mesh.WithLink(n.monitor.linkDown),
	}
	if n.cfg.allEvents {
		around = append(around, mesh.WithEvents(n.queue))
	}
	if n.dir != nil {
		around = append(around, mesh.WithOrderKeeper(n.dir))
	}
	for _, s := range n.cfg.mesh {
		around = append(around, s)
	}
	if n.mesh, err = mesh.New(n.host, n.presence, around...); err != nil {
		return err
	}
	n.undo = append(n.undo, n.mesh.Close)
	return nil
}

// listen opens the sockets of the node's own host, and keeps their ports for the next start.
func (n *Node) listen() error {
	if n.cfg.host != nil {
		return nil
	}
	l := listener{network: n.host.Network(), log: n.log}
	if n.dir != nil {
		l.kept = n.dir.Ports()
	}
	if err := l.listen(n.cfg.listen); err != nil {
		return err
	}
	if n.dir != nil {
		return n.dir.SetPorts(l.chosen)
	}
	return nil
}

// start runs the node's loops. It cannot fail.
func (n *Node) start() {
	n.log.Info("node started", "peer", n.host.ID(), "app", n.cfg.app, "addrs", n.host.Addrs())
	n.monitor.start()
	now := n.clock.Now()
	for _, s := range n.cfg.peers {
		info, _ := parsePeer(s) // validate has checked it
		if info.ID == n.host.ID() {
			reason, detail := failure(errOwnAddress)
			n.queue.PushNotice(&PeerFailed{Header: Header{Type: TypePeerFailed}, Peer: info.ID, Addrs: []string{s}, Reason: reason, Detail: detail})
			continue
		}
		n.host.ConnManager().Protect(info.ID, protectGiven)
		n.dialer.want(now, info.ID, info.Addrs, given)
	}
	if n.dir != nil {
		n.recall(now)
	}
	if n.lan != nil {
		n.tasks.Go(func() { n.lan.run(n.ctx) })
	}
	n.tasks.Go(func() { n.dialer.run(n.ctx) })
	n.tasks.Go(func() { n.watch(n.ctx) })
	n.tasks.Go(func() { n.monitor.run(n.ctx) })
}

// Close leaves all rooms, logs out, closes the node and returns within 2 s, when all its goroutines
// have ended and all calls have returned. A host given by [WithHost] stays open. Close may be
// called again, from any goroutine; every call returns the same result.
func (n *Node) Close() error { return n.close() }

func (n *Node) shutdown() error {
	n.tasks.Close() // 1. take no new work

	var polite sync.WaitGroup // 2. say goodbye: to the rooms, and to connected peers
	polite.Go(func() { _ = n.mesh.Close() })
	polite.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
		defer cancel()
		n.sayGoodbye(ctx)
	})
	polite.Wait()

	n.stop()            // 3. end loops and waiting calls
	err := n.closeAll() // 4. presence, host, data directory
	n.monitor.close()
	n.queue.End(ErrClosed)
	n.log.Info("node closed", "peer", n.host.ID())
	return err
}

// closeAll closes what New has opened, last first. Before the data directory it waits for the
// node's own goroutines, which write to it.
func (n *Node) closeAll() error {
	var errs []error
	for i := len(n.undo) - 1; i >= 0; i-- {
		if i == 0 {
			n.tasks.Wait()
		}
		errs = append(errs, n.undo[i]())
	}
	n.tasks.Wait()
	return errors.Join(errs...)
}

// enter begins a call. Close waits for the call, whose context ends with ctx and with the node.
// enter fails once closing has begun. The caller must call done.
func (n *Node) enter(ctx context.Context) (call context.Context, done func(), err error) {
	if !n.tasks.Enter() {
		return nil, nil, ErrClosed
	}
	call, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(n.ctx, func() { cancel(ErrClosed) })
	return call, func() {
		unhook()
		cancel(nil)
		n.tasks.Leave()
	}, nil
}

// ended adds ErrClosed to the error of a call that Close has cut short, and not its caller.
func ended(call context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(call), ErrClosed) && !errors.Is(err, ErrClosed) {
		return errors.Join(ErrClosed, err)
	}
	return err
}

// ID returns the node's peer ID.
func (n *Node) ID() peer.ID { return n.host.ID() }

// Host returns the libp2p host, for what this package does not offer. It is closed with the node,
// unless it was given by [WithHost].
func (n *Node) Host() host.Host { return n.host }

// Addrs returns the addresses to give to others, each ending in /p2p/ and the peer ID. Addresses of
// interfaces that have just changed may be missing for some seconds.
func (n *Node) Addrs() []ma.Multiaddr {
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()})
	if err != nil {
		return nil // fails only for an invalid peer ID
	}
	return addrs
}

// Recv returns the next event of the node, and waits for one until ctx ends. Events are queued
// since New. After the last one it returns [ErrClosed]. With [WithAllEvents] it returns
// [mesh.ErrOtherStream] at once.
func (n *Node) Recv(ctx context.Context) (Event, error) {
	if n.cfg.allEvents {
		return nil, mesh.ErrOtherStream
	}
	return n.queue.Recv(ctx)
}

// Events ranges over [Node.Recv]. It ends silently when the node is closed; otherwise the last pair
// has an error. Breaking out of the loop leaves the stream open.
func (n *Node) Events(ctx context.Context) iter.Seq2[Event, error] {
	return n.read(ctx, !n.cfg.allEvents)
}

// RecvAny returns the next event of the node or of one of its rooms, and waits for one until ctx
// ends. The events come in the order in which they were queued since New, once each. [Header].Room
// and [Header].Stay say which room an event is of, and which stay there; both are zero for events
// of the node. The last event of a stay is a [mesh.RoomEnded]. The bounds are those of a room: see
// [mesh.WithQueue]. A [mesh.Lagged] counts what was dropped of one room.
//
// It needs [WithAllEvents]; without, it returns [mesh.ErrOtherStream] at once. After the last event
// it returns [ErrClosed]. Only one goroutine at a time may read.
func (n *Node) RecvAny(ctx context.Context) (Event, error) {
	if !n.cfg.allEvents {
		return nil, mesh.ErrOtherStream
	}
	return n.queue.Recv(ctx)
}

// AllEvents ranges over [Node.RecvAny]. It ends silently when the node is closed; otherwise the
// last pair has an error. Breaking out of the loop leaves the stream open.
func (n *Node) AllEvents(ctx context.Context) iter.Seq2[Event, error] {
	return n.read(ctx, n.cfg.allEvents)
}

// read ranges over the node's queue, if that is the stream that was asked for.
func (n *Node) read(ctx context.Context, there bool) iter.Seq2[Event, error] {
	if !there {
		return func(yield func(Event, error) bool) { yield(nil, mesh.ErrOtherStream) }
	}
	return n.queue.All(ctx, func(err error) bool { return errors.Is(err, ErrClosed) })
}

// Stats is a snapshot of what a node has counted since [New].
type Stats struct {
	Mesh        mesh.Stats
	Connections int    // now
	Peers       int    // nodes of this app that are connected now
	Targets     int    // peers that the node would dial if they were lost
	Dials       uint64 // attempts to reconnect or to connect by itself
	DialsFailed uint64
}

// Stats returns a snapshot. Each number is read separately, so they need not add up while the node
// works.
func (n *Node) Stats() Stats {
	s := Stats{Mesh: n.mesh.Stats(), Connections: len(n.host.Network().Conns())}
	n.mu.Lock()
	s.Peers = len(n.peers)
	n.mu.Unlock()
	n.dialer.count(&s)
	return s
}
