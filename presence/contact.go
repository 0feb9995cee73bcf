package presence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/identity"
)

// contact is a connected peer. Directory.mu guards it.
type contact struct {
	id      peer.ID
	conns   map[network.Conn]*link
	fresh   []network.Conn // ours to open a hello on, not yet done
	session identity.Session
	known   bool      // session holds
	told    uint64    // the version of our statement that the peer has confirmed
	running bool      // a greet is running
	final   error     // no further hello will be tried: the peer refuses, or speaks another language
	err     error     // of the last hello that failed
	inbound int       // hellos under way that the peer opened
	opening bool      // a hello is under way that we opened
	twins   bool      // two nodes were seen behind this peer ID
	counts  bool      // the session is of a log-in that counted when we looked last
	lists   lists     // of revocations, from this peer
	heard   time.Time // when it last proved that it is there
	watches int       // of this node, that it has open

	wake    chan struct{} // a token cuts greet's pause short
	settled chan struct{} // closed and replaced when a hello has ended, either way
	gone    chan struct{} // closed with the last connection

	hellos, asks, notices *rate.Limiter // what the peer may open
}

// link is one connection to a contact.
type link struct {
	opened      time.Time
	limited     bool
	dialled     bool // by us
	remote      ma.Multiaddr
	incarnation uint64 // that spoke on it; 0: none yet
}

// What one peer may open at once and in a time. An honest peer sends a hello per change of its statement and a whois per
// user that it looks for; the rest is room for many look-ups at the start.
const (
	maxInboundPeer = 4
	helloRate      = 2
	helloBurst     = 16
	whoisRate      = 8
	whoisBurst     = 32
	noticeRate     = 1
	noticeBurst    = 16
)

func newContact(p peer.ID) *contact {
	return &contact{
		id:      p,
		conns:   make(map[network.Conn]*link),
		wake:    make(chan struct{}, 1),
		settled: make(chan struct{}),
		gone:    make(chan struct{}),
		hellos:  rate.NewLimiter(helloRate, helloBurst),
		asks:    rate.NewLimiter(whoisRate, whoisBurst),
		notices: rate.NewLimiter(noticeRate, noticeBurst),
		lists:   newLists(),
	}
}

// loggedIn reports whether the peer's statement says so and still holds.
func (c *contact) loggedIn(now time.Time) bool {
	return c.known && loggedIn(c.session.Statement, now)
}

func loggedIn(st *identity.Statement, now time.Time) bool {
	return st != nil && st.LoggedInAt(now)
}

func (c *contact) settleLocked(err error) {
	if err != nil {
		c.err = err
	}
	close(c.settled)
	c.settled = make(chan struct{})
}

// connected takes in a connection; with greet, this node opens the hello. It may be called for one that is known.
func (d *Directory) connected(conn network.Conn, greet bool) *contact {
	p, stat := conn.RemotePeer(), conn.Stat()
	if p == d.id {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	c := d.contacts[p]
	if c == nil {
		c = newContact(p)
	}
	if c.conns[conn] == nil {
		// A connection that ends from here on is taken out by disconnected, which waits for our lock; one that has
		// ended before would never be.
		if conn.IsClosed() {
			return nil
		}
		c.conns[conn] = &link{
			opened: stat.Opened, limited: stat.Limited,
			dialled: stat.Direction == network.DirOutbound, remote: conn.RemoteMultiaddr(),
		}
		d.contacts[p] = c
	}
	if greet && !slices.Contains(c.fresh, conn) {
		c.fresh = append(c.fresh, conn)
		c.final = nil
		d.kickLocked(c)
	}
	return c
}

func (d *Directory) disconnected(conn network.Conn) {
	p := conn.RemotePeer()
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.contacts[p]
	if c == nil || c.conns[conn] == nil {
		return
	}
	delete(c.conns, conn)
	c.fresh = slices.DeleteFunc(c.fresh, func(f network.Conn) bool { return f == conn })
	if len(c.conns) > 0 {
		return
	}
	delete(d.contacts, p)
	close(c.gone)
	c.settleLocked(ErrNotConnected)
	if c.known {
		d.unindexLocked(c)
		d.statuses.parted(p, c.session.Statement, c.heard)
		d.events.push(PeerDown{Peer: p})
	}
	d.progressLocked()
}

func (d *Directory) progressLocked() {
	close(d.progress)
	d.progress = make(chan struct{})
}

// kickLocked makes sure that the peer is, or is being, told what it does not know.
func (d *Directory) kickLocked(c *contact) {
	if !c.running {
		c.running = d.goLocked(func() { d.greet(c) })
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// greet opens hellos with one peer, one after the other, until it has been told everything on every connection that is
// ours to greet on.
func (d *Directory) greet(c *contact) {
	for attempt := 0; ; attempt++ {
		conn := d.nextHello(c, attempt)
		if conn == nil {
			return
		}
		err := d.openHello(conn)
		d.mu.Lock()
		c.opening = false
		d.progressLocked()
		d.mu.Unlock()
		if err == nil {
			attempt = -1
			continue
		}
		d.helloFailed(c, conn, err, attempt)
		pause := time.NewTimer(helloPause(attempt))
		select {
		case <-pause.C:
		case <-c.wake: // there is news, or a new connection: begin anew with the newest
			attempt = -1
		case <-c.gone:
		case <-d.ctx.Done():
		}
		pause.Stop()
	}
}

// maxUnsupported is how often a peer that does not speak hello is tried: it may be starting.
const maxUnsupported = 4

// helloPause is how long to wait after failed attempt n, from 0: 250 ms, 1 s, 4 s, 16 s, and then a minute, each up to
// half as much longer so that peers do not meet in step.
func helloPause(n int) time.Duration {
	p := time.Minute
	if n < 4 {
		p = 250 * time.Millisecond << (2 * n)
	}
	return p + rand.N(p/2)
}

// nextHello picks the connection for the next hello. When there is nothing to tell, it ends the greeting and returns nil.
func (d *Directory) nextHello(c *contact, attempt int) network.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	need := len(c.fresh) > 0 || !c.known || c.told < d.version
	if d.ctx.Err() != nil || len(c.conns) == 0 || c.final != nil || !need {
		c.running = false
		return nil
	}
	c.opening = true
	if len(c.fresh) > 0 {
		return c.fresh[0]
	}
	conns := c.newestFirst()
	return conns[attempt%len(conns)]
}

// newestFirst orders the connections: the newest is the least likely to be a dead one that nobody has noticed.
func (c *contact) newestFirst() []network.Conn {
	conns := make([]network.Conn, 0, len(c.conns))
	for conn := range c.conns {
		conns = append(conns, conn)
	}
	slices.SortFunc(conns, func(a, b network.Conn) int {
		return cmp.Or(c.conns[b].opened.Compare(c.conns[a].opened), cmp.Compare(a.ID(), b.ID()))
	})
	return conns
}

func (d *Directory) helloFailed(c *contact, conn network.Conn, err error, attempt int) {
	d.stats.helloFailed.Add(1)
	d.cfg.log.Debug("hello failed", "peer", c.id, "err", err)
	d.mu.Lock()
	defer d.mu.Unlock()
	c.fresh = slices.DeleteFunc(c.fresh, func(f network.Conn) bool { return f == conn })
	refused, unsupported := (*RefusedError)(nil), multistream.ErrNotSupported[protocol.ID]{}
	if errors.As(err, &refused) || errors.As(err, &unsupported) && attempt+1 >= maxUnsupported {
		c.final = err
	}
	c.settleLocked(err)
}

// open opens a stream on one connection. The host's own NewStream would choose the connection, and may choose a dead one.
func (d *Directory) open(ctx context.Context, conn network.Conn, proto protocol.ID) (network.Stream, error) {
	s, err := conn.NewStream(network.WithAllowLimitedConn(ctx, string(proto)))
	if err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if ok {
		_ = s.SetDeadline(deadline) // a transport without deadlines still has ctx, which resets the stream
	}
	if err := s.SetProtocol(proto); err != nil {
		_ = s.Reset()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if err := multistream.SelectProtoOrFail(proto, s); err != nil {
		_ = s.Reset()
		return nil, err
	}
	return s, nil
}

// install takes in what a peer has said and proved on a connection. Version is that of our statement which the peer has confirmed, 0 if it has
// not yet.
func (d *Directory) install(conn network.Conn, s identity.Session, version uint64) {
	p := conn.RemotePeer()
	d.mu.Lock()
	c := d.contacts[p]
	if c == nil || c.conns[conn] == nil || d.closed {
		d.mu.Unlock()
		return
	}
	c.conns[conn].incarnation = s.Incarnation
	was, restarted := c.session, c.known && c.session.Incarnation != s.Incarnation
	var twin network.Conn
	if restarted {
		twin = c.speaker(was.Incarnation)
		c.told = 0
	}
	if c.known && !restarted && supersedes(was.Statement, s.Statement) {
		s.Statement = was.Statement // two hellos have overtaken each other
	}
	d.unindexLocked(c)
	up := !c.known
	c.session, c.known, c.final = s, true, nil
	c.told = max(c.told, version)
	c.heard = time.Now()
	c.counts = c.loggedIn(c.heard)
	d.statuses.changed(p, s.Statement)
	d.wakeTokensLocked()
	d.indexLocked(c)
	d.refusals.Remove(p)
	switch {
	case up:
		d.events.push(PeerUp{Peer: p, Session: s})
	case changed(was, s):
		d.events.push(PeerChanged{Peer: p, Session: s})
	}
	var notices []notice
	if s.Statement != nil {
		notices = d.observeLocked(s.Statement)
	}
	d.noticeLocked(notices)
	if twin != nil && !c.twins {
		d.goLocked(func() { d.probeTwin(c, twin, was, conn, s) })
	}
	c.settleLocked(nil)
	if c.told < d.version && (version != 0 || !c.running) { // greet goes on by itself, and must not be hurried by its peer
		d.kickLocked(c)
	}
	d.progressLocked()
	d.mu.Unlock()
	d.remember(conn, s)
}

// confirmed notes that the incarnation of a peer which spoke on conn has our statement of that version.
func (d *Directory) confirmed(conn network.Conn, version uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.contacts[conn.RemotePeer()]
	if c == nil || c.conns[conn] == nil {
		return
	}
	c.fresh = slices.DeleteFunc(c.fresh, func(f network.Conn) bool { return f == conn })
	if c.known && c.conns[conn].incarnation == c.session.Incarnation {
		c.told = max(c.told, version)
	}
	c.settleLocked(nil)
	d.progressLocked()
}

// speaker returns a connection on which that incarnation has spoken and which is still there.
func (c *contact) speaker(incarnation uint64) network.Conn {
	for conn, l := range c.conns {
		if l.incarnation == incarnation && !conn.IsClosed() {
			return conn
		}
	}
	return nil
}

// supersedes reports whether was, from the same incarnation, is later than the one that came now.
func supersedes(was, now *identity.Statement) bool {
	return was != nil && (now == nil || was.Newer(now))
}

func changed(a, b identity.Session) bool {
	if (a.Statement == nil) != (b.Statement == nil) {
		return true
	}
	if a.Statement != nil && a.Statement != b.Statement && (a.Statement.Newer(b.Statement) || b.Statement.Newer(a.Statement)) {
		return true
	}
	return a.Incarnation != b.Incarnation || a.Capabilities != b.Capabilities ||
		a.MaxEnvelope != b.MaxEnvelope || a.MaxMessage != b.MaxMessage
}

// remember keeps where the peer is. It may write to the disk.
func (d *Directory) remember(conn network.Conn, s identity.Session) {
	r := identity.Remembered{Seen: time.Now()}
	r.Login.Peer = conn.RemotePeer()
	if s.Statement != nil {
		r.Login = s.Statement.Login()
	}
	if conn.Stat().Direction == network.DirOutbound { // the one address of which we know that it works
		r.Addrs = append(r.Addrs, conn.RemoteMultiaddr().String())
	}
	for _, a := range s.Addrs {
		if text := a.String(); !slices.Contains(r.Addrs, text) {
			r.Addrs = append(r.Addrs, text)
		}
	}
	if err := d.cfg.store.Remember(r); err != nil {
		d.cfg.log.Warn("remember peer", "peer", r.Login.Peer, "err", err)
	}
}

// Peer returns what a connected peer has said in its hello, verified. If a hello is under way, or has not begun, it waits
// for it, for at most 5 s. Errors are [ErrNotConnected], a [*RefusedError], [ErrNoHello], [ErrClosed], or that of ctx.
func (d *Directory) Peer(ctx context.Context, p peer.ID) (identity.Session, error) {
	var timeout <-chan time.Time
	for {
		d.mu.Lock()
		c := d.contacts[p]
		switch {
		case d.closing:
			d.mu.Unlock()
			return identity.Session{}, ErrClosed
		case c == nil:
			d.mu.Unlock()
			if !d.takeIn(p) {
				return identity.Session{}, d.notConnected(p)
			}
			continue
		case c.known:
			s := c.session
			s.Addrs = slices.Clone(s.Addrs)
			d.mu.Unlock()
			return s, nil
		case c.final != nil:
			err := c.final
			d.mu.Unlock()
			return identity.Session{}, noHello(p, err)
		}
		settled, last := c.settled, c.err
		if !c.running && c.inbound == 0 && timeout != nil { // waited for the dialler to begin, in vain
			d.kickLocked(c)
		}
		d.mu.Unlock()

		if timeout == nil {
			t := time.NewTimer(helloTimeout)
			defer t.Stop()
			timeout = t.C
		}
		nudge := time.NewTimer(helloNudge)
		select {
		case <-settled:
		case <-nudge.C:
		case <-timeout:
			nudge.Stop()
			return identity.Session{}, noHello(p, last)
		case <-ctx.Done():
			nudge.Stop()
			return identity.Session{}, ctx.Err()
		case <-d.ctx.Done():
			nudge.Stop()
			return identity.Session{}, ErrClosed
		}
		nudge.Stop()
	}
}

// helloNudge is how long Peer gives the dialler to begin before this node opens the hello itself.
const helloNudge = 500 * time.Millisecond

// takeIn takes in connections that the host has and has not told us of yet.
func (d *Directory) takeIn(p peer.ID) bool {
	found := false
	for _, conn := range d.host.Network().ConnsToPeer(p) {
		if d.connected(conn, conn.Stat().Direction == network.DirOutbound) != nil {
			found = true
		}
	}
	return found
}

func (d *Directory) notConnected(p peer.ID) error {
	if refusal, ok := d.refusals.Get(p); ok && time.Now().Before(refusal.until) {
		return refusal.err
	}
	return fmt.Errorf("presence: %w: %s", ErrNotConnected, p)
}

func noHello(p peer.ID, cause error) error {
	if refused := (*RefusedError)(nil); errors.As(cause, &refused) {
		return refused
	}
	if cause == nil {
		return fmt.Errorf("presence: %w %s", ErrNoHello, p)
	}
	return fmt.Errorf("presence: %w %s: %w", ErrNoHello, p, cause)
}
