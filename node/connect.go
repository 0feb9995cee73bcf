package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multistream"

	"github.com/starling-mesh/starling/presence"
)

const (
	// connectTimeout bounds a Connect whose context has no deadline.
	connectTimeout = 30 * time.Second
	// connectPause is how long Connect waits before its second attempt. The pause doubles up to the
	// sixth attempt, and is connectMost after that. Each pause is varied by a half.
	connectPause = 50 * time.Millisecond
	connectMost  = 2 * time.Second
	// connectRetries is how many retries are under way at once, over all calls. If so many peers
	// connect at once that handshakes take longer than an attempt may, retrying all of them at once
	// would take as long again, and no peer would ever be connected.
	connectRetries = 4
)

// Connect connects to a peer, given by a multiaddr with its peer ID, and returns when both have
// shown each other who they are. If an attempt fails but the next one may succeed, for example
// because no answer came, Connect repeats it until ctx ends, or for 30 s if ctx has no deadline. It
// returns an [*AddrError] for an address that cannot be used. When the connection is lost, the peer
// is redialled for a while; for ever, if it is given to [WithPeers].
func (n *Node) Connect(ctx context.Context, addr string) error {
	info, err := parsePeer(addr)
	if err != nil {
		return err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, connectTimeout)
		defer cancel()
	}
	call, done, err := n.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := n.connect(call, info); err != nil {
		return ended(call, fmt.Errorf("connect to %s: %w", info.ID, err))
	}
	n.dialer.want(n.clock.Now(), info.ID, info.Addrs, connected)
	return nil
}

// connect tries until it succeeds, cannot succeed, or ctx ends. If the peer connects to this node
// while connect waits for the next attempt, connect goes on at once. If ctx ends, the error
// includes that of the last attempt that ctx did not cut short.
func (n *Node) connect(ctx context.Context, info peer.AddrInfo) error {
	up := make(chan struct{}, 1)
	arrivals := &network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		if c.RemotePeer() == info.ID && c.Stat().Direction == network.DirInbound {
			select {
			case up <- struct{}{}:
			default: // it has not been seen yet
			}
		}
	}}
	n.host.Network().Notify(arrivals)
	defer n.host.Network().StopNotify(arrivals)
	var last error
	for attempt := 0; ; attempt++ {
		err := n.connectOnce(ctx, info, attempt > 0, up)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && last != nil:
			return fmt.Errorf("%w: %w", ctx.Err(), last)
		case ctx.Err() != nil || hopeless(err):
			return err
		}
		last = err
		n.log.Debug("not connected yet", "peer", info.ID, "err", err)
		pause := connectMost
		if attempt < 5 {
			pause = connectPause << attempt
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-up:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// connectOnce makes one attempt. If again is set, it is not the first one, and waits for its turn
// unless the peer is up. It looks at the peer also if ctx ends meanwhile: the peer may have
// connected.
func (n *Node) connectOnce(ctx context.Context, info peer.AddrInfo, again bool, up <-chan struct{}) error {
	if again && !n.dialer.isUp(info.ID) {
		select {
		case n.retries <- struct{}{}:
			defer func() { <-n.retries }()
		case <-up:
		case <-ctx.Done():
		}
	}
	clearBackoff(n.host, info.ID)
	_, err := n.presence.Connect(ctx, info)
	return err
}

// hopeless reports whether an attempt to connect got an answer that the next one would get too.
func hopeless(err error) bool {
	refused, unsupported := (*presence.HelloError)(nil), multistream.ErrNotSupported[protocol.ID]{}
	if errors.As(err, &refused) || errors.As(err, &unsupported) || errors.Is(err, presence.ErrClosed) {
		return true
	}
	dial, ok := errors.AsType[*swarm.DialError](err)
	if !ok {
		return errors.Is(err, swarm.ErrDialToSelf) || errors.Is(err, swarm.ErrSwarmClosed)
	}
	for _, e := range dial.DialErrors {
		if !definite(e.Cause) {
			return false
		}
	}
	return true // also without any address that could be dialled
}

// definite reports whether a dial to one address ended with a definite answer: no program listens
// there, there is no route to it, or another peer is there.
func definite(err error) bool {
	_, other := errors.AsType[sec.ErrPeerIDMismatch](err)
	return other || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.Is(err, swarm.ErrNoTransport) || errors.Is(err, swarm.ErrGaterDisallowedConnection)
}
