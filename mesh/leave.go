package mesh

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// Leave says goodbye to the other members and ends the stay. What is queued is sent first, within 1
// s or until ctx ends, whichever is sooner. The room's events end with [ErrLeft]. Leaving twice is
// harmless.
func (r *Room) Leave(ctx context.Context) error { return r.depart(ctx, ErrLeft) }

func (r *Room) depart(ctx context.Context, reason error) error {
	r.mu.Lock()
	first := r.stay.Leave()
	own := r.stay.Own()
	r.mu.Unlock()
	if !first {
		<-r.ended
		return nil
	}
	if entry, err := r.signEntry(own.Statement, false, own.Sequence+1, "", 0); err == nil {
		r.sayGoodbye(ctx, entry, reason)
	}
	r.end(reason)
	return nil
}

func (r *Room) sayGoodbye(ctx context.Context, entry *stay.Entry, reason error) {
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	b := r.outbox.last(wire.Kind_KIND_ROSTER, entry.Sealed, reason)
	r.acknowledged.Set() // the goodbye does not wait for acknowledgements
	select {
	case <-b.sealed:
	case <-ctx.Done():
		return
	case <-r.ctx.Done():
		return
	}
	if r.awaitEcho(ctx, b.first) && r.awaitFlow(ctx, 0) {
		r.awaitAcks(ctx, b.last())
	}
}

// goodbyeWait is how long a member that leaves waits for its neighbours to acknowledge its goodbye.
// What was handed to a connection that closes right afterwards may be lost.
const goodbyeWait = 500 * time.Millisecond

// awaitAcks waits for at most goodbyeWait until all neighbours, or in a large room the first
// fastAcks of them, have this node's feed through last.
func (r *Room) awaitAcks(ctx context.Context, last uint64) {
	ctx, cancel := context.WithTimeout(ctx, goodbyeWait)
	defer cancel()
	for {
		r.mu.Lock()
		acked, all, changed := r.stay.Ackers(last), r.stay.NeighbourCount(), r.changed.Next()
		r.mu.Unlock()
		if acked >= min(all, stay.FastAcks) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-r.ctx.Done():
			return
		}
	}
}

// awaitEcho waits until GossipSub's loop has taken this node's envelope that starts at first, and
// has queued it to the neighbours. Publish returns before that.
func (r *Room) awaitEcho(ctx context.Context, first uint64) bool {
	for {
		r.mu.Lock()
		echoed, changed := r.echoed, r.changed.Next()
		r.mu.Unlock()
		if echoed >= first {
			r.topic.ListPeers() // passes through the loop, so the loop's round with the echo has ended
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-r.ctx.Done():
			return false
		}
	}
}

// end ends the stay, once; readers see reason.
func (r *Room) end(reason error) {
	r.finish.Do(func() {
		m := r.mesh
		r.mu.Lock()
		r.why, r.over = reason, true
		r.stay.Finish(m.clock.Now())
		r.stay.End()
		neighbours := slices.Collect(r.stay.Neighbours())
		unacked := r.unacked
		r.unacked = nil
		r.stay.EndPolls(reason)
		m.handed.keep(r.mesh.clock.Now(), r.tag, r.stay)
		kept := r.stay.KeepOrders()
		r.mu.Unlock()
		m.kept.set(m.clock.Now(), r.tag, kept)
		m.gate.open(topicName(r.tag))
		m.mu.Lock()
		delete(m.rooms, r.name)
		delete(m.tags, r.tag)
		m.names[r.name] = r.ended
		m.mu.Unlock()

		r.endEvents(reason)
		rest, sealed := r.outbox.end(reason)
		m.paces.keep(m.clock.Now(), r.tag, sealed)
		for _, b := range rest {
			b.fail(&sendError{outcome: ErrUnreachable, cause: reason})
		}
		for _, b := range unacked {
			b.end(&sendError{outcome: ErrUnconfirmed, cause: reason})
		}
		r.stop()
		m.forget(r)
		r.unsubscribe()
		for _, p := range neighbours {
			m.host.ConnManager().Unprotect(p, protection(r.tag))
		}
		m.freeName(r.name)
		close(r.ended)
	})
}

// unsubscribe is safe after any part of subscribe.
func (r *Room) unsubscribe() {
	r.gossip.Lock()
	defer r.gossip.Unlock()
	if r.sub != nil {
		r.sub.Cancel()
	}
	if r.peers != nil {
		r.peers.Cancel()
	}
	if r.mesh.ctx.Err() != nil {
		return // pubsub ends as a whole
	}
	_ = r.mesh.pubsub.UnregisterTopicValidator(topicName(r.tag))
	if r.topic != nil {
		if err := r.topic.Close(); err != nil {
			r.mesh.log.Debug("topic not closed", "room", r.name, "err", err)
		}
	}
}

// reason returns why the stay ended, or is about to end.
func (r *Room) reason() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reasonLocked()
}

func (r *Room) reasonLocked() error {
	switch {
	case r.why != nil:
		return r.why
	case r.mesh.ctx.Err() != nil:
		return ErrClosed
	}
	return ErrLeft
}

// stopRooms leaves all rooms at once.
func (m *Mesh) stopRooms(rooms []*Room) {
	var wg sync.WaitGroup
	for _, r := range rooms {
		wg.Go(func() { _ = r.depart(context.Background(), ErrClosed) })
	}
	wg.Wait()
	m.host.RemoveStreamHandler(SyncProtocol)
	m.stopLinks()
}

// EvictAll ends all rooms with reason and says no goodbye: for a user that is now on another
// device.
func (m *Mesh) EvictAll(reason error) {
	for _, r := range m.Rooms() {
		r.end(reason)
	}
}
