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

// OpenOrders verifies the orders of a frame that are not known yet, and leaves out those that do
// not count. An error is a breach of the protocol.
//
// After some that do not count it passes over the rest, since each may cost two checks of
// signatures.
func (d *Door) OpenOrders(now time.Time, p peer.ID, q *wire.RoomFrame_Orders, known []*identity.Order) (list []AgedOrder, err error) {
	if d.Authority == nil {
		return nil, nil
	}
	refused := 0
	for i, o := range known {
		if o == nil && refused >= maxRefused {
			continue
		}
		if o == nil {
			o, err = d.OpenOrder(now, q.Orders[i])
			if errors.Is(err, identity.ErrSignature) && !errors.Is(err, identity.ErrTokenIssuer) {
				return list, err
			}
			if err != nil {
				refused++
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

// HearOrders takes orders that a peer has sent. What it says of this node's own ban counts even
// if the ban is known: that is how members answer one that is banned.
func (st *Stay) HearOrders(now time.Time, p peer.ID, list []AgedOrder, entry *Entry) {
	if st.leaving {
		return
	}
	if entry != nil && st.outcasts[p] != nil {
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
	for p, b := range st.outcasts {
		if st.orders.against(now, b.standing) == nil && !(b.doubted && bans) {
			st.takeBack(now, p, b.user)
		}
	}
	for _, p := range slices.Clone(st.order) {
		if !bans || st.member(p) {
			continue
		}
		if user := st.neighbours[p].user; user == "" {
			st.doubt(now, p)
		} else if o := st.orders.banned(now, user, ""); o != nil {
			st.castOut(now, p, standing{user: user}, o)
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
	st.castOut(now, p, stand, o)
	st.come(now, s) // it may have joined again already
}

// reviews reviews the orders when that is due, and returns when to do so again; zero: there is
// nothing to review.
func (st *Stay) reviews(now time.Time) time.Time {
	if len(st.orders.all) == 0 && len(st.outcasts) == 0 {
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

// Orders returns the orders that are known, those that count most first.
func (st *Stay) Orders() []*HeldOrder { return st.orders.list() }

// BanOf returns the ban that keeps a user of that role out; nil: there is none.
func (st *Stay) BanOf(now time.Time, user, role string) *identity.Order {
	if o := st.orders.banned(now, user, role); o != nil {
		return o.Order
	}
	return nil
}

// Ordered returns when the latest order about a user was issued; "": the latest dismissal; zero:
// there is none.
func (st *Stay) Ordered(user string) (at time.Time) {
	for _, o := range st.orders.about[user] {
		if o.Issued.After(at) {
			at = o.Issued
		}
	}
	return at
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
