package stay

import (
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// watch does what is due to watch over members, and returns when this node itself has to show that
// it is there.
func (st *Stay) watch(now time.Time) (due time.Time) {
	if st.leaving {
		return time.Time{}
	}
	if st.roster.refutes(now) {
		st.world.Count(CountRefutations, 1)
		st.world.Refute()
	}
	for _, s := range st.roster.accusations(now, len(st.neighbours) > 0) {
		st.world.Count(CountSuspicions, 1)
		st.log.Debug("member suspected", "room", st.Room, "peer", s.Peer)
		payload, err := proto.Marshal(&wire.Suspicion{
			Device: s.entry.Statement.Device[:], Feed: s.entry.Feed[:], Sequence: s.entry.Sequence, Question: !s.present,
		})
		if err == nil {
			st.world.Say(wire.Kind_KIND_SUSPICION, payload)
		}
	}
	last := st.journal.feeds[st.own.Tag()].used
	if st.roster.beaten.After(last) {
		last = st.roster.beaten
	}
	due = st.roster.beatAt(last)
	if !due.IsZero() && !now.Before(due) {
		st.roster.beaten = now
		st.world.Say(wire.Kind_KIND_BEAT, nil)
		due = st.roster.beatAt(now)
	}
	return due
}

// accused takes an accusation from a member's feed.
func (st *Stay) accused(now time.Time, e *Envelope, payload []byte) {
	a, ok := openSuspicion(payload)
	if !ok {
		st.world.Count(CountRoomViolations, 1)
		return
	}
	if st.roster.accused(now, e.came, e.Peer, a) {
		st.greet(now, a.device, compare)
	}
	st.miss(now, e.came, a)
	st.world.Wake(ForTimer)
}

// miss asks a neighbour that others miss whether it is in the room, unless it has said something
// since. It may have left without GossipSub here having heard of it.
func (st *Stay) miss(now, came time.Time, a accusation) {
	n, s := st.neighbours[a.device], st.roster.devices[a.device]
	if n == nil || s == nil || !s.present || s.entry.Feed != a.feed || !s.heard.Before(came) || now.Sub(n.missed) < refuteEvery {
		return
	}
	if a.question && now.Sub(s.heard) < freshFor {
		return // its answer is on its way
	}
	n.missed = now
	st.query(a.device)
}

// missUnmet asks connected members that are not neighbours in time whether they are in the room,
// and returns when to look again. Others may have told of a member that has since lost its seat.
func (st *Stay) missUnmet(now time.Time) (due time.Time) {
	for _, p := range slices.Sorted(maps.Keys(st.unmet)) {
		if at := st.unmet[p].Add(newcomerWait); now.Before(at) {
			due = earlier(due, at)
			continue
		}
		delete(st.unmet, p)
		if s := st.roster.devices[p]; s != nil && s.present && st.neighbours[p] == nil && st.world.Link(p) != Apart {
			st.query(p)
		}
	}
	return due
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
