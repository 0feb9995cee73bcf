package stay

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

// neighbour is what a room knows of a directly connected peer that is subscribed to its topic.
type neighbour struct {
	inquiry
	met    time.Time     // since when it has been a neighbour
	user   string        // that it has proved to be while it was no member and somebody was banned; empty: not known
	parted bool          // it was one before, as a member, and its connection had ended
	agreed bool          // it has answered our greeting with its roster
	acked  uint64        // how much of this node's own feed it has
	news   bool          // the roster that it is sending has something new
	slack  time.Duration // how much more than TransitSlack a question to it may take on its way
	pulled bool          // it is being asked for broadcasts
	// doubted says that GossipSub no longer knows its subscription, and that it was asked whether
	// it is still in the room.
	doubted bool
	// missed is when it was last asked the same, because others miss it; zero: it was not.
	missed time.Time
	// offered is the digest of the orders that it was sent last, at offeredAt.
	offered   string
	offeredAt time.Time
	early     []early // receipts of envelopes that have not come here yet
	// unreported is since when GossipSub has not reported the subscription of a neighbour that has
	// greeted us; zero: it has, or was reminded.
	unreported time.Time
}

const (
	// digestEvery is how often a member compares its roster with a random neighbour's when nothing
	// happens.
	digestEvery = 10 * time.Second
	// newsDelay is how soon it compares after a change, and newsPeers with how many: gossip
	// tells everybody who comes and goes, but loses what is said while the topic mesh forms. The
	// delay is doubled at random, and gathers the changes of a whole room that joins at once: with
	// 150 ms, two halves of 20 members need 7 % more frames to come together, and no less time.
	newsDelay = 250 * time.Millisecond
	newsPeers = 3
	// newsBridges is how many of these are new neighbours, for bridgeTime: a new one may be the
	// only way into another part of the room.
	newsBridges = 2
	bridgeTime  = 10 * time.Second
	// seekEvery is how often neighbours are asked where a feed begins, until one of them is sure.
	seekEvery = 500 * time.Millisecond
)

// Subscribed notes that GossipSub has reported the subscription of a connected peer.
func (st *Stay) Subscribed(now time.Time, p peer.ID) { st.subscribed(now, p, "") }

// subscribed is Subscribed of a peer that has proved to be a user; empty: it has not yet.
func (st *Stay) subscribed(now time.Time, p peer.ID, user string) {
	if st.orders.bans() && !st.member(p) && st.outcasts[p] == nil && user == "" {
		st.doubt(now, p)
		return
	}
	if b := st.outcasts[p]; b != nil {
		b.subscribed = true
		st.informAgain(now, p)
		return
	}
	st.contact(now)
	st.roster.subscribed(now, p)
	delete(st.newcomers, p)
	st.adopt(now, p)
	st.neighbours[p].unreported, st.neighbours[p].user = time.Time{}, user
	st.ask(now, p, true)
	st.world.Wake(ForMembers)
}

// Unsubscribed notes that a peer is no longer subscribed, as far as GossipSub knows.
func (st *Stay) Unsubscribed(now time.Time, p peer.ID) {
	if b := st.outcasts[p]; b != nil {
		b.subscribed = false
		return
	}
	n, s := st.neighbours[p], st.roster.devices[p]
	if n != nil && s != nil && s.present && st.world.Link(p) == Linked {
		// It has not said goodbye: GossipSub has forgotten its subscription with an old connection,
		// or the goodbye was lost. Its answer shows which.
		n.doubted = true
		st.query(p)
	} else {
		st.gone(now, p)
	}
	st.world.Wake(ForMembers)
}

// adopt makes a peer that is in the room a neighbour.
func (st *Stay) adopt(now time.Time, p peer.ID) {
	if n := st.neighbours[p]; n != nil {
		n.doubted = false
	} else {
		if len(st.neighbours) == 0 {
			st.journal.renew(now)
		}
		st.neighbours[p] = &neighbour{met: now, parted: st.parted.back(now, p)}
		st.order = append(st.order, p)
		st.roster.bridged(now)
		st.journal.retry(now)
		st.world.Wake(ForTimer)
	}
	st.world.Keep(p, true)
}

// shuffled yields the neighbours in random order.
func (st *Stay) shuffled() iter.Seq[peer.ID] {
	return func(yield func(peer.ID) bool) {
		for i := 0; i < len(st.order); i++ {
			j := i + st.Rand.IntN(len(st.order)-i)
			st.order[i], st.order[j] = st.order[j], st.order[i]
			if !yield(st.order[i]) {
				return
			}
		}
	}
}

// chance returns a random time less than d, or zero if d is not positive.
func (st *Stay) chance(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(st.Rand.Int64N(int64(d)))
}

// none is what a journal and a roster use in place of chance until they get that of a stay.
func none(time.Duration) time.Duration { return 0 }

// meeting reports whether a member was met less than meetWait ago who may know more of another than
// is known here: not that one itself, unless others are missing who may come next.
func (st *Stay) meeting(now time.Time, about peer.ID) bool {
	for p, n := range st.neighbours {
		if now.Sub(n.met) >= meetWait || p == about && !st.apart(now, about) {
			continue
		}
		if s := st.roster.devices[p]; s != nil && (s.present || s.reason == Dropped) {
			return true
		}
	}
	return false
}

// backWait is how long a neighbour that has come back may lack what it is about to get.
const backWait = 2 * meetWait

// back reports whether a neighbour came back less than backWait ago.
func (st *Stay) back(now time.Time) bool {
	return slices.ContainsFunc(st.order, func(p peer.ID) bool {
		n := st.neighbours[p]
		return n.parted && now.Sub(n.met) < backWait
	})
}

// apart reports whether a member other than that one has parted lately, and has not said goodbye.
// It may have what nobody else here has.
func (st *Stay) apart(now time.Time, but peer.ID) bool {
	return st.parted.lately(now, func(p peer.ID) bool {
		s := st.roster.devices[p]
		return p != but && s != nil && (s.present || s.reason == Dropped)
	})
}

// hearWait is how long no neighbour must have said anything before this node counts as cut off: the
// time of two beats, for each of which a neighbour that says nothing else takes 2.5 s.
const hearWait = 5 * time.Second

// hears reports whether a neighbour has said something less than hearWait ago.
func (st *Stay) hears(now time.Time) bool {
	return slices.ContainsFunc(st.order, func(p peer.ID) bool { return now.Sub(st.world.Spoke(p)) < hearWait })
}

// dismiss forgets a neighbour that is no longer in the room, or not connected.
func (st *Stay) dismiss(now time.Time, p peer.ID) {
	if i := slices.Index(st.order, p); i >= 0 {
		st.order = slices.Delete(st.order, i, i+1)
	}
	delete(st.neighbours, p)
	if s := st.roster.devices[p]; s != nil && s.present {
		st.parted.left(now, p)
	}
	st.journal.left(now, p)
	st.window.forget(p)
	st.world.Wake(ForPublisher)
	st.world.Keep(p, false)
	st.alone(now)
}

// gone notes that a neighbour has left the room and that no goodbye has come.
func (st *Stay) gone(now time.Time, p peer.ID) {
	st.dismiss(now, p)
	st.roster.unsubscribed(now, p)
	st.world.Wake(ForTimer)
}

// subscribeWait is how long after a member's greeting GossipSub may take to report its
// subscription, before GossipSub is taken to have forgotten it.
const subscribeWait = time.Second

// subscribe reports neighbours whose subscription GossipSub has not reported, and returns when to
// look again.
func (st *Stay) subscribe(now time.Time) (due time.Time) {
	for _, p := range st.order {
		n := st.neighbours[p]
		if n.unreported.IsZero() {
			continue
		}
		if at := n.unreported.Add(subscribeWait); now.Before(at) {
			due = earlier(due, at)
			continue
		}
		n.unreported = time.Time{}
		st.world.Unreported(p)
	}
	return due
}

// heads asks a neighbour where a feed begins: it has brought an item of one that has no baseline
// here.
func (st *Stay) heads(now time.Time, p peer.ID) {
	if n := st.neighbours[p]; n != nil {
		n.compareSoon(askEvery)
		st.inquire(now)
	}
}

// seek asks some neighbours where feeds without a baseline here begin, since those that were asked
// first may not have known.
func (st *Stay) seek(now time.Time) {
	if !st.journal.seek(now) {
		return
	}
	for f := range st.journal.waiting.all() {
		if n := st.neighbours[f.peer()]; n != nil {
			n.compareSoon(askEvery) // nobody knows better than the author
		}
	}
	peers := newsPeers
	for p := range st.shuffled() {
		if peers--; peers < 0 {
			return
		}
		st.neighbours[p].compareSoon(askEvery)
	}
}

// inquire greets the neighbours that are due, and arms the timer for the others.
func (st *Stay) inquire(now time.Time) {
	if due := st.inquiries(now); !due.IsZero() {
		st.world.Wake(ForTimer)
	}
}

// inquiries greets the neighbours that are due, and returns when to look again.
func (st *Stay) inquiries(now time.Time) time.Time {
	greet, due := st.neighbours.next(now, st.shuffled(), st.Asking)
	for _, p := range greet {
		st.greet(now, p, st.neighbours[p].want)
	}
	return due
}

// compare sends neighbours our digests when it is time to. A neighbour with other digests asks, and
// we ask when it says that its own differ.
func (st *Stay) compare(now time.Time) {
	if st.untold {
		st.untold = false
		st.nextDigest = earlier(st.nextDigest, now.Add(newsDelay+st.chance(newsDelay)))
		st.widen = true
	}
	if now.Before(st.nextDigest) {
		return
	}
	peers, bridges := 1, 0
	if st.widen {
		st.widen, peers, bridges = false, newsPeers, newsBridges
	}
	st.nextDigest = now.Add(digestEvery + st.chance(digestEvery/2))
	var others []peer.ID
	for p := range st.shuffled() {
		switch n := st.neighbours[p]; {
		case bridges > 0 && now.Sub(n.met) < bridgeTime:
			bridges--
			peers--
			st.greet(now, p, compare)
		case len(others) < newsPeers:
			others = append(others, p)
		}
	}
	for _, p := range others[:min(len(others), peers)] {
		st.greet(now, p, compare)
	}
}

// AskAround asks connected peers whether they are in the room: GossipSub reports subscriptions, but
// not when it has reported all.
func (st *Stay) AskAround(peers []peer.ID) {
	for _, p := range peers {
		if n := st.neighbours[p]; (n == nil || !n.agreed) && st.outcasts[p] == nil {
			st.waiting[p] = struct{}{}
			st.query(p)
		}
	}
}

// Agreed reports whether every one of these peers, which are in the room, has sent its roster, and
// all others have said that they are not in the room.
func (st *Stay) Agreed(now time.Time, peers []peer.ID) bool {
	for _, p := range peers {
		if n := st.neighbours[p]; (n == nil || !n.agreed) && !st.outcasts[p].silent(now, st.since) {
			return false
		}
	}
	return len(st.waiting) == 0
}

// Again asks a peer once more: what was sent to it last may be lost.
func (st *Stay) Again(now time.Time, p peer.ID) {
	if st.neighbours[p] != nil {
		st.greet(now, p, ask)
	} else if _, ok := st.waiting[p]; ok {
		st.query(p)
	} else if s := st.roster.devices[p]; s != nil && s.present {
		st.unmet[p] = now // the question may have been lost with the stream
	}
}

func (st *Stay) query(p peer.ID) {
	st.send(p, &wire.RoomFrame{Room: st.Tag[:], Body: &wire.RoomFrame_Query_{Query: &wire.RoomFrame_Query{}}})
}

// Absent notes that a peer is not in the room, or cannot be. A member of which others have told
// has lost its seat since.
func (st *Stay) Absent(now time.Time, p peer.ID) {
	delete(st.waiting, p)
	switch n := st.neighbours[p]; {
	case n != nil && (n.doubted || !n.missed.IsZero()):
		st.gone(now, p)
	case n == nil:
		st.roster.unsubscribed(now, p)
		st.world.Wake(ForTimer)
	}
	st.world.Wake(ForMembers)
}

// HearQuery greets a peer that asks, unless GossipSub has yet to report its subscription: then the
// peer is greeted at that time.
func (st *Stay) HearQuery(now time.Time, p peer.ID) {
	st.Probe(now, p)
	st.informAgain(now, p)
}

// Connected notes that there is a connection to a peer.
func (st *Stay) Connected(now time.Time, p peer.ID) {
	st.roster.reconnected(now, p)
	if s := st.roster.devices[p]; s != nil && s.present {
		st.greet(now, p, ask) // GossipSub reports its subscription later
		st.unmet[p] = now
	}
	st.world.Wake(ForTimer)
}

// Disconnected notes that the last connection to a peer has ended.
func (st *Stay) Disconnected(now time.Time, p peer.ID) {
	if b := st.outcasts[p]; b != nil {
		b.subscribed = false
	}
	delete(st.waiting, p)
	delete(st.newcomers, p)
	delete(st.unmet, p)
	if st.neighbours[p] != nil {
		st.dismiss(now, p)
	}
	st.world.Wake(ForMembers)
	st.roster.lost(now, p)
	st.world.Wake(ForTimer)
}

// NeighbourCount returns how many neighbours there are.
func (st *Stay) NeighbourCount() int { return len(st.neighbours) }

// Neighbours yields the neighbours.
func (st *Stay) Neighbours() iter.Seq[peer.ID] { return maps.Keys(st.neighbours) }
