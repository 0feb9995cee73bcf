package presence

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
)

// contact is a connected peer. The lock of people guards it.
type contact struct {
	id      peer.ID
	conns   map[network.Conn]*link
	fresh   []network.Conn // on which we have yet to open a hello
	session identity.Session
	known   bool   // session is valid
	told    uint64 // the version of our statement that the peer has confirmed
	running bool   // a greet is running
	final   error  // no further hello will be tried: the peer refuses, or speaks another protocol
	err     error  // of the last hello that failed
	inbound int    // hellos under way that the peer opened
	opening bool   // a hello that we opened is under way
	twins   bool   // two nodes were seen behind this peer ID
	// The session was of a log-in that counted when last checked.
	counts  bool
	lists   lists     // of revocations, from this peer
	heard   time.Time // when it was last known to be alive
	renewed time.Time // when this node last asked it for its present state
	watches int       // watches of this node that the peer has open

	wake    task.Wake     // cuts greet's pause short
	settled task.Changes  // a hello has ended, completed or failed
	gone    chan struct{} // closed with the last connection

	hellos, asks, notices *rate.Limiter // limits on what the peer may open
}

// link is one connection to a contact.
type link struct {
	failed      bool // a hello on it has
	greeted     bool // this node has opened a hello on it, or is about to
	opened      time.Time
	limited     bool
	dialled     bool // by us
	remote      ma.Multiaddr
	incarnation uint64 // of the node that spoke on it; 0: none yet
}

// Limits on what one peer may have open at once and open over time. An honest peer sends a hello
// per change of its statement and a whois per user that it looks for; the rest leaves room for many
// look-ups at the start.
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
		wake:    task.NewWake(),
		gone:    make(chan struct{}),
		hellos:  rate.NewLimiter(helloRate, helloBurst),
		asks:    rate.NewLimiter(whoisRate, whoisBurst),
		notices: rate.NewLimiter(noticeRate, noticeBurst),
		lists:   newLists(),
	}
}

// loggedIn reports whether the peer's statement is of a log-in that counts at that time.
func (c *contact) loggedIn(now time.Time) bool {
	return c.known && loggedIn(c.session.Statement, now)
}

func loggedIn(st *identity.Statement, now time.Time) bool {
	return st != nil && st.LoggedInAt(now)
}

// failedLocked records that a hello on a connection has failed after a time, and reports whether
// that counts against the peer. It does not if the hello broke off before its time and there is
// another connection on which none has failed: of two connections that crossed, one side closes
// one.
func (c *contact) failedLocked(conn network.Conn, took time.Duration) bool {
	if l := c.conns[conn]; l != nil {
		l.failed = true
	}
	if took >= helloTimeout {
		return true
	}
	for other, l := range c.conns {
		if !l.failed && !other.IsClosed() {
			return false
		}
	}
	return true
}

func (c *contact) settleLocked(err error) {
	if err != nil {
		c.err = err
	}
	c.settled.Tell()
}

// connected adds a connection; with greet, this node opens a hello on it, once. It may be called
// again for a connection that is known.
func (g *greeter) connected(conn network.Conn, greet bool) *contact {
	p, stat := conn.RemotePeer(), conn.Stat()
	if p == g.id {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tasks.Closing() {
		return nil
	}
	c := g.contacts[p]
	if c == nil {
		c = newContact(p)
	}
	if c.conns[conn] == nil {
		// If the connection ends from here on, disconnected, which waits for our lock, removes it.
		// If it has ended before, nothing would.
		if conn.IsClosed() {
			return nil
		}
		c.conns[conn] = &link{
			opened: stat.Opened, limited: stat.Limited,
			dialled: stat.Direction == network.DirOutbound, remote: conn.RemoteMultiaddr(),
		}
		g.contacts[p] = c
	}
	if l := c.conns[conn]; greet && !l.greeted {
		l.greeted = true
		c.fresh = append(c.fresh, conn)
		c.final = nil
		g.kickLocked(c)
	}
	return c
}

func (g *greeter) disconnected(conn network.Conn) {
	p := conn.RemotePeer()
	// The host reports connections from several goroutines: a peer that has another connection is
	// not lost.
	g.takeIn(p)
	trimmed := wasTrimmed(conn)
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.contacts[p]
	if c == nil || c.conns[conn] == nil {
		return
	}
	delete(c.conns, conn)
	c.fresh = slices.DeleteFunc(c.fresh, func(f network.Conn) bool { return f == conn })
	if len(c.conns) > 0 {
		return
	}
	delete(g.contacts, p)
	close(c.gone)
	c.settleLocked(ErrNotConnected)
	if c.known {
		g.unindexLocked(c)
		g.witness.partedLocked(c)
		down := PeerDown{Peer: p}
		switch {
		case c.session.Closing:
			down.Reason = SaidGoodbye
		case trimmed:
			down.Reason = Trimmed
		}
		g.events.push(down)
	}
	g.progress.Tell()
}

// wasTrimmed reports whether a connection that has ended was closed by a connection manager, here
// or at the other end. Only an attempt to use the connection tells: it fails at once, since the
// connection is closed.
func wasTrimmed(conn network.Conn) bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s, err := conn.NewStream(network.WithAllowLimitedConn(ctx, "starling: why it has ended"))
	if err == nil {
		_ = s.Reset()
		return false
	}
	end, ok := errors.AsType[*network.ConnError](err)
	return ok && end.ErrorCode == network.ConnGarbageCollected
}

// install records what a peer has stated and proved on a connection. version is the version of our
// statement that the peer has confirmed, 0 if none yet.
func (g *greeter) install(conn network.Conn, s identity.Session, version uint64) {
	p := conn.RemotePeer()
	g.mu.Lock()
	c := g.contacts[p]
	if c == nil || c.conns[conn] == nil || g.tasks.Closing() {
		g.mu.Unlock()
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
		s.Statement = was.Statement // one hello overtook another
	}
	if c.known && !restarted {
		s.Closing = s.Closing || was.Closing // likewise
	}
	g.unindexLocked(c)
	up := !c.known
	c.session, c.known, c.final = s, true, nil
	c.told = max(c.told, version)
	c.heard = g.clock.Now()
	c.counts = c.loggedIn(c.heard)
	g.indexLocked(c)
	g.shake.refusals.Remove(p)
	switch {
	case up:
		g.events.push(PeerUp{Peer: p, Session: s})
	case changed(was, s):
		g.events.push(PeerChanged{Peer: p, Session: s})
	}
	if up || restarted {
		for _, ev := range differing(p, g.shake.limits(), s) {
			g.events.push(ev)
		}
	}
	g.witness.metLocked(p, s.Statement)
	if twin != nil && !c.twins {
		g.tasks.Go(func() { g.probeTwin(c, twin, was, conn, s) })
	}
	c.settleLocked(nil)
	// greet continues by itself, and its peer must not be able to hurry it.
	if c.told < g.own.version && (version != 0 || !c.running) {
		g.kickLocked(c)
	}
	g.progress.Tell()
	g.mu.Unlock()
	g.remember(conn, s)
}

// confirmed records that the incarnation of a peer that spoke on conn has that version of our
// statement.
func (g *greeter) confirmed(conn network.Conn, version uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.contacts[conn.RemotePeer()]
	if c == nil || c.conns[conn] == nil {
		return
	}
	c.fresh = slices.DeleteFunc(c.fresh, func(f network.Conn) bool { return f == conn })
	if c.known && c.conns[conn].incarnation == c.session.Incarnation {
		c.told = max(c.told, version)
	}
	c.settleLocked(nil)
	g.progress.Tell()
}

// speaker returns an open connection on which that incarnation has spoken.
func (c *contact) speaker(incarnation uint64) network.Conn {
	for conn, l := range c.conns {
		if l.incarnation == incarnation && !conn.IsClosed() {
			return conn
		}
	}
	return nil
}

// supersedes reports whether was, from the same incarnation, is later than now, which has just
// arrived.
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
	return a.Incarnation != b.Incarnation || a.Closing != b.Closing || a.Capabilities != b.Capabilities ||
		a.MaxEnvelope != b.MaxEnvelope || a.MaxMessage != b.MaxMessage || a.Grace != b.Grace || a.Leeway != b.Leeway || !sameRates(a.Rates, b.Rates)
}

// remember stores where the peer is. It may write to the disk.
func (g *greeter) remember(conn network.Conn, s identity.Session) {
	r := identity.Remembered{Seen: g.clock.Now()}
	r.Login.Peer = conn.RemotePeer()
	if s.Statement != nil {
		r.Login = s.Statement.Login()
	}
	if conn.Stat().Direction == network.DirOutbound { // the one address known to work
		r.Addrs = append(r.Addrs, conn.RemoteMultiaddr().String())
	}
	for _, a := range s.Addrs {
		if text := a.String(); !slices.Contains(r.Addrs, text) {
			r.Addrs = append(r.Addrs, text)
		}
	}
	if err := g.cfg.store.Remember(r); err != nil {
		g.cfg.log.Warn("remember peer", "peer", r.Login.Peer, "err", err)
	}
}
