package presence

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"

	"github.com/starling-mesh/starling/identity"
)

// greeter decides on which connections of the host to run hellos, and when. It makes and ends the
// contacts of people.
type greeter struct {
	*people
	own     *account
	lists   *revocations
	shake   *handshake
	witness witness
	inGate  chan struct{} // a token for each hello that a peer may open: see maxInbound
}

// witness learns from a greeter who came and went. It is called with the lock of people held.
type witness interface {
	// metLocked takes what a peer's hello has shown; nil: no statement.
	metLocked(peer.ID, *identity.Statement)
	// partedLocked takes a contact whose last connection has ended.
	partedLocked(*contact)
}

func newGreeter(p *people, own *account, lists *revocations, w witness) *greeter {
	shake := &handshake{people: p, own: own, lists: lists, refusals: newLRU[peer.ID, refusal](maxRefusals)}
	return &greeter{people: p, own: own, lists: lists, shake: shake, witness: w, inGate: make(chan struct{}, maxInbound)}
}

// kickLocked makes sure that the peer is being sent what it does not know yet.
func (g *greeter) kickLocked(c *contact) {
	if !c.running {
		c.running = g.tasks.Go(func() { g.greet(c) })
		return
	}
	c.wake.Set()
}

// kickAllLocked makes sure that every peer that we know is being sent what it does not know yet.
func (g *greeter) kickAllLocked() {
	for _, c := range g.contacts {
		if c.known {
			g.kickLocked(c)
		}
	}
}

// greet opens hellos with one peer, one after the other, until the peer has confirmed everything on
// every connection on which we open the hello.
func (g *greeter) greet(c *contact) {
	for attempt := 0; ; attempt++ {
		conn := g.nextHello(c, attempt)
		if conn == nil {
			return
		}
		began := g.clock.Now()
		if err := g.openHello(conn); !g.helloEnded(c, conn, err, began, attempt) {
			attempt = -1
			continue
		}
		pause := time.NewTimer(g.pause(c, attempt))
		select {
		case <-pause.C:
		case <-c.wake: // there is news, or a new connection: start again with the newest
			attempt = -1
		case <-c.gone:
		case <-g.ctx.Done():
		}
		pause.Stop()
	}
}

// maxUnsupported is how often we try a peer that does not speak hello: it may still be starting.
const maxUnsupported = 4

// helloPause is how long to wait after failed attempt n, from 0: 250 ms, 1 s, 4 s, 16 s, and then a
// minute, each up to half as much longer so that peers do not collide in step.
func helloPause(n int) time.Duration {
	p := time.Minute
	if n < 4 {
		p = 250 * time.Millisecond << (2 * n)
	}
	return p + rand.N(p/2)
}

// knownTries is how often a hello with a peer that we know is tried in a row before its pauses grow
// beyond 4 s: for as long as a connection outlives a cut.
const knownTries = 7

// pause returns how long to wait after failed attempt n with a peer. One that we know, and that is
// still connected, may only be cut off: as soon as it can be reached again, it must learn what is
// new.
func (g *greeter) pause(c *contact, n int) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.known && n > 2 {
		n = max(2, n-knownTries+3)
	}
	return helloPause(n)
}

// renewEvery is the shortest time between two of them with a peer: one that was started again, and
// has not logged in, has no newer word.
const renewEvery = 3 * time.Second

// renew opens a hello on a connection with a peer that we know already, and returns when it has
// ended, or with ctx: the peer's state may have changed without our having heard of it.
func (g *greeter) renew(ctx context.Context, conn network.Conn) {
	g.mu.Lock()
	c := g.contacts[conn.RemotePeer()]
	if c == nil || c.conns[conn] == nil || c.final != nil || g.clock.Since(c.renewed) < renewEvery {
		g.mu.Unlock()
		return
	}
	c.renewed = g.clock.Now()
	if !slices.Contains(c.fresh, conn) {
		c.fresh = append([]network.Conn{conn}, c.fresh...)
	}
	g.kickLocked(c)
	for {
		pending, settled := slices.Contains(c.fresh, conn) && g.contacts[c.id] == c && c.final == nil, c.settled.Next()
		g.mu.Unlock()
		if !pending {
			return
		}
		select {
		case <-settled:
		case <-c.gone:
			return
		case <-ctx.Done():
			return
		}
		g.mu.Lock()
	}
}

// nextHello picks the connection for the next hello. If there is nothing to send, it ends the
// greeting and returns nil.
func (g *greeter) nextHello(c *contact, attempt int) network.Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	need := len(c.fresh) > 0 || !c.known || c.told < g.own.version
	if g.ctx.Err() != nil || len(c.conns) == 0 || c.final != nil || !need {
		c.running = false
		return nil
	}
	conns := c.newestFirst()
	if len(c.fresh) == 0 && len(conns) == 0 {
		c.running = false
		return nil
	}
	c.opening = true
	if len(c.fresh) > 0 {
		return c.fresh[0]
	}
	return conns[attempt%len(conns)]
}

// newestFirst orders the open connections. Those on which a hello has failed come last; of the
// others, the newest is the least likely to be dead without anybody having noticed.
func (c *contact) newestFirst() []network.Conn {
	conns := make([]network.Conn, 0, len(c.conns))
	for conn := range c.conns {
		if !conn.IsClosed() {
			conns = append(conns, conn)
		}
	}
	slices.SortFunc(conns, func(a, b network.Conn) int {
		return cmp.Or(order(c.conns[a].failed, c.conns[b].failed), c.conns[b].opened.Compare(c.conns[a].opened), cmp.Compare(a.ID(), b.ID()))
	})
	return conns
}

// order puts false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// helloEnded records how a hello that we opened has ended, and reports whether it failed.
func (g *greeter) helloEnded(c *contact, conn network.Conn, err error, began time.Time, attempt int) (failed bool) {
	if err != nil {
		g.stats.helloFailed.Add(1)
		g.cfg.log.Debug("hello failed", "peer", c.id, "err", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.progress.Tell()
	c.opening = false
	if err == nil {
		if l := c.conns[conn]; l != nil {
			l.failed = false
		}
		return false
	}
	c.fresh = slices.DeleteFunc(c.fresh, func(f network.Conn) bool { return f == conn })
	refused, unsupported := (*HelloError)(nil), multistream.ErrNotSupported[protocol.ID]{}
	if errors.As(err, &refused) || errors.As(err, &unsupported) && attempt+1 >= maxUnsupported {
		c.final = err
	} else if !c.failedLocked(conn, g.clock.Since(began)) {
		c.settleLocked(nil)
		return false
	}
	c.settleLocked(err)
	return true
}

// greetingLocked reports whether a hello is under way that may identify a peer: the first one with
// it, even if it is only about to begin, or one that the peer has opened. Our further attempts
// after a failed one do not count: a silent peer would make callers wait for ever.
func (g *greeter) greetingLocked(c *contact) bool {
	if g.contacts[c.id] != c {
		return false
	}
	return c.inbound > 0 || !c.known && c.final == nil && c.err == nil
}

// awaitHellos waits until the hellos that are now under way have ended, enough returns true, or ctx
// ends. It reports whether none is left. It calls enough without locks, at the start and whenever
// something has changed.
func (g *greeter) awaitHellos(ctx context.Context, enough func() bool) (all bool) {
	for _, conn := range g.host.Network().Conns() { // the host may not have reported it yet
		g.connected(conn, conn.Stat().Direction == network.DirOutbound)
	}
	var left []*contact
	g.mu.Lock()
	for _, c := range g.contacts {
		if g.greetingLocked(c) {
			left = append(left, c)
		}
	}
	g.mu.Unlock()
	nudge := time.NewTimer(helloNudge)
	defer nudge.Stop()
	for {
		g.mu.Lock()
		left = slices.DeleteFunc(left, func(c *contact) bool { return !g.greetingLocked(c) })
		progress := g.progress.Next()
		g.mu.Unlock()
		if enough() || len(left) == 0 {
			return len(left) == 0
		}
		select {
		case <-progress:
		case <-nudge.C: // peers that dialled have not begun
			g.mu.Lock()
			for _, c := range left {
				if !c.running && c.inbound == 0 {
					g.kickLocked(c)
				}
			}
			g.mu.Unlock()
		case <-ctx.Done():
			return false
		}
	}
}

// waitTold returns when every peer that we know, or whose hello is under way, has confirmed our
// latest statement, or ctx ends.
func (g *greeter) waitTold(ctx context.Context) {
	for {
		g.mu.Lock()
		all := true
		for _, c := range g.contacts {
			if c.told < g.own.version && (c.known || c.inbound > 0 || c.opening) {
				all = false
				break
			}
		}
		progress := g.progress.Next()
		g.mu.Unlock()
		if all {
			return
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return
		}
	}
}

var errBehind = errors.New("the observer is too far behind")

// openHello runs one hello as initiator. We know the peer once its reply is verified; the peer
// knows us once it has closed its side.
func (g *greeter) openHello(conn network.Conn) error {
	if g.events.full() {
		return errBehind
	}
	_, version, list, err := g.shake.initiate(conn, func(s identity.Session) { g.install(conn, s, 0) })
	if err != nil {
		return err
	}
	g.confirmed(conn, version)
	g.lists.want(conn, list) // not before: only now does the peer know us
	return nil
}

// serveHello runs one hello as responder.
func (g *greeter) serveHello(ctx context.Context, s network.Stream) {
	conn := s.Conn()
	c := g.admit(conn)
	if c == nil {
		g.stats.limited.Add(1)
		_ = s.Reset()
		return
	}
	began := g.clock.Now()
	session, version, list, err := g.shake.respond(ctx, conn, s)
	if err == nil {
		g.install(conn, session, version)
		g.lists.want(conn, list)
	}
	g.mu.Lock()
	c.inbound--
	if err != nil && !c.failedLocked(conn, g.clock.Since(began)) {
		c.settleLocked(nil)
	} else {
		c.settleLocked(err)
	}
	g.progress.Tell()
	g.mu.Unlock()
	<-g.inGate
	if err != nil {
		g.stats.helloFailed.Add(1)
		g.cfg.log.Debug("hello failed", "peer", c.id, "err", err)
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// admit counts a hello that the peer of conn opens. It returns nil if there are too many.
func (g *greeter) admit(conn network.Conn) *contact {
	if g.events.full() {
		return nil
	}
	c := g.connected(conn, false)
	if c == nil {
		return nil
	}
	select {
	case g.inGate <- struct{}{}:
	default:
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.inbound >= maxInboundPeer || !c.hellos.Allow() {
		<-g.inGate
		return nil
	}
	c.inbound++
	return c
}
