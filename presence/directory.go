package presence

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

// Directory knows who the connected peers are, shows peers who this node is, and finds users. Make
// one with [New]. All methods are safe for concurrent use.
type Directory struct {
	*people
	own     *account
	rivals  *rivals
	lists   *revocations
	hellos  *greeter
	notices *notices
	whois   *whois
	watches *watches
	finder  *finder
	dht     *dht.DHT

	close  func() error
	notify *network.NotifyBundle // reports connections of the host
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
		return nil, fmt.Errorf("options: %w", err)
	}
	if err := keys.Check(); err != nil {
		return nil, err
	}
	if a := cfg.authority; a != nil && a.App() != app {
		return nil, fmt.Errorf("the authority is of another app: %s", a.Name())
	}
	if id := keys.PeerID(); id != h.ID() {
		return nil, fmt.Errorf("the host is %s, the device key is %s's", h.ID(), id)
	}
	e := &env{
		host: h, id: h.ID(), app: app, keys: keys, userKey: keys.UserKey(), cfg: cfg, clock: cfg.clock,
		verifier:    identity.NewVerifier(app, identity.WithAuthority(cfg.authority)),
		incarnation: newIncarnation(),
		started:     cfg.clock.Now(),
		events:      newDispatcher(cfg.observer),
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	d := newDirectory(e)
	d.close = sync.OnceValue(d.shutdown)
	go d.events.run()
	d.tasks.Go(d.refresh)
	if cfg.authority != nil {
		d.lists.load()
		d.tasks.Go(d.tendTokens)
		h.SetStreamHandler(RevocationsProtocol, d.handle(func(ctx context.Context, s network.Stream) {
			d.lists.serve(ctx, s, d.hellos.mayHaveList)
		}))
	}
	if err := d.openDHT(); err != nil {
		h.RemoveStreamHandler(RevocationsProtocol)
		d.stop()
		d.tasks.Wait()
		d.events.end()
		return nil, err
	}
	h.SetStreamHandler(HelloProtocol, d.handle(d.hellos.serveHello))
	h.SetStreamHandler(WhoisProtocol, d.handle(d.whois.serve))
	h.SetStreamHandler(NoticeProtocol, d.handle(d.notices.serve))
	h.SetStreamHandler(WatchProtocol, d.handle(d.watches.serve))
	d.notify = &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			d.hellos.connected(c, c.Stat().Direction == network.DirOutbound)
		},
		DisconnectedF: func(_ network.Network, c network.Conn) { d.hellos.disconnected(c) },
	}
	h.Network().Notify(d.notify)
	for _, c := range h.Network().Conns() {
		// Greet even if the other side dialled: its hello may have come before our handler was
		// there.
		d.hellos.connected(c, true)
	}
	return d, nil
}

// newDirectory puts the parts together.
func newDirectory(e *env) *Directory {
	statuses := newInquiries(e.clock)
	d := &Directory{people: newPeople(e), own: newAccount(e)}
	d.rivals = newRivals(d.own, d.people, statuses)
	d.own.changed = d.changedLocked
	d.own.namesakes = d.namedLocked
	d.lists = &revocations{people: d.people, announce: func() {
		d.own.version++
		d.hellos.kickAllLocked()
	}}
	d.hellos = newGreeter(d.people, d.own, d.lists, d)
	d.notices = newNotices(d.hellos, d.rivals.observe)
	d.rivals.send = d.notices.sendLocked
	d.whois = &whois{people: d.people, hellos: d.hellos, observe: d.rivals.observe}
	d.watches = newWatches(d.own, d.hellos, d.rivals.observe)
	d.finder = newFinder(d.own, d.hellos, d.whois, statuses, d.rivals.observe)
	return d
}

// App returns the app that the directory belongs to.
func (d *Directory) App() identity.AppID { return d.app }

// Incarnation returns the number that distinguishes this run of the node from every other; random,
// never 0.
func (d *Directory) Incarnation() uint64 { return d.incarnation }

// Online returns the log-ins of connected peers, sorted by name, key and peer. It does not include
// this node's own.
func (d *Directory) Online() []identity.Login {
	now := d.clock.Now()
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

// OnlineAs returns the users of a name who are logged in on connected peers, in no order. It does
// not wait.
func (d *Directory) OnlineAs(user string) []identity.Login {
	now := d.clock.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	return logins(d.finder.connectedLocked(want{Address: identity.Address{User: user}}, now))
}

// Close says good-bye to the connected peers, unless [Directory.Goodbye] has, which takes at most
// half a second. It ends everything that the directory does, and returns when all its goroutines
// have ended. The host stays open. The observer must not call it. It may be called again; every
// call returns nil.
func (d *Directory) Close() error { return d.close() }

// changedLocked makes all who are to know this node's statement learn that it has changed.
func (d *Directory) changedLocked() {
	d.dht.Wake()
	d.hellos.kickAllLocked()
}

// metLocked implements [witness].
func (d *Directory) metLocked(p peer.ID, st *identity.Statement) {
	d.finder.statuses.changed(p, st)
	d.own.tokenWake.Set()
	if st != nil {
		d.notices.sendLocked(d.rivals.observeLocked(st))
	}
}

// partedLocked implements [witness].
func (d *Directory) partedLocked(c *contact) {
	d.finder.statuses.parted(c.id, c.session.Statement, c.heard)
}

func (d *Directory) shutdown() error {
	for _, p := range protocols {
		d.host.RemoveStreamHandler(p)
	}
	d.mu.Lock()
	d.closing = true
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	d.Goodbye(ctx)
	cancel()

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
