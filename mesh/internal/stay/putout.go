package stay

import (
	"crypto/sha256"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// informEvery is how often a device that is put out is told the order again, when it asks.
	informEvery = 2 * time.Second
	// offerEvery is how often a neighbour is sent the same orders again while its digest differs.
	offerEvery = 2 * time.Second
	// orderPeers is to how many neighbours a member passes on at once what it has learnt from one.
	// What gossip has brought needs no such help.
	orderPeers = 8
	// maxRefused is how many orders in a frame may not hold before the rest is passed over.
	maxRefused = 16
	// reviewEvery is how often a room with orders checks which of them still count.
	reviewEvery = time.Second
	// maxOutcasts bounds the devices that are put out and remembered.
	maxOutcasts = MaxMembers
	// orderBurst and orderEvery bound the orders in the feed of one member that are verified.
	// Further ones come when members compare what they know.
	orderBurst = 16
	orderEvery = time.Second
)

// outcast is what a room remembers of a device that is put out.
type outcast struct {
	standing
	// doubted says that no order is known to put it out, but that somebody is banned and the peer
	// has yet to show that it is somebody else.
	doubted    bool
	subscribed bool // GossipSub has reported its subscription
	told       [sha256.Size]byte
	toldAt     time.Time
	kept       bool // from an earlier stay: it may have joined anew since
}

// PutOut says that an order has put this node's user out: the stay is over.
type PutOut struct{ Order *identity.Order }

func (PutOut) notice() {}

// standing returns what orders are held against.
func (e *Entry) standing(room string) standing {
	return standing{user: e.Statement.User, role: e.role(room), tag: e.Tag(), heeded: e.Heeded}
}

func (st *Stay) standing(e *Entry) standing {
	s := e.standing(st.Room)
	if f := st.journal.feeds[s.tag]; f != nil {
		s.seen = f.seen
	}
	return s
}

// refuse returns the order that keeps the stay of an entry out, and bars its device. Otherwise it
// lets the device in again.
func (st *Stay) refuse(now time.Time, e *Entry) *HeldOrder {
	p := e.Statement.Peer
	if !e.Joined || p == st.Self || len(st.orders.all) == 0 && len(st.outcasts) == 0 {
		return nil
	}
	s, b := st.standing(e), st.outcasts[p]
	if b != nil && b.tag == s.tag && !b.seen.IsZero() {
		s.seen = b.seen // the feed may have been forgotten since
	}
	if o := st.orders.against(now, s); o != nil {
		if seat := st.roster.devices[p]; seat == nil || !seat.present || seat.entry.Tag() == s.tag {
			st.castOut(now, p, s, o)
		}
		return o
	}
	if b != nil {
		st.takeBack(now, p, s.user)
	}
	return nil
}

// castOut lets a device have nothing more of the room, and tells it the order.
func (st *Stay) castOut(now time.Time, p peer.ID, s standing, o *HeldOrder) {
	st.shut(now, p, s)
	st.inform(now, p, st.outcasts[p], o)
	st.world.Wake(ForOrders)
}

// shut is castOut without telling the device anything.
func (st *Stay) shut(now time.Time, p peer.ID, s standing) {
	b := st.outcasts[p]
	if b == nil {
		st.unclutter()
		b = new(outcast)
		if n := st.neighbours[p]; n != nil {
			b.subscribed = n.unreported.IsZero()
			st.dismiss(now, p)
		}
		st.outcasts[p] = b
		delete(st.newcomers, p)
		delete(st.unmet, p)
		delete(st.waiting, p)
		st.world.Bar(p, true)
		st.world.Wake(ForMembers)
		st.world.Wake(ForTimer)
	}
	b.standing, b.doubted = s, false
}

// doubt bars a subscribed peer that is no member until it has proved which user it is.
func (st *Stay) doubt(now time.Time, p peer.ID) {
	st.shut(now, p, standing{})
	b := st.outcasts[p]
	b.doubted, b.subscribed = true, true
	st.world.Identify(p)
}

// unclutter makes room for one more device that is put out: it forgets one, if possible one that is
// not connected.
func (st *Stay) unclutter() {
	if len(st.outcasts) < maxOutcasts {
		return
	}
	var any peer.ID
	for p := range st.outcasts {
		if any = p; st.world.Link(p) == Apart {
			break
		}
	}
	delete(st.outcasts, any)
	st.world.Bar(any, false)
}

// takeBack lets a device have what is said in the room again.
// It has proved to be a user; empty: it may have to.
func (st *Stay) takeBack(now time.Time, p peer.ID, user string) {
	b := st.outcasts[p]
	delete(st.outcasts, p)
	if s := st.roster.devices[p]; s != nil && !s.present && s.reason == Kicked && s.entry.Tag() == b.tag && s.entry.Joined {
		// The order does not count any more, and has not reached the member.
		s.reason, s.leftAt = Dropped, now
		st.journal.reopen(s.feed)
	}
	st.world.Bar(p, false)
	st.world.Wake(ForOrders)
	if b.subscribed {
		st.subscribed(now, p, user)
	}
}

// inform tells a device which order puts it out. It is the one frame that it still gets.
//
// It may have joined anew, and keep silent because it knows of no new stay of this node either. So
// that is said to it as well, unless it is banned.
func (st *Stay) inform(now time.Time, p peer.ID, b *outcast, o *HeldOrder) {
	if st.world.Link(p) == Apart || b.told == o.Sum() && now.Sub(b.toldAt) < informEvery {
		return
	}
	b.told, b.toldAt = o.Sum(), now
	q := &wire.RoomFrame_Orders{Orders: [][]byte{o.Sealed()}, AgesMs: []uint64{o.age(now)}}
	if o.Kind != identity.Ban && st.own != nil {
		q.Entry = st.own.Sealed
	}
	st.world.Tell(p, &wire.RoomFrame{Room: st.Tag[:], Body: &wire.RoomFrame_Orders_{Orders: q}})
}

// informAgain tells a device that is put out and asks which order does that.
func (st *Stay) informAgain(now time.Time, p peer.ID) {
	if b := st.outcasts[p]; b != nil && !st.leaving {
		if o := st.orders.against(now, b.standing); o != nil {
			st.inform(now, p, b, o)
		}
	}
}

// silent reports whether a device is put out and nothing more is expected of it.
func (b *outcast) silent(now, since time.Time) bool {
	return b != nil && !b.doubted && !(b.kept && now.Sub(since) < keptWait)
}

// age returns how long ago an order was issued, in ms.
func (o *HeldOrder) age(now time.Time) uint64 {
	return uint64(max(now.Sub(o.Born), 0) / time.Millisecond)
}

// send queues a frame for a peer, unless it is put out.
func (st *Stay) send(p peer.ID, frame *wire.RoomFrame) {
	if st.outcasts[p] == nil {
		st.world.Tell(p, frame)
	}
}

// tellOrders sends orders, in frames of limited size.
func (st *Stay) tellOrders(now time.Time, p peer.ID, list []*HeldOrder) {
	part, size := new(wire.RoomFrame_Orders), 0
	flush := func() {
		if len(part.Orders) > 0 {
			st.world.Tell(p, &wire.RoomFrame{Room: st.Tag[:], Body: &wire.RoomFrame_Orders_{Orders: part}})
		}
		part, size = new(wire.RoomFrame_Orders), 0
	}
	for _, o := range list {
		if size += len(o.Sealed()); size > RosterPart {
			flush()
			size = len(o.Sealed())
		}
		part.Orders = append(part.Orders, o.Sealed())
		part.AgesMs = append(part.AgesMs, o.age(now))
	}
	flush()
}

// offer sends a neighbour the orders that this node knows, if the neighbour knows others.
func (st *Stay) offer(now time.Time, p peer.ID, digest []byte) {
	n, mine := st.neighbours[p], st.orders.sum()
	if n == nil || mine == nil || string(mine) == string(digest) ||
		n.offered == string(mine) && now.Sub(n.offeredAt) < offerEvery {
		return
	}
	n.offered, n.offeredAt = string(mine), now
	list := st.orders.list()
	bytes := 0
	for _, o := range list {
		bytes += len(o.Sealed())
	}
	if !st.world.Allow(p, bytes) {
		st.world.Count(CountRoomFramesDropped, 1)
		return
	}
	st.tellOrders(now, p, list)
}

// Shut reports whether an envelope is of a stay that an order has ended, so that nobody needs it.
func (st *Stay) Shut(e *Envelope) bool {
	b := st.outcasts[e.Peer]
	return b != nil && !b.doubted && (b.tag == e.tag || b.tag == FeedTag{})
}

// readmits reports whether an envelope of a stay that is put out has an entry by which it no longer
// is.
func (st *Stay) readmits(now time.Time, e *Envelope) bool {
	if sealed := e.entry(); sealed != nil {
		if entry, err := st.openOwnEntry(now, e, sealed); err == nil {
			return entry.Joined && st.apply(now, entry) != nil
		}
	}
	return false
}

// member reports whether a device is that of a present member.
func (st *Stay) member(p peer.ID) bool {
	s := st.roster.devices[p]
	return s != nil && s.present
}

// Proved notes which user a peer has proved to be of which the stay wanted to know it; empty: none.
func (st *Stay) Proved(now time.Time, p peer.ID, user string) {
	b := st.outcasts[p]
	if st.leaving || b == nil || !b.doubted {
		return
	}
	if o := st.orders.banned(now, user, ""); o != nil {
		st.castOut(now, p, standing{user: user}, o)
	} else if user != "" {
		st.takeBack(now, p, user)
	}
}
