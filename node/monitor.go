package node

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/presence"
)

// monitor is the thin loop around a [connectivity]: it tells it what the node sees, and queues an
// event for each transition.
type monitor struct {
	node    *Node
	wake    task.Wake   // the next look may be due sooner
	started atomic.Bool // the node is whole: before, its presence may already call
	down    atomic.Bool // the link is known to be down

	mu   sync.Mutex
	core *connectivity
}

func newMonitor(n *Node) *monitor {
	m := &monitor{node: n, wake: task.NewWake(), core: newConnectivity(n.settings.Grace)}
	m.down.Store(true)
	return m
}

func (m *monitor) state() ConnectionState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core.state
}

// linkDown reports whether the node's own link is known to be down. It takes no lock.
func (m *monitor) linkDown() bool { return m.down.Load() }

// with runs f on the state machine and reports what follows. The lock is held until all of it is
// queued, so that the events come in the order of the transitions.
func (m *monitor) with(f func(core *connectivity, now time.Time) []transition) {
	n := m.node
	loggedIn := m.started.Load() && n.presence.LoggedIn()
	m.mu.Lock()
	all := f(m.core, n.clock.Now())
	for _, t := range all {
		n.queue.PushNotice(&ConnectionChanged{
			Header: Header{Type: TypeConnectionChanged}, State: t.to, Before: t.from, Elapsed: t.elapsed, LoggedIn: loggedIn, Reason: t.why,
		})
	}
	m.down.Store(m.core.linkDown())
	m.mu.Unlock()
	m.wake.Set()
	for _, t := range all {
		n.log.Info("connection changed", "state", t.to, "before", t.from, "reason", t.why)
	}
}

func (m *monitor) start() {
	usable, known := m.node.usable()
	m.started.Store(true)
	m.with(func(c *connectivity, now time.Time) []transition { return c.start(now, usable || !known) })
}

// lookAround asks the system for the interfaces. If it does not answer, what it said last counts.
// When there is a usable interface again, lost peers are dialled at once.
func (m *monitor) lookAround() {
	usable, known := m.node.usable()
	if !known {
		return
	}
	back := false
	m.with(func(c *connectivity, now time.Time) []transition {
		back = usable && !c.usable
		return c.interfaces(now, usable)
	})
	if back {
		m.node.dialer.with(func(core *redialer) { core.wake(m.node.clock.Now()) })
	}
}

func (m *monitor) met(p peer.ID) {
	m.with(func(c *connectivity, now time.Time) []transition { return c.met(now, p) })
}

func (m *monitor) gone(p peer.ID, why presence.DownReason) {
	m.with(func(c *connectivity, now time.Time) []transition { return c.gone(now, p, why) })
}

func (m *monitor) refused(p peer.ID) {
	m.with(func(c *connectivity, now time.Time) []transition { return c.refused(now, p) })
}

func (m *monitor) dialling() {
	m.with(func(c *connectivity, now time.Time) []transition { return c.dialling(now) })
}

// close ends the state machine. The program has closed the node itself, so no event says so.
func (m *monitor) close() {
	m.with(func(c *connectivity, now time.Time) []transition {
		c.close(now)
		return nil
	})
}

// run looks again whenever something is due, until ctx ends.
func (m *monitor) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var expired <-chan time.Time
		if due := m.due(); !due.IsZero() {
			timer.Reset(max(0, m.node.clock.Until(due)))
			expired = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-expired:
			m.with((*connectivity).look)
		}
	}
}

func (m *monitor) due() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core.due()
}

// usable reports whether the node has a usable interface: one that is up, is no loopback, and has
// an address other than a link-local one of IPv6. Loopback counts if the node listens on nothing
// else, or while a node of the app is connected over it. The interfaces of a caller's host are the
// caller's, and count as usable. known is false if the system does not say.
func (n *Node) usable() (usable, known bool) {
	if n.cfg.interfaces != nil {
		return n.cfg.interfaces()
	}
	if n.cfg.host != nil || loopbackOnly(n.cfg.listen) {
		return true, true
	}
	addrs, err := runningAddrs()
	if err != nil {
		return false, false
	}
	return slices.ContainsFunc(addrs, reachesOut) || n.meetsOnLoopback(), true
}

// reachesOut reports whether others can be reached from an interface with that address.
func reachesOut(a ma.Multiaddr) bool { return !manet.IsIPLoopback(a) && !manet.IsIP6LinkLocal(a) }

// runningAddrs returns the addresses of the interfaces that are up and have a carrier.
func runningAddrs() (addrs []ma.Multiaddr, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return manet.InterfaceMultiaddrs() // works on Android, where the other may not
	}
	for _, i := range all {
		if i.Flags&(net.FlagUp|net.FlagRunning) != net.FlagUp|net.FlagRunning {
			continue
		}
		its, err := i.Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, a := range its {
			if m, err := manet.FromNetAddr(a); err == nil {
				addrs = append(addrs, m)
			}
		}
	}
	return addrs, nil
}

// loopbackOnly reports whether a node that was told to listen there listens on loopback alone.
func loopbackOnly(listen []string) bool {
	return len(listen) > 0 && !slices.ContainsFunc(listen, func(s string) bool {
		a, err := ma.NewMultiaddr(s)
		return err != nil || !manet.IsIPLoopback(a)
	})
}

// meetsOnLoopback reports whether a node of the app is connected over loopback.
func (n *Node) meetsOnLoopback() bool {
	n.mu.Lock()
	peers := make([]peer.ID, 0, len(n.peers))
	for p := range n.peers {
		peers = append(peers, p)
	}
	n.mu.Unlock()
	for _, p := range peers {
		for _, c := range n.host.Network().ConnsToPeer(p) {
			if manet.IsIPLoopback(c.RemoteMultiaddr()) {
				return true
			}
		}
	}
	return false
}
