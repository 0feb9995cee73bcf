package presence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// helloNudge is how long Peer waits for the dialler to begin before this node opens the hello
// itself.
const helloNudge = 500 * time.Millisecond

// Peer returns what a connected peer has stated in its hello, verified. If the hello is under way,
// or has not begun, Peer waits for it, for at most 5 s. Errors are [ErrNotConnected], a
// [*HelloError], [ErrNoHello], [ErrClosed], or the error of ctx.
func (d *Directory) Peer(ctx context.Context, p peer.ID) (identity.Session, error) {
	return d.hellos.peer(ctx, p)
}

// peer is [Directory.Peer].
func (g *greeter) peer(ctx context.Context, p peer.ID) (identity.Session, error) {
	var timeout <-chan time.Time
	for {
		g.mu.Lock()
		c := g.contacts[p]
		switch {
		case g.closing:
			g.mu.Unlock()
			return identity.Session{}, ErrClosed
		case c == nil:
			g.mu.Unlock()
			if !g.takeIn(p) {
				return identity.Session{}, g.notConnected(p)
			}
			continue
		case c.known:
			s := c.session
			s.Addrs = slices.Clone(s.Addrs)
			g.mu.Unlock()
			return s, nil
		case c.final != nil:
			err := c.final
			g.mu.Unlock()
			return identity.Session{}, noHello(p, err)
		}
		settled, last := c.settled.Next(), c.err
		if !c.running && c.inbound == 0 && timeout != nil { // the dialler has not begun in time
			g.kickLocked(c)
		}
		g.mu.Unlock()

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
		case <-g.ctx.Done():
			nudge.Stop()
			return identity.Session{}, ErrClosed
		}
		nudge.Stop()
	}
}

// takeIn adds connections that the host has not reported yet.
func (g *greeter) takeIn(p peer.ID) bool {
	found := false
	for _, conn := range g.host.Network().ConnsToPeer(p) {
		if g.connected(conn, conn.Stat().Direction == network.DirOutbound) != nil {
			found = true
		}
	}
	return found
}

func (g *greeter) notConnected(p peer.ID) error {
	if refusal, ok := g.shake.refusals.Get(p); ok && g.clock.Now().Before(refusal.until) {
		return refusal.err
	}
	return fmt.Errorf("%w: %s", ErrNotConnected, p)
}

func noHello(p peer.ID, cause error) error {
	if refused := (*HelloError)(nil); errors.As(cause, &refused) {
		return refused
	}
	if cause == nil {
		return fmt.Errorf("%w %s", ErrNoHello, p)
	}
	return fmt.Errorf("%w %s: %w", ErrNoHello, p, cause)
}

// allow reports whether the peer of a connection is within a limit and has completed a hello. The
// last message of a hello may still be on its way when the peer opens its next stream, so allow
// waits for it.
func (g *greeter) allow(ctx context.Context, conn network.Conn, limiter func(*contact) *rate.Limiter) bool {
	c := g.connected(conn, false)
	if c == nil || !limiter(c).Allow() {
		return false
	}
	_, err := g.peer(ctx, conn.RemotePeer())
	return err == nil
}

// mayHaveList reports whether a peer may have our list: a peer with which a hello is complete, or
// that we have refused because of the list.
func (g *greeter) mayHaveList(ctx context.Context, conn network.Conn) bool {
	c := g.connected(conn, false)
	if c == nil {
		return false
	}
	g.mu.Lock()
	refused := (*HelloError)(nil)
	revoked := errors.As(c.final, &refused) && !refused.Remote && refused.fault == wire.TokenFault_TOKEN_REVOKED
	g.mu.Unlock()
	if revoked {
		return c.lists.asks.Allow()
	}
	return g.allow(ctx, conn, func(c *contact) *rate.Limiter { return c.lists.asks })
}
