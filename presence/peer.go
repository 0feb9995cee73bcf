package presence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// Peer returns what a connected peer has stated in its hello, verified. If the hello is under way,
// or has not begun, Peer waits for it, for at most 5 s. Errors are [ErrNotConnected], a
// [*RefusedError], [ErrNoHello], [ErrClosed], or the error of ctx.
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
		settled, last := c.settled.Next(), c.err
		if !c.running && c.inbound == 0 && timeout != nil { // the dialler has not begun in time
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

// helloNudge is how long Peer waits for the dialler to begin before this node opens the hello
// itself.
const helloNudge = 500 * time.Millisecond

// takeIn adds connections that the host has not reported yet.
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
