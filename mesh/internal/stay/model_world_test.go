package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// What follows is what a stay asks its world for.

func (r *simStay) Tell(p peer.ID, frame *wire.RoomFrame) { r.w.tell(r.dev.i, simIndex(p), frame) }

func (r *simStay) Allow(peer.ID, int) bool { return true }

func (r *simStay) Say(kind wire.Kind, payload []byte) {
	if !r.st.Leaving() {
		r.say(kind, payload)
	}
}

func (r *simStay) AskReceipts(payload []byte) bool {
	r.Say(wire.Kind_KIND_ASK, payload)
	return true
}

func (r *simStay) Deliver(_ identity.Login, e *Envelope, list []Item) bool {
	for _, item := range list {
		r.delivered(r.st.journal.feeds[e.tag], item.Number)
	}
	return true
}

func (r *simStay) Notice(n Notice) {
	switch n := n.(type) {
	case Joined:
		r.w.note("%d: %d has joined", r.dev.i, simIndex(n.Member.Peer))
	case Left:
		r.w.note("%d: %d has left: %s", r.dev.i, simIndex(n.Member.Peer), n.Reason)
	case Lost:
		tag := TagFeed(r.w.all[simIndex(n.From.Peer)].statement.Device, n.Feed)
		r.lost(r.st.journal.feeds[tag], span{n.First, n.Last})
	case Replaced:
		r.w.breach("%d is replaced by %d", r.dev.i, simIndex(n.By.Peer))
	}
}

func (r *simStay) Rehear(p peer.ID, q *wire.RoomFrame_Receipts) {
	r.w.at(r.w.now, func() {
		if r.ended {
			return
		}
		if err := r.hearReceipts(p, q); err != nil {
			r.w.breach("%d breaks the protocol: %v", simIndex(p), err)
		}
	})
}

func (r *simStay) Refute() {
	r.w.at(r.w.now, func() {
		if !r.ended {
			r.renew()
		}
	})
}

func (r *simStay) Link(p peer.ID) Link {
	if r.w.connected(r.dev.i, simIndex(p)) {
		return Linked
	}
	return Apart
}

// simBeat is how often a neighbour that says nothing else sends a beat.
const simBeat = 2500 * time.Millisecond

func (r *simStay) Spoke(p peer.ID) time.Time {
	i := simIndex(p)
	l := r.w.link(r.dev.i, i)
	if l == nil || !l.up {
		return time.Time{}
	}
	at := l.spoke[l.side(r.dev.i)]
	if beat := epoch.Add(r.w.now.Sub(epoch).Truncate(simBeat)); r.w.passes(r.dev.i, i) && r.w.all[i].stay != nil && beat.After(at) && beat.After(l.since) {
		at = beat
	}
	if at.IsZero() {
		return at
	}
	return at.Add(r.dev.ahead)
}

func (r *simStay) Keep(p peer.ID, keep bool) {
	if keep {
		r.kept[p] = struct{}{}
	} else {
		delete(r.kept, p)
	}
}

func (r *simStay) Bar(peer.ID, bool) {}
func (r *simStay) Identify(peer.ID)  {}

// Unreported makes GossipSub believe, with the next frame from that device, that it takes the
// topic.
func (r *simStay) Unreported(p peer.ID) {
	i := simIndex(p)
	l := r.w.link(r.dev.i, i)
	if l == nil || !l.up {
		return
	}
	times := l.times
	r.w.after(r.w.between(simQuick, simSlow), func() {
		if l.times == times && !r.dev.subscribed[i] && !r.ended {
			r.dev.subscribe(i, true)
		}
	})
}

func (r *simStay) Know(*Entry) {}

func (r *simStay) Ended(last uint64, acked int) {
	if len(r.pending) == 0 || r.pending[0] != last || acked > r.st.NeighbourCount() {
		r.w.breach("the broadcast of %d through %d ends, acknowledged by %d of %d; it waits for %v", r.dev.i, last, acked, r.st.NeighbourCount(), r.pending)
		return
	}
	r.pending = r.pending[1:]
}

func (r *simStay) Wake(who Waiter) {
	switch who {
	case ForTimer:
		r.arm()
	case ForPublisher:
		r.pumpSoon()
	case ForMembers:
		r.pumpSoon()
		r.look()
	}
}

func (r *simStay) Count(c Counter, n int) {
	switch {
	case n == 0:
	case c == CountForks:
		r.w.breach("%d finds that a feed forks", r.dev.i)
	case c == CountRoomViolations:
		r.w.breach("%d takes something for a breach of the protocol", r.dev.i)
	}
}
