package stay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
)

const (
	// MaxOrders bounds the orders that a room remembers, and MaxOrdersOf those of one signer. At
	// 0.6 kB with a usual token that is 0.3 MB, and 2.5 MiB at most.
	MaxOrders   = 512
	MaxOrdersOf = 128
)

// HeldOrder is a verified order, and when it was issued at the latest, by this node's clock.
type HeldOrder struct {
	*identity.Order
	Born time.Time
}

// standing is what decides whether orders put a stay out.
type standing struct {
	user, role string
	tag        FeedTag
	heeded     int64     // see Entry
	seen       time.Time // when this node first knew of the stay; zero: it does not yet
}

// orderKey is what a signer has one order about at a time: the latest one counts.
type orderKey struct {
	by   string // "": an issuer
	user string // "": a dismissal
	kick bool
	stay FeedTag // of a kick that names one
}

func keyOf(o *identity.Order) orderKey {
	return orderKey{o.By, o.User, o.Kind == identity.Kick, FeedTag(o.Stay)}
}

// orders is what a room knows of orders. All nodes that have heard the same ones, in whatever
// sequence, come to the same verdict. It is a plain state machine: the caller passes the time.
type orders struct {
	door   *Door
	all    map[orderKey]*HeldOrder
	about  map[string][]*HeldOrder // the same by user, those that count most first; "": dismissals
	digest []byte                  // nil: to be computed
}

func newOrders(d *Door) *orders {
	return &orders{door: d, all: make(map[orderKey]*HeldOrder), about: make(map[string][]*HeldOrder)}
}

// add takes a verified order that was issued that long ago, and reports whether it is news. Of how
// old it is, the first word counts: a later one could end stays that began since. No word makes it
// younger than its signer says, but for what clocks may differ.
func (r *orders) add(now time.Time, o *identity.Order, age time.Duration) (news bool) {
	born := now.Add(-age)
	if limit := o.Issued.Add(identity.MaxSkew); limit.Before(born) {
		born = limit
	}
	return r.put(now, &HeldOrder{o, born})
}

func (r *orders) put(now time.Time, o *HeldOrder) (news bool) {
	if o.Over(now) || !r.upheld(o) {
		return false
	}
	key := keyOf(o.Order)
	if old := r.all[key]; old != nil {
		if !o.Later(old.Order) {
			return false
		}
		r.remove(old)
	}
	r.all[key] = o
	r.about[o.User] = append(r.about[o.User], o)
	slices.SortFunc(r.about[o.User], (*HeldOrder).before)
	r.digest = nil
	r.bound(func(other *HeldOrder) bool { return other.By == o.By }, MaxOrdersOf)
	r.bound(func(*HeldOrder) bool { return true }, MaxOrders)
	return r.all[key] == o
}

// bound removes those orders among some that matter least, until there are few enough. The sequence
// in which orders come does not matter for which ones remain.
func (r *orders) bound(among func(*HeldOrder) bool, most int) {
	for {
		n := 0
		var least *HeldOrder
		for _, o := range r.all {
			if among(o) {
				n++
				if least == nil || o.yields(least) {
					least = o
				}
			}
		}
		if n <= most {
			return
		}
		r.remove(least)
	}
}

// before compares two orders by which counts more: that of the higher rank, and then the later one.
func (o *HeldOrder) before(other *HeldOrder) int {
	if c := cmp.Compare(other.Rank(), o.Rank()); c != 0 {
		return c
	}
	if o.Later(other.Order) {
		return -1
	}
	return 1
}

// yields reports whether o is forgotten before another order: kicks and dismissals, which end by
// themselves, before bans; then those of a lower rank; then older ones.
func (o *HeldOrder) yields(to *HeldOrder) bool {
	lasts := func(o *HeldOrder) int {
		if o.Kind == identity.Ban || o.Kind == identity.Unban {
			return 1
		}
		return 0
	}
	if c := cmp.Or(cmp.Compare(lasts(o), lasts(to)), cmp.Compare(o.Rank(), to.Rank())); c != 0 {
		return c < 0
	}
	return to.Later(o.Order)
}

func (r *orders) remove(o *HeldOrder) {
	delete(r.all, keyOf(o.Order))
	rest := slices.DeleteFunc(r.about[o.User], func(other *HeldOrder) bool { return other == o })
	if r.about[o.User] = rest; len(rest) == 0 {
		delete(r.about, o.User)
	}
	r.digest = nil
}

// expire forgets the orders that are over, and those whose signer's token was revoked.
func (r *orders) expire(now time.Time) {
	for _, o := range r.all {
		if o.Over(now) || !r.upheld(o) {
			r.remove(o)
		}
	}
}

// upheld reports whether the token of an order's signer is not revoked.
func (r *orders) upheld(o *HeldOrder) bool { return r.door.Authority.Upholds(o.Order) == nil }

// holds reports whether an order may have an effect on a member of that rank.
func (r *orders) holds(now time.Time, o *HeldOrder, rank int) bool {
	return o.Rank() > rank && !o.Over(now) && r.upheld(o)
}

// banned returns the ban that keeps a user of that role out; nil: there is none. Of several orders
// the one of the higher rank counts, then the later one.
func (r *orders) banned(now time.Time, user, role string) *HeldOrder {
	for _, o := range r.about[user] {
		if (o.Kind == identity.Ban || o.Kind == identity.Unban) && r.holds(now, o, identity.RankOf(role)) {
			if o.Kind == identity.Unban {
				return nil
			}
			return o
		}
	}
	return nil
}

// against returns the order that puts a stay out; nil: there is none.
func (r *orders) against(now time.Time, s standing) *HeldOrder {
	if len(r.all) == 0 {
		return nil
	}
	if o := r.banned(now, s.user, s.role); o != nil {
		return o
	}
	for _, o := range r.about[s.user] {
		if o.Kind == identity.Kick && r.holds(now, o, identity.RankOf(s.role)) && o.ends(s) {
			return o
		}
	}
	for _, o := range r.about[""] {
		if r.holds(now, o, -1) && o.ends(s) {
			return o
		}
	}
	return nil
}

// ends reports whether a kick or a dismissal ends a stay: one that it names or, if it names none,
// one that was known when it was issued, or that does not say that it began afterwards.
func (o *HeldOrder) ends(s standing) bool {
	if o.Stay != ([16]byte{}) {
		return FeedTag(o.Stay) == s.tag
	}
	return s.heeded < o.Issued.UnixMilli() || !s.seen.IsZero() && s.seen.Before(o.Born)
}

// heeds returns when the latest order that names no stay and concerns a user was issued, in
// milliseconds since 1970; 0: there is none.
func (r *orders) heeds(now time.Time, user string) (ms int64) {
	for _, name := range []string{"", user} {
		for _, o := range r.about[name] {
			if (o.Kind == identity.Dismiss || o.Kind == identity.Kick && o.Stay == [16]byte{}) && r.holds(now, o, -1) {
				ms = max(ms, o.Issued.UnixMilli())
			}
		}
	}
	return ms
}

// bans reports whether there is any ban.
func (r *orders) bans() bool {
	for _, o := range r.all {
		if o.Kind == identity.Ban {
			return true
		}
	}
	return false
}

// list returns all orders, those that count most first: what is read first is judged first.
func (r *orders) list() []*HeldOrder {
	return slices.SortedFunc(maps.Values(r.all), (*HeldOrder).before)
}

// sum returns a hash by which two members see whether they know the same orders; nil: there are
// none.
func (r *orders) sum() []byte {
	if len(r.all) == 0 {
		return nil
	}
	if r.digest == nil {
		sums := make([][]byte, 0, len(r.all))
		for _, o := range r.all {
			s := o.Sum()
			sums = append(sums, s[:])
		}
		slices.SortFunc(sums, bytes.Compare)
		h := sha256.New()
		for _, s := range sums {
			h.Write(s)
		}
		r.digest = h.Sum(nil)
	}
	return r.digest
}

// known returns the order with these sealed bytes, if it is held.
func (r *orders) known(sum [sha256.Size]byte) *HeldOrder {
	for _, o := range r.all {
		if o.Sum() == sum {
			return o
		}
	}
	return nil
}
