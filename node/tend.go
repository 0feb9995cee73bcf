package node

import (
	"context"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// probeTimeout is what a peer has to answer after the node has slept.
const probeTimeout = 2 * time.Second

// watch looks around every 2 s until ctx ends: at the clocks, the interfaces, the rooms and the own addresses.
func (n *Node) watch(ctx context.Context) {
	var (
		w       watch
		start   = time.Now()
		addrs   = n.shown()
		inRooms = make(map[peer.ID]bool)
	)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if c := w.step(lookAround(start)); c != (change{}) {
			n.revive(ctx, c)
		}
		n.tendRooms(inRooms)
		addrs = n.tellAddrs(addrs)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// revive brings the node back after sleep or a change of network: connections that are dead without knowing it are closed,
// everybody who was lost is dialled at once, and the LAN hears of us again.
func (n *Node) revive(ctx context.Context, c change) {
	n.log.Info("looking for peers again", "slept", c.slept, "busy", c.busy, "moved", c.moved)
	if n.lan != nil {
		n.lan.again(movedPause)
	}
	n.dialer.with(func(core *redialer) { core.wake(time.Now()) })
	n.presence.Refresh()
	if c.busy && !c.moved {
		return // who is as busy does not answer in time, and is not dead for that; the transports find those who are
	}
	for _, conn := range n.host.Network().Conns() {
		n.tasks.Spawn(func() { n.probe(ctx, conn) }) // the watch is a task itself
	}
}

// probe closes a connection over which the peer does not answer. The others of the same peer are none of its business: of two that have crossed, one may
// be dead and the other not.
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

// tendRooms protects the connections to members of joined rooms, and has them redialled when they are lost, also when the room has
// given them up. Protected is who is a
// member since the last time, and is updated.
func (n *Node) tendRooms(protected map[peer.ID]bool) {
	now, members, wanted := time.Now(), make(map[peer.ID]bool), make(map[peer.ID]bool)
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

// tellAddrs makes an event of other addresses than before, and returns those of now.
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
