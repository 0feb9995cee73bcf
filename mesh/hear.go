package mesh

import (
	"errors"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

var errBadTag = errors.New("room tag of the wrong length")

// peerLoop takes what GossipSub reports about who is subscribed.
func (r *Room) peerLoop() {
	for {
		ev, err := r.peers.NextPeerEvent(r.ctx)
		if err != nil {
			return
		}
		r.mu.Lock()
		if r.over {
			r.mu.Unlock()
			return // a peer that is adopted now would stay protected
		}
		switch ev.Type {
		case pubsub.PeerJoin:
			r.mesh.topics.found(ev.Peer, topicName(r.tag))
			r.stay.Subscribed(r.mesh.clock.Now(), ev.Peer)
		case pubsub.PeerLeave:
			r.stay.Unsubscribed(r.mesh.clock.Now(), ev.Peer)
		}
		r.mu.Unlock()
	}
}

// do calls f with the stay, under the room's lock.
func (r *Room) do(f func(st *stay.Stay, now time.Time)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.stay, r.mesh.clock.Now())
}

// hear takes a frame from a peer. Signatures are verified without the room's lock. An error is a
// breach of the protocol.
func (r *Room) hear(p peer.ID, frame *wire.RoomFrame) error {
	switch body := frame.Body.(type) {
	case *wire.RoomFrame_Greeting_:
		return r.hearGreeting(p, body.Greeting)
	case *wire.RoomFrame_Roster_:
		return r.hearRoster(p, body.Roster)
	case *wire.RoomFrame_Heads_:
		return r.hearHeads(p, body.Heads)
	case *wire.RoomFrame_Query_:
		r.do(func(st *stay.Stay, now time.Time) { st.HearQuery(now, p) })
		return nil
	case *wire.RoomFrame_Receipts_:
		return r.hearReceipts(p, body.Receipts)
	case *wire.RoomFrame_Orders_:
		return r.hearOrders(p, body.Orders)
	case *wire.RoomFrame_Absent_:
		r.do(func(st *stay.Stay, now time.Time) { st.Absent(now, p) })
		return nil
	default:
		return nil // from a later version
	}
}

func (r *Room) hearGreeting(p peer.ID, g *wire.RoomFrame_Greeting) error {
	entry, err := r.door.OpenGreeting(r.mesh.clock.Now(), p, g)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stay.HearGreeting(r.mesh.clock.Now(), p, g, entry)
	return nil
}

func (r *Room) hearRoster(p peer.ID, part *wire.RoomFrame_Roster) error {
	entries, err := r.door.OpenRoster(r.mesh.clock.Now(), p, part)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stay.HearRoster(r.mesh.clock.Now(), p, part, entries)
	return nil
}

func (r *Room) hearHeads(p peer.ID, h *wire.RoomFrame_Heads) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stay.HearHeads(r.mesh.clock.Now(), p, h)
}

func (r *Room) hearReceipts(p peer.ID, q *wire.RoomFrame_Receipts) error {
	if err := stay.CheckReceipts(q); err != nil {
		return err
	}
	r.mesh.stats.receiptFramesTaken.Add(1)
	r.mu.Lock()
	wanted := r.stay.Wanted(p, q)
	r.mu.Unlock()
	if len(wanted) == 0 {
		return nil
	}
	if err := stay.CheckSignatures(r.tag, q, wanted); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stay.HearReceipts(r.mesh.clock.Now(), p, q, wanted)
	return nil
}
