package node

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/internal/task"
)

const (
	// attemptTimeout bounds one attempt to reach a peer over all its addresses.
	attemptTimeout = 15 * time.Second
	// quickTimeout bounds most attempts to reach a member of a room, or a peer that was lost
	// lately: a dial that began before the network came back waits for its own back-off, while a
	// new one gets through at once. Every slowEvery-th attempt has the full time, for peers that
	// are far away.
	quickTimeout = 2 * time.Second
	slowEvery    = 4
)

// The tags under which the connection manager keeps connections.
const (
	protectGiven = "starling/given"
	protectRoom  = "starling/room"
)

// dialer is the thin loop around a [redialer]: it reports to it what the host sees, and dials.
type dialer struct {
	node *Node
	wake task.Wake // something may be due

	mu     sync.Mutex
	core   *redialer
	dials  uint64
	failed uint64
}

func newDialer(n *Node) *dialer {
	return &dialer{node: n, wake: task.NewWake(), core: newRedialer(n.host.ID())}
}

// with runs f on the state machine and makes the loop look again.
func (d *dialer) with(f func(core *redialer)) {
	d.mu.Lock()
	f(d.core)
	d.mu.Unlock()
	d.wake.Set()
}

func (d *dialer) want(now time.Time, p peer.ID, addrs []ma.Multiaddr, why reason) {
	d.with(func(core *redialer) {
		core.want(now, p, addrs, why)
		core.link(now, p, d.isUp(p))
	})
}

func (d *dialer) wants(p peer.ID, why reason) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.core.wants(p, why)
}

func (d *dialer) isUp(p peer.ID) bool {
	c := d.node.host.Network().Connectedness(p)
	return c == network.Connected || c == network.Limited
}

// Listen, ListenClose, Connected and Disconnected implement network.Notifiee.
func (d *dialer) Listen(network.Network, ma.Multiaddr) {}

func (d *dialer) ListenClose(network.Network, ma.Multiaddr) {}

func (d *dialer) Connected(_ network.Network, c network.Conn) { d.sync(c.RemotePeer()) }

func (d *dialer) Disconnected(_ network.Network, c network.Conn) {
	p := c.RemotePeer()
	d.sync(p)
	if lan := d.node.lan; lan != nil && !d.isUp(p) && d.wants(p, onLAN) {
		lan.again(lostPause)
	}
}

// sync passes on the state of the peer's connections as it is now: notices come from several
// goroutines, in any order.
func (d *dialer) sync(p peer.ID) {
	// The state is looked up inside: the last call to look must also be the last to report.
	d.with(func(core *redialer) { core.link(d.node.clock.Now(), p, d.isUp(p)) })
}

// run dials what is due until ctx ends. It does not wait for the dials under way, which are tasks
// of the node.
func (d *dialer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		d.mu.Lock()
		start, next := d.core.due(d.node.clock.Now(), d.crowded())
		d.dials += uint64(len(start))
		d.mu.Unlock()
		if len(start) > 0 {
			d.node.monitor.dialling()
		}
		for _, a := range start {
			d.node.tasks.Spawn(func() { d.attempt(ctx, a) }) // run itself is a task
		}
		wait := watchEvery // crowded may change
		if !next.IsZero() {
			wait = min(wait, max(0, d.node.clock.Until(next)))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// crowded reports whether there are so many connections that the connection manager decides which
// to keep.
func (d *dialer) crowded() bool {
	n := d.node
	return n.cfg.host == nil && len(n.host.Network().Peers()) >= n.cfg.connsLow
}

func (d *dialer) attempt(ctx context.Context, a attempt) {
	n := d.node
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	clearBackoff(n.host, a.peer)
	err := n.host.Connect(ctx, peer.AddrInfo{ID: a.peer, Addrs: a.addrs})
	if err != nil {
		n.log.Debug("not connected", "peer", a.peer, "err", err)
	}
	d.with(func(core *redialer) {
		if err != nil {
			d.failed++
		}
		core.dialled(d.node.clock.Now(), a.peer, err == nil)
		core.link(d.node.clock.Now(), a.peer, d.isUp(a.peer))
	})
	switch {
	case !d.wants(a.peer, given) || n.ctx.Err() != nil:
	case err != nil:
		n.peerFailed(a.peer, err)
	default:
		n.checkGiven(ctx, a.peer)
	}
}

func (d *dialer) count(s *Stats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Targets, s.Dials, s.DialsFailed = len(d.core.targets), d.dials, d.failed
}

// recall asks for connections to the peers that earlier runs have met.
func (n *Node) recall(now time.Time) {
	all := n.dir.Remembered()
	for _, r := range all[:min(len(all), maxKept)] {
		var addrs []ma.Multiaddr
		for _, s := range r.Addrs {
			if a, err := ma.NewMultiaddr(s); err == nil {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) > 0 {
			n.dialer.want(now, r.Login.Peer, addrs, kept)
		}
	}
}
