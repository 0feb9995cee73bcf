package presence

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// crossedPause is the pause before this node dials again after the other side gave up the
// connection. The pause doubles up to crossedMost. Each is varied by a half, or two peers that dial
// each other would cross again.
const (
	crossedPause = 20 * time.Millisecond
	crossedMost  = 500 * time.Millisecond
)

// Connect connects to a peer unless it is connected, and returns what the peer stated in its hello,
// verified. When two peers dial each other at once, each may end up with a connection that the
// other is about to give up, so that neither is connected. In that case Connect dials again, until
// ctx ends.
//
// Errors are those of the host, and those of [Directory.Peer]. If the hello is complete when ctx
// ends, Connect returns no error.
func (d *Directory) Connect(ctx context.Context, info peer.AddrInfo) (identity.Session, error) {
	return d.hellos.connect(ctx, info)
}

// connect is [Directory.Connect].
func (g *greeter) connect(ctx context.Context, info peer.AddrInfo) (identity.Session, error) {
	for attempt := 0; ; attempt++ {
		err := g.host.Connect(ctx, info)
		// If the dial failed, the other side's may have got through instead.
		connected := err == nil || g.host.Network().Connectedness(info.ID) != network.NotConnected
		if connected {
			g.hurry(info.ID)
			var s identity.Session
			if s, err = g.peer(ctx, info.ID); err == nil {
				return s, nil
			}
		}
		if !connected || !errors.Is(err, ErrNotConnected) || !pauseCrossed(ctx, attempt) {
			if s, ok := g.known(info.ID); ok {
				return s, nil
			}
			return identity.Session{}, err
		}
	}
}

// hurry cuts short the pause after a failed hello, since a caller is waiting for the next.
func (g *greeter) hurry(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.contacts[p]; c != nil && !c.known && c.err != nil && c.final == nil {
		g.kickLocked(c)
	}
}

// pauseCrossed waits before attempt n+1, n from 0. It returns false if ctx ends first.
func pauseCrossed(ctx context.Context, n int) bool {
	d := crossedMost
	if n < 5 {
		d = crossedPause << n
	}
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// known returns the session of a peer whose hello is complete. It does not wait.
func (g *greeter) known(p peer.ID) (identity.Session, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.contacts[p]
	if g.closing || c == nil || !c.known {
		return identity.Session{}, false
	}
	return c.session, true
}
