package presence

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// kickLocked makes sure that the peer is being sent what it does not know yet.
func (d *Directory) kickLocked(c *contact) {
	if !c.running {
		c.running = d.tasks.Go(func() { d.greet(c) })
		return
	}
	c.wake.Set()
}

// greet opens hellos with one peer, one after the other, until the peer has confirmed everything on
// every connection on which we open the hello.
func (d *Directory) greet(c *contact) {
	for attempt := 0; ; attempt++ {
		conn := d.nextHello(c, attempt)
		if conn == nil {
			return
		}
		began := time.Now()
		if err := d.openHello(conn); !d.helloEnded(c, conn, err, began, attempt) {
			attempt = -1
			continue
		}
		pause := time.NewTimer(helloPause(attempt))
		select {
		case <-pause.C:
		case <-c.wake: // there is news, or a new connection: start again with the newest
			attempt = -1
		case <-c.gone:
		case <-d.ctx.Done():
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

// nextHello picks the connection for the next hello. If there is nothing to send, it ends the
// greeting and returns nil.
func (d *Directory) nextHello(c *contact, attempt int) network.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	need := len(c.fresh) > 0 || !c.known || c.told < d.version
	if d.ctx.Err() != nil || len(c.conns) == 0 || c.final != nil || !need {
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
func (d *Directory) helloEnded(c *contact, conn network.Conn, err error, began time.Time, attempt int) (failed bool) {
	if err != nil {
		d.stats.helloFailed.Add(1)
		d.cfg.log.Debug("hello failed", "peer", c.id, "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.progressLocked()
	c.opening = false
	if err == nil {
		if l := c.conns[conn]; l != nil {
			l.failed = false
		}
		return false
	}
	c.fresh = slices.DeleteFunc(c.fresh, func(f network.Conn) bool { return f == conn })
	refused, unsupported := (*RefusedError)(nil), multistream.ErrNotSupported[protocol.ID]{}
	if errors.As(err, &refused) || errors.As(err, &unsupported) && attempt+1 >= maxUnsupported {
		c.final = err
	} else if !c.failedLocked(conn, began) {
		return false
	}
	c.settleLocked(err)
	return true
}

// greetingLocked reports whether a hello is under way that may identify a peer: the first one with
// it, even if it is only about to begin, or one that the peer has opened. Our further attempts
// after a failed one do not count: a silent peer would make callers wait for ever.
func (d *Directory) greetingLocked(c *contact) bool {
	if d.contacts[c.id] != c {
		return false
	}
	return c.inbound > 0 || !c.known && c.final == nil && c.err == nil
}

// awaitHellos waits until the hellos that are now under way have ended, enough returns true, or ctx
// ends. It reports whether none is left. It calls enough without locks, at the start and whenever
// something has changed.
func (d *Directory) awaitHellos(ctx context.Context, enough func() bool) (all bool) {
	for _, conn := range d.host.Network().Conns() { // the host may not have reported it yet
		d.connected(conn, conn.Stat().Direction == network.DirOutbound)
	}
	var left []*contact
	d.mu.Lock()
	for _, c := range d.contacts {
		if d.greetingLocked(c) {
			left = append(left, c)
		}
	}
	d.mu.Unlock()
	nudge := time.NewTimer(helloNudge)
	defer nudge.Stop()
	for {
		d.mu.Lock()
		left = slices.DeleteFunc(left, func(c *contact) bool { return !d.greetingLocked(c) })
		progress := d.progress.Next()
		d.mu.Unlock()
		if enough() || len(left) == 0 {
			return len(left) == 0
		}
		select {
		case <-progress:
		case <-nudge.C: // peers that dialled have not begun
			d.mu.Lock()
			for _, c := range left {
				if !c.running && c.inbound == 0 {
					d.kickLocked(c)
				}
			}
			d.mu.Unlock()
		case <-ctx.Done():
			return false
		}
	}
}

// open opens a stream on one connection. The host's own NewStream would choose the connection
// itself, and may choose a dead one.
func (d *Directory) open(ctx context.Context, conn network.Conn, proto protocol.ID) (network.Stream, error) {
	s, err := conn.NewStream(network.WithAllowLimitedConn(ctx, string(proto)))
	if err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if ok {
		// A transport without deadlines still has ctx, which resets the stream.
		_ = s.SetDeadline(deadline)
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
