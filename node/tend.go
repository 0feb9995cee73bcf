package node

import (
	"context"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// probeTimeout is how long a peer has to answer after this node has slept.
const probeTimeout = 2 * time.Second

// watch looks every 2 s, until ctx ends, at the clocks, the interfaces, the rooms and the node's
// own addresses.
func (n *Node) watch(ctx context.Context) {
	var (
		w       watch
		start   = n.clock.Now()
		addrs   = n.shown()
		inRooms = make(map[peer.ID]bool)
	)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if c := w.step(lookAround(start, n.clock.Now())); c != (change{}) {
			n.revive(ctx, c)
		}
		n.monitor.lookAround()
		n.tendRooms(inRooms)
		addrs = n.tellAddrs(addrs)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// revive brings the node back after sleep or a change of network: it closes dead connections that
// have not been noticed, dials every lost peer at once, and announces the node on the LAN again.
func (n *Node) revive(ctx context.Context, c change) {
	n.log.Info("looking for peers again", "slept", c.slept, "busy", c.busy, "moved", c.moved)
	if n.lan != nil {
		n.lan.again(movedPause)
	}
	n.dialer.with(func(core *redialer) { core.wake(n.clock.Now()) })
	n.presence.Refresh()
	if c.busy && !c.moved {
		// A busy peer does not answer in time, but is not dead. The transports find the dead ones.
		return
	}
	for _, conn := range n.host.Network().Conns() {
		n.tasks.Spawn(func() { n.probe(ctx, conn) }) // the watch is a task itself
	}
}

// probe closes a connection over which the peer does not answer. It leaves other connections of the
// same peer alone: of two that have crossed, one may be dead and the other not.
func (n *Node) probe(ctx context.Context, conn network.Conn) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := n.presence.Ping(ctx, conn)
	if err == nil || n.ctx.Err() != nil || conn.IsClosed() {
		return
	}
	n.log.Debug("closing dead connection", "peer", conn.RemotePeer(), "err", err)
	if err := conn.Close(); err != nil {
		n.log.Debug("not closed", "peer", conn.RemotePeer(), "err", err)
	}
}

// tendRooms protects the connections to members of joined rooms, and has lost members redialled,
// even after the room has given them up. protected holds the members of the last call, and is
// updated.
func (n *Node) tendRooms(protected map[peer.ID]bool) {
	now, members, wanted := n.clock.Now(), make(map[peer.ID]bool), make(map[peer.ID]bool)
	for _, r := range n.mesh.Rooms() {
		for _, m := range r.Members() {
			if m.Peer != n.host.ID() {
				members[m.Peer], wanted[m.Peer] = true, true
			}
		}
		for _, m := range r.Missing() {
			wanted[m.Peer] = true
		}
	}
	n.dialer.with(func(core *redialer) {
		core.rooms(now, wanted)
	})
	conns := n.host.ConnManager()
	for p := range members {
		if !protected[p] {
			protected[p] = true
			conns.Protect(p, protectRoom)
		}
	}
	for p := range protected {
		if !members[p] {
			delete(protected, p)
			conns.Unprotect(p, protectRoom)
		}
	}
}

// tellAddrs queues an event if the addresses differ from before, and returns the current ones.
func (n *Node) tellAddrs(before []string) []string {
	now := n.shown()
	if !slices.Equal(before, now) {
		n.queue.PushNotice(&AddrsChanged{Header: Header{Type: TypeAddrsChanged}, Addrs: now})
	}
	return now
}

func (n *Node) shown() []string {
	var out []string
	for _, a := range n.Addrs() {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return out
}
