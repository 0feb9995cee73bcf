package stay

import (
	"crypto/sha256"
	"errors"
	"slices"
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
	// reviewEvery is how often a room with orders checks which of them still count.
	reviewEvery = time.Second
	// maxBarred bounds the devices that are put out and remembered.
	maxBarred = MaxMembers
	// orderBurst and orderEvery bound the orders in the feed of one member that are verified.
	// Further ones come when members compare what they know.
	orderBurst = 16
	orderEvery = time.Second
)

// barred is what a room remembers of a device that is put out.
type barred struct {
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
	if !e.Joined || p == st.Self {
		return nil
	}
	s, b := st.standing(e), st.barred[p]
	if b != nil && b.tag == s.tag && !b.seen.IsZero() {
		s.seen = b.seen // the feed may have been forgotten since
	}
	if o := st.orders.against(now, s); o != nil {
		if seat := st.roster.devices[p]; seat == nil || !seat.present || seat.entry.Tag() == s.tag {
			st.bar(now, p, s, o)
		}
		return o
	}
	if b != nil {
		st.unbar(now, p)
	}
	return nil
}

// bar lets a device have nothing more of the room, and tells it the order.
func (st *Stay) bar(now time.Time, p peer.ID, s standing, o *HeldOrder) {
	st.shut(now, p, s)
	st.inform(now, p, st.barred[p], o)
	st.world.Wake(ForOrders)
}

// shut is bar without telling the device anything.
func (st *Stay) shut(now time.Time, p peer.ID, s standing) {
	b := st.barred[p]
	if b == nil {
		st.unclutter()
		b = new(barred)
		if n := st.neighbours[p]; n != nil {
			b.subscribed = n.unreported.IsZero()
			st.dismiss(now, p)
		}
		st.barred[p] = b
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
	b := st.barred[p]
	b.doubted, b.subscribed = true, true
	st.world.Identify(p)
}

// unclutter makes room for one more device that is put out: it forgets one, if possible one that is
// not connected.
func (st *Stay) unclutter() {
	if len(st.barred) < maxBarred {
		return
	}
	var any peer.ID
	for p := range st.barred {
		if any = p; st.world.Link(p) == Apart {
			break
		}
	}
	delete(st.barred, any)
	st.world.Bar(any, false)
}

// unbar lets a device have what is said in the room again.
func (st *Stay) unbar(now time.Time, p peer.ID) {
	b := st.barred[p]
	delete(st.barred, p)
	if s := st.roster.devices[p]; s != nil && !s.present && s.reason == Kicked && s.entry.Tag() == b.tag && s.entry.Joined {
		// The order does not count any more, and has not reached the member.
		s.reason, s.leftAt = Dropped, now
		st.journal.reopen(s.feed)
	}
	st.world.Bar(p, false)
	st.world.Wake(ForOrders)
	if b.subscribed {
		st.subscribed(now, p, true)
	}
}

// inform tells a device which order puts it out. It is the one frame that it still gets.
//
// It may have joined anew, and keep silent because it knows of no new stay of this node either. So
// it is told of that as well, unless it is banned.
func (st *Stay) inform(now time.Time, p peer.ID, b *barred, o *HeldOrder) {
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
	if b := st.barred[p]; b != nil && !st.leaving {
		if o := st.orders.against(now, b.standing); o != nil {
			st.inform(now, p, b, o)
		}
	}
}

// silent reports whether a device is put out and nothing more is expected of it.
func (b *barred) silent(now, since time.Time) bool {
	return b != nil && !b.doubted && !(b.kept && now.Sub(since) < rejoinWait)
}

// age returns how long ago an order was issued, in ms.
func (o *HeldOrder) age(now time.Time) uint64 {
	return uint64(max(now.Sub(o.Born), 0) / time.Millisecond)
}

// tell queues a frame for a peer, unless it is put out.
func (st *Stay) tell(p peer.ID, frame *wire.RoomFrame) {
	if st.barred[p] == nil {
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

var errBadOrders = errors.New("malformed orders")

// AgedOrder is a verified order and how long ago it was issued, as far as its teller knows.
type AgedOrder struct {
	*identity.Order
	Age time.Duration
}

// age returns what a teller's word of an age says.
func age(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(10*identity.OrderLife/time.Millisecond))) * time.Millisecond
}

// CheckOrders returns an error if a frame of orders breaks the rules.
func CheckOrders(q *wire.RoomFrame_Orders) error {
	if len(q.Orders) != len(q.AgesMs) {
		return errBadOrders
	}
	for _, sealed := range q.Orders {
		if len(sealed) > identity.MaxOrder {
			return errBadOrders
		}
	}
	return nil
}

// KnownOrders returns for each order of a frame the verified order, or nil if this node lacks it.
func (st *Stay) KnownOrders(q *wire.RoomFrame_Orders) []*identity.Order {
	out := make([]*identity.Order, len(q.Orders))
	for i, sealed := range q.Orders {
		if o := st.orders.known(sha256.Sum256(sealed)); o != nil {
			out[i] = o.Order
		}
	}
	return out
}

// OpenOrders verifies the orders of a frame that are not known yet, and leaves out those that do not
// count. An error is a breach of the protocol.
func (d *Door) OpenOrders(now time.Time, p peer.ID, q *wire.RoomFrame_Orders, known []*identity.Order) (list []AgedOrder, err error) {
	if d.Authority == nil {
		return nil, nil
	}
	for i, o := range known {
		if o == nil {
			o, err = d.OpenOrder(now, q.Orders[i])
			if errors.Is(err, identity.ErrSignature) && !errors.Is(err, identity.ErrTokenIssuer) {
				return list, err
			}
			if err != nil {
				d.log.Debug("order refused", "room", d.room, "peer", p, "err", err)
				continue
			}
		}
		list = append(list, AgedOrder{o, age(q.AgesMs[i])})
	}
	return list, nil
}

// OpenOrder verifies an order for this room.
func (d *Door) OpenOrder(now time.Time, sealed []byte) (*identity.Order, error) {
	return d.Authority.OpenOrder(sealed, d.room, d.tag, now)
}

// HearOrders takes orders that a peer has told of. What it says of this node's own ban counts even
// if the ban is known: that is how members answer one that is banned.
func (st *Stay) HearOrders(now time.Time, p peer.ID, list []AgedOrder, entry *Entry) {
	if st.leaving {
		return
	}
	if entry != nil && st.barred[p] != nil {
		st.apply(now, entry)
	}
	var news []*HeldOrder
	told := false
	for _, o := range list {
		if st.orders.add(now, o.Order, o.Age) {
			news = append(news, st.orders.all[keyOf(o.Order)])
		}
		told = told || o.Kind == identity.Ban && o.User == st.own.Statement.User
	}
	peers := orderPeers
	for to := range st.shuffled() {
		if len(news) == 0 || peers == 0 {
			break
		}
		if to != p {
			peers--
			st.tellOrders(now, to, news)
		}
	}
	st.ordered(now, len(news) > 0)
	st.judgeOwn(now, told)
}

// heardOrder takes an order from a member's feed.
func (st *Stay) heardOrder(now time.Time, e *Envelope, sealed []byte) {
	if st.Door.Authority == nil || st.leaving {
		return
	}
	if st.orders.known(sha256.Sum256(sealed)) != nil {
		return
	}
	if s := st.roster.devices[e.Peer]; s == nil || !s.ordering.take(now, orderBurst, orderEvery) {
		return
	}
	o, err := st.Door.OpenOrder(now, sealed)
	if err != nil {
		st.log.Debug("order refused", "room", st.Room, "peer", e.Peer, "err", err)
		return
	}
	st.ordered(now, st.orders.add(now, o, max(now.Sub(e.came), 0)))
	st.judgeOwn(now, o.Kind == identity.Ban)
}

// Order takes a verified order that this node's user gives, or that it was given to pass on. Both
// then go into this node's feed. If spread is set, neighbours are told at once as well.
func (st *Stay) Order(now time.Time, o *identity.Order, spread bool) {
	if st.leaving {
		return
	}
	news := st.orders.add(now, o, 0)
	if held := st.orders.known(o.Sum()); spread && held != nil {
		for _, p := range st.order {
			st.tellOrders(now, p, []*HeldOrder{held})
		}
	}
	st.ordered(now, news)
	st.judgeOwn(now, true)
}

// ordered acts on orders that are news, and on none if there are none.
func (st *Stay) ordered(now time.Time, news bool) {
	if news {
		st.untold = true
		st.world.Wake(ForOrders)
		st.world.Wake(ForTimer)
		st.review(now)
	}
}

// review applies all orders to all members but this node.
func (st *Stay) review(now time.Time) {
	st.nextReview = now.Add(reviewEvery)
	st.orders.expire(now)
	for s := range st.roster.order.all() {
		if s.Peer == st.Self || !s.entry.Joined || !s.present && s.reason != Dropped {
			continue
		}
		stand := st.standing(s.entry)
		if o := st.orders.against(now, stand); o != nil {
			st.putOut(now, s, stand, o)
		}
	}
	bans := st.orders.bans()
	for p, b := range st.barred {
		if st.orders.against(now, b.standing) == nil && !(b.doubted && bans) {
			st.unbar(now, p)
		}
	}
	for _, p := range slices.Clone(st.order) {
		if bans && !st.member(p) {
			st.doubt(now, p)
		}
	}
}

// putOut ends the stay of a member, by an order.
func (st *Stay) putOut(now time.Time, s *seat, stand standing, o *HeldOrder) {
	st.log.Debug("member put out", "room", st.Room, "peer", s.Peer, "order", o.Kind)
	st.world.Count(CountPutOut, 1)
	p := s.Peer
	st.journal.quit(s.feed)
	s.goodbye = nil
	st.note(now, s, st.roster.leave(now, s, Kicked))
	st.bar(now, p, stand, o)
	if c := s.coming; c != nil && st.refuse(now, c) == nil {
		st.come(now, s) // it has joined again already
	}
}

// reviews reviews the orders when that is due, and returns when to do so again; zero: there is
// nothing to review.
func (st *Stay) reviews(now time.Time) time.Time {
	if len(st.orders.all) == 0 && len(st.barred) == 0 {
		return time.Time{}
	}
	if !now.Before(st.nextReview) {
		st.world.Wake(ForMembers) // see Agreed
		had := len(st.orders.all)
		if st.review(now); len(st.orders.all) != had {
			st.world.Wake(ForOrders)
		}
	}
	return st.nextReview
}

// judgeOwn applies the orders to this node's own stay. A ban that is remembered from before counts
// only once a member has told of it, or all have had the chance to tell that it was lifted.
func (st *Stay) judgeOwn(now time.Time, told bool) {
	if st.leaving || st.own == nil || len(st.orders.all) == 0 {
		return
	}
	own := st.own.standing(st.Room)
	heeded := own.heeded
	own.heeded, own.seen = st.orders.heeds(now, own.user), st.since // only this node knows when its stay began
	o := st.orders.against(now, own)
	switch {
	case o != nil && (o.Kind != identity.Ban || told || !st.readyAt.IsZero()):
		if !st.Defiant {
			st.leaving = true
			st.world.Notice(PutOut{o.Order})
		}
	case heeded < own.heeded && st.heeding < own.heeded:
		st.heeding = own.heeded
		st.world.Refute()
	}
}

// Heeds returns what this node's next entry is to say of the orders that its stay began after.
func (st *Stay) Heeds(now time.Time) int64 {
	if st.Defiant {
		return st.own.Heeded
	}
	return max(st.own.Heeded, st.orders.heeds(now, st.own.Statement.User))
}

// Shut reports whether an envelope is of a stay that an order has ended, so that nobody needs it.
func (st *Stay) Shut(e *Envelope) bool {
	b := st.barred[e.Peer]
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
	b := st.barred[p]
	if st.leaving || b == nil || !b.doubted {
		return
	}
	if o := st.orders.banned(now, user, ""); o != nil {
		st.bar(now, p, standing{user: user}, o)
	} else if user != "" {
		st.unbar(now, p)
	}
}

// Orders returns the orders that are known, those that count most first.
func (st *Stay) Orders() []*HeldOrder { return st.orders.list() }

// BanOf returns the ban that keeps a user of that role out; nil: there is none.
func (st *Stay) BanOf(now time.Time, user, role string) *identity.Order {
	if o := st.orders.banned(now, user, role); o != nil {
		return o.Order
	}
	return nil
}

// StayOf returns the role of a user who is in the room or was dropped, and which stay that is.
func (st *Stay) StayOf(user string) (role string, stay FeedTag, ok bool) {
	for s := range st.roster.order.all() {
		if s.User == user && s.entry.Joined && (s.present || s.reason == Dropped) {
			return s.Role, s.entry.Tag(), true
		}
	}
	return "", FeedTag{}, false
}

// IssuerOf returns what an issuer has said about bans of a user, if one has.
func (st *Stay) IssuerOf(now time.Time, user string) (kind identity.OrderKind, ok bool) {
	for _, o := range st.orders.about[user] {
		if o.By == "" && (o.Kind == identity.Ban || o.Kind == identity.Unban) && !o.Over(now) {
			return o.Kind, true
		}
	}
	return 0, false
}

// BansEnd returns when the last ban of a user that is not an issuer's ends; zero: never.
func (st *Stay) BansEnd(user string) (end time.Time) {
	for _, o := range st.orders.about[user] {
		if o.By == "" || o.Kind != identity.Ban {
			continue
		}
		if o.Until.IsZero() {
			return time.Time{}
		}
		if o.Until.After(end) {
			end = o.Until
		}
	}
	return end
}
