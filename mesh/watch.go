package mesh

import (
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// watchLocked does what is due to watch over members, and returns when this node itself has to show
// that it is there.
func (r *Room) watchLocked(now time.Time) (due time.Time) {
	if r.leaving {
		return time.Time{}
	}
	if r.roster.refutes(now) {
		r.mesh.stats.refutations.Add(1)
		r.mesh.tasks.Go(r.refute)
	}
	for _, s := range r.roster.accusations(now, len(r.neighbours) > 0) {
		r.mesh.stats.suspicions.Add(1)
		r.mesh.log.Debug("member suspected", "room", r.name, "peer", s.Peer)
		payload, err := proto.Marshal(&wire.Suspicion{
			Device: s.entry.statement.Device[:], Feed: s.entry.feed[:], Sequence: s.entry.sequence, Question: !s.present,
		})
		if err == nil {
			r.outbox.push(wire.Kind_KIND_SUSPICION, payload)
		}
	}
	last := r.journal.feeds[r.own.tag()].used
	if r.roster.beaten.After(last) {
		last = r.roster.beaten
	}
	due = r.roster.beatAt(last)
	if !due.IsZero() && !now.Before(due) {
		r.roster.beaten = now
		r.outbox.push(wire.Kind_KIND_BEAT, nil)
		due = r.roster.beatAt(now)
	}
	return due
}

// refute answers accusations: it signs the node's entry again.
func (r *Room) refute() {
	r.mu.Lock()
	own := r.own
	r.mu.Unlock()
	if err := r.reissue(own.statement, own.token); err != nil {
		r.mesh.log.Debug("accusation not refuted", "room", r.name, "err", err)
	}
}

// accusedLocked takes an accusation from a member's feed.
func (r *Room) accusedLocked(now time.Time, e *envelope, payload []byte) {
	a, ok := openSuspicion(payload)
	if !ok {
		r.mesh.stats.roomViolations.Add(1)
		return
	}
	if r.roster.accused(now, e.came, e.peer, a) {
		r.greetLocked(a.device, compare)
	}
	r.armTimer()
}

func openSuspicion(payload []byte) (accusation, bool) {
	var s wire.Suspicion
	if proto.Unmarshal(payload, &s) != nil || len(s.Device) != len(identity.PublicKey{}) || len(s.Feed) != len(FeedID{}) || s.Sequence == 0 {
		return accusation{}, false
	}
	pub, err := crypto.UnmarshalEd25519PublicKey(s.Device)
	if err != nil {
		return accusation{}, false
	}
	id, err := peer.IDFromPublicKey(pub)
	return accusation{id, FeedID(s.Feed), s.Sequence, s.Question}, err == nil
}

// tellLocked queues an event of a member that came or left, unless the room is large.
func (r *Room) tellLocked(ev Event) {
	was := r.large
	limit := r.mesh.cfg.large
	switch n := r.roster.present; {
	case n >= limit:
		r.large = true
	case n < limit-limit/10:
		r.large = false
	}
	if r.large != was {
		r.queue.PushNotice(&RoomSize{Header{Type: TypeRoomSize}, r.roster.present, r.large})
	}
	if !r.large && !was {
		r.queue.PushNotice(ev)
	}
}
