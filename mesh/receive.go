package mesh

import (
	"context"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// validate is GossipSub's first validator, for all rooms: it judges an envelope, and delivers it at
// once. What GossipSub does with it then is for others. It rejects only what every member must
// judge alike from the bytes, since a rejection counts against the peer that forwarded the
// envelope.
func (m *Mesh) validate(_ context.Context, from peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
	if from == m.host.ID() {
		return pubsub.ValidationAccept // just sealed here
	}
	r := m.roomByTopic(msg.GetTopic())
	if r == nil {
		return pubsub.ValidationIgnore // left just now
	}
	now := m.clock.Now()
	e, err := r.door.OpenEnvelope(now, msg.GetData())
	if err != nil {
		m.log.Debug("envelope refused", "room", r.name, "peer", from, "err", err)
		return pubsub.ValidationReject
	}
	m.heard(from, now, false)
	late, unwanted := r.receive(now, from, e, stay.Gossiped)
	if unwanted {
		return pubsub.ValidationIgnore
	}
	if e.Peer == from && e.Size >= pubsub.GossipSubIDontWantMessageThreshold {
		msg.ValidatorData = holdBack(min(forwardDelay+2*late, maxForwardDelay))
	}
	return pubsub.ValidationAccept
}

// ownEnvelope marks this node's own envelope on its way through GossipSub by its first sequence.
type ownEnvelope uint64

// echoLoop notes which of this node's own envelopes GossipSub's loop has taken.
func (r *Room) echoLoop() {
	for {
		msg, err := r.sub.Next(r.ctx)
		if err != nil {
			return
		}
		if own, ok := msg.ValidatorData.(ownEnvelope); ok {
			r.mu.Lock()
			r.echoed = uint64(own)
			r.changed.Tell()
			r.mu.Unlock()
		}
	}
}

// receive brings an envelope to the stay, and returns how late it is, as far as is known, and
// whether nobody is to have it: its author is barred from the room here, or an order has ended that
// stay. While it waits for its sender's entry, the stay may still change it.
func (r *Room) receive(now time.Time, via peer.ID, e *stay.Envelope, how stay.Way) (late time.Duration, unwanted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stay.Receive(now, via, e, how)
	return e.Late, r.stay.Barred(now, e) || r.stay.Shut(e)
}
