package stay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

const (
	// MaxMembers bounds a room's roster. Entries beyond it are not taken. It is about eight times
	// the default size from which a room is large.
	MaxMembers = 4096
	// maxUnheard bounds the members that are known only from others. In larger rooms members that
	// are not neighbours appear when they first say something.
	maxUnheard = 2048
	// tombstoneLife is how long a member that left is remembered, so that a late copy of its entry
	// does not bring it back. After a cut that lasts longer, one can.
	tombstoneLife = 10 * time.Minute
)

// seat is what a room knows of one user: present, or a tombstone.
type seat struct {
	Member
	entry   *Entry
	feed    *Feed // of the present or last stay
	present bool
	reason  LeaveReason // of a tombstone
	leftAt  time.Time
	transit transit // of its envelopes
	clocks  clocks

	// goodbye is an entry that others passed on, while the feed that ends with it has not ended
	// here.
	goodbye   *Entry
	goodbyeAt time.Time
	// coming is the entry of the member's next stay, while the feed of this stay has not ended
	// here.
	coming   *Entry
	comingAt time.Time
	spoken   bool // it has been heard itself, not only through others
	told     bool // the program has been told that it is present
	muted    bool // and that it has fallen silent

	life
}

// roster records the members of a room. It is a plain state machine: the caller passes the time and
// holds the lock.
type roster struct {
	door    *Door
	journal *journal
	self    peer.ID
	grace   time.Duration
	seats   map[identity.Subject]*seat
	order   set[*seat] // the same
	devices map[peer.ID]*seat
	present int
	digest  []byte  // of the present entries; nil: to be computed
	pushed  []*seat // seats that had to give way, for the caller to take

	linked   func(peer.ID) bool                // whether a device is a neighbour in the room
	signs    func(peer.ID) time.Time           // when a neighbour last said something over its connection; zero: not known
	jitter   func(time.Duration) time.Duration // a random part of a time
	turn     func(about peer.ID, of time.Duration) time.Duration
	pace     float64   // the share of a beat after which this node says something
	accusing allowance // of its own accusations
	asking   allowance // of its questions for members that it has dropped
	refuteAt time.Time // when to answer accusations; zero: there are none
	refuted  time.Time // when that was last done
	beaten   time.Time // when the node last said that it is there
	against  uint64    // the sequence of this node's entry that was accused
}

func newRoster(d *Door, j *journal, self peer.ID, grace time.Duration) *roster {
	r := &roster{
		door: d, journal: j, self: self, grace: grace, seats: make(map[identity.Subject]*seat), devices: make(map[peer.ID]*seat),
		linked: func(peer.ID) bool { return false }, signs: func(peer.ID) time.Time { return time.Time{} }, jitter: none, pace: 0.75,
	}
	r.turn = r.ownTurn
	j.present = func(f *Feed) bool {
		s := r.devices[f.peer()]
		return s != nil && s.present && s.feed == f
	}
	j.closing = func(f *Feed) bool {
		s := r.devices[f.peer()]
		return s != nil && (!s.present || s.feed != f || s.goodbye != nil)
	}
	return r
}

// change is what an input did to a user's seat.
type change uint8

const (
	unchanged change = iota
	joined           // it was not present and is
	rejoined         // it was and is present, on another feed or device
	renewed          // the same stay, by a newer entry: nothing is reported, though info and role may differ
	left             // it was present and is not
	replaced         // this node's own user has joined from elsewhere, later
	outdated         // what came is older than what is known
)

// apply takes a verified entry. It returns the seat of the entry's user.
func (r *roster) apply(now time.Time, e *Entry) (*seat, change) {
	if on := r.devices[e.Statement.Peer]; on != nil && on.present && on.Login != e.Statement.Login() {
		return on, outdated // a device has one user in a room; it must leave before it is another
	}
	s := r.seats[e.key()]
	if s == nil {
		if len(r.seats) >= MaxMembers && !r.evict() && !r.push(now) {
			return nil, outdated
		}
		s = &seat{Member: Member{Login: e.Statement.Login()}}
		r.seats[e.key()] = s
		r.order.add(s)
		return s, r.set(now, s, e)
	}
	if !e.newer(s.entry) {
		return s, outdated
	}
	if s.rejoins(e) && s.Peer != r.self {
		if s.coming == nil || e.newer(s.coming) {
			s.coming, s.comingAt = e, now
		}
		return s, unchanged
	}
	if s.present && s.entry.Statement.Peer == r.self && e.Statement.Peer != r.self && e.Joined {
		r.set(now, s, e)
		return s, replaced
	}
	return s, r.set(now, s, e)
}

// rejoins reports whether e begins another stay of a member whose present stay has not ended here:
// it has left and joined again, and the greeting has overtaken the last broadcasts. A member that
// was cut off has restarted instead.
func (s *seat) rejoins(e *Entry) bool {
	return s.present && e.Joined && e.Feed != s.entry.Feed && e.Statement.Peer == s.Peer && s.lost.IsZero() && s.feed.next > 0
}

// came takes the next stay of a member whose present one has ended, if one waits.
func (r *roster) came(now time.Time, s *seat) (change, bool) {
	e := s.coming
	if e == nil || !e.newer(s.entry) {
		s.coming = nil
		return unchanged, false
	}
	s.coming = nil
	return r.set(now, s, e), true
}

// push makes space for a member that speaks for itself: it drops one that is known only from
// others.
func (r *roster) push(now time.Time) bool {
	n := r.unheard()
	if self := r.devices[r.self]; self != nil && self.present && !self.spoken {
		n--
	}
	skip := r.jitter(time.Duration(n))
	for s := range r.order.all() {
		if !s.present || s.spoken || s.Peer == r.self {
			continue
		}
		if skip--; skip < 0 {
			r.leave(now, s, Dropped)
			r.remove(s)
			r.pushed = append(r.pushed, s)
			return true
		}
	}
	return false
}

func (r *roster) set(now time.Time, s *seat, e *Entry) change {
	if !e.Joined && s.entry != nil && s.entry.Statement.Peer != e.Statement.Peer {
		// It is the goodbye of a device that another one has replaced.
		return outdated
	}
	was := s.present
	if s.entry != nil {
		delete(r.devices, s.entry.Statement.Peer)
		if s.entry.Statement.Peer != e.Statement.Peer {
			s.transit, s.clocks = transit{}, clocks{} // another device has another clock
		}
	}
	s.goodbye = nil
	fresh := s.entry == nil || s.entry.Feed != e.Feed
	s.entry, s.Login, s.Info, s.Role = e, e.Statement.Login(), e.Info, e.role(r.door.room)
	r.devices[e.Statement.Peer] = s
	if f := r.journal.open(now, e); f != nil {
		s.feed = f
		s.clocks.merge(e.Statement.Peer, f.clocks)
		f.clocks = clocks{}
	} else if fresh {
		s.feed = &Feed{tag: e.Tag(), entry: e, broken: true} // there are too many already
	}
	r.digest = nil
	if !e.Joined {
		return r.leave(now, s, Quit)
	}
	s.present, s.leftAt = true, time.Time{}
	if was && !fresh {
		r.reaffirmed(now, s)
		return renewed
	}
	s.life = s.anew(now)
	if was {
		return rejoined
	}
	s.Since = now
	r.present++
	return joined
}

// leave makes a present seat a tombstone.
func (r *roster) leave(now time.Time, s *seat, reason LeaveReason) change {
	if !s.present {
		if s.leftAt.IsZero() {
			s.leftAt, s.reason = now, reason
		} else if s.reason == Dropped && (reason == Quit || reason == Kicked) {
			s.reason = reason // nothing that it has published before shows that it is back
		}
		return unchanged
	}
	s.present, s.leftAt, s.reason = false, now, reason
	s.life = s.anew(s.heard)
	r.present--
	r.digest = nil
	return left
}

// alive notes that a device has said something itself, over its own connection.
func (r *roster) alive(now time.Time, p peer.ID) (*seat, change) {
	if s := r.devices[p]; s != nil {
		s.lost = time.Time{}
	}
	return r.spoke(now, p)
}

// spoke notes that a device itself has said something recently; what others say of it does not
// count. A member that had been given up is back.
func (r *roster) spoke(now time.Time, p peer.ID) (*seat, change) {
	s := r.devices[p]
	if s == nil {
		return nil, unchanged
	}
	s.spoken = true
	if s.present {
		s.hear(now)
	}
	return s, r.back(now, s)
}

// hearsay takes a verified entry that another member, a neighbour since met, has passed on. A
// goodbye waits until the feed that it ends has been delivered: gossip and hearsay overtake each
// other.
func (r *roster) hearsay(now time.Time, e *Entry, met time.Time) (*seat, change) {
	s := r.seats[e.key()]
	if s == nil && r.unheard() >= maxUnheard {
		return nil, outdated
	}
	if s != nil {
		r.contradicted(now, s, e, met)
	}
	if e.Joined || s == nil || !s.present || s.entry.Tag() != e.Tag() || s.feed.next == 0 && len(s.feed.held) == 0 || !e.newer(s.entry) {
		return r.apply(now, e)
	}
	if s.goodbye == nil {
		s.goodbye, s.goodbyeAt = e, now
	}
	return s, unchanged
}

// unheard counts the members that are known only from others.
func (r *roster) unheard() (n int) {
	for s := range r.order.all() {
		if s.present && !s.spoken {
			n++
		}
	}
	return n
}

// due returns when expire has something to do; zero: nothing waits.
func (r *roster) due() (due time.Time) {
	due = r.refuteAt
	for s := range r.order.all() {
		due = earlier(due, r.suspicionDue(s))
		if s.present {
			due = earlier(due, r.door.until(s.entry))
		}
		if s.goodbye != nil {
			due = earlier(due, s.ends(s.goodbyeAt))
		}
		if s.coming != nil {
			due = earlier(due, s.ends(s.comingAt))
		}
	}
	return due
}

// earlier returns the earlier of two times; zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// expire gives up members whose grace is over or whose token no longer counts, believes goodbyes
// that did not come by gossip, and forgets old tombstones.
func (r *roster) expire(now time.Time) (gone []*seat) {
	for s := range r.order.all() {
		switch {
		case s.present && s.Peer != r.self && r.door.holds(s.entry, now) != nil,
			s.present && r.overdue(now, s):
			r.leave(now, s, Dropped)
			gone = append(gone, s)
		case s.goodbye != nil && !now.Before(s.ends(s.goodbyeAt)):
			if r.set(now, s, s.goodbye) == left {
				gone = append(gone, s)
			}
		case !s.present && now.Sub(s.leftAt) > tombstoneLife:
			r.remove(s)
		}
	}
	return gone
}

// overdue reports whether the grace of a suspected member is over without a sign of life.
func (r *roster) overdue(now time.Time, s *seat) bool {
	if s.suspected.IsZero() || s.goodbye != nil || now.Before(r.over(s)) {
		return false
	}
	r.look(s)
	return !s.suspected.IsZero()
}

// ends returns when a stay that others say is over ends here too, although its feed has not come to
// its end: later while more of the feed is being fetched.
func (s *seat) ends(said time.Time) time.Time {
	if !s.feed.repair.askAt.IsZero() || s.feed.repair.from != "" {
		return said.Add(lackWait)
	}
	return said.Add(lostWait)
}

// evict forgets the oldest tombstone, and reports false if there is none.
func (r *roster) evict() bool {
	var oldest *seat
	for s := range r.order.all() {
		if !s.present && (oldest == nil || s.leftAt.Before(oldest.leftAt)) {
			oldest = s
		}
	}
	if oldest != nil {
		r.remove(oldest)
	}
	return oldest != nil
}

func (r *roster) remove(s *seat) {
	delete(r.seats, s.entry.key())
	r.order.remove(s)
	if r.devices[s.Peer] == s {
		delete(r.devices, s.Peer)
	}
}

// members returns the present members, ordered by user, key and device.
func (r *roster) members() []*seat {
	out := make([]*seat, 0, r.present)
	for s := range r.order.all() {
		if s.present {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *seat) int {
		return cmp.Or(cmp.Compare(a.User, b.User), bytes.Compare(a.Key[:], b.Key[:]), cmp.Compare(a.Peer, b.Peer))
	})
	return out
}

// tells reports whether others learn of a seat from this node: members, and those that recently
// said goodbye.
func (s *seat) tells() bool { return s.present || !s.entry.Joined }

// names returns the names of all entries that others learn of, in no order.
func (r *roster) names() []byte {
	out := make([]byte, 0, len(entryName{})*len(r.seats))
	for s := range r.order.all() {
		if s.tells() {
			name := s.latest().name
			out = append(out, name[:]...)
		}
	}
	return out
}

// latest returns what others learn of a seat: the next stay of the member, or its goodbye, although
// this stay goes on here until its feed has ended.
func (s *seat) latest() *Entry {
	switch {
	case s.coming != nil:
		return s.coming
	case s.goodbye != nil:
		return s.goodbye
	}
	return s.entry
}

// unknown returns the entries that a neighbour has not named, in no order, except its own and this
// node's, which greetings carry. An incomplete name at the end is ignored.
func (r *roster) unknown(p peer.ID, names []byte) (out []*Entry) {
	named := make(map[entryName]struct{}, len(names)/len(entryName{}))
	for name := range slices.Chunk(names, len(entryName{})) {
		if len(name) == len(entryName{}) {
			named[entryName(name)] = struct{}{}
		}
	}
	for s := range r.order.all() {
		e := s.latest()
		if _, ok := named[e.name]; !ok && s.tells() && s.Peer != p && s.Peer != r.self {
			out = append(out, e)
		}
	}
	return out
}

// sum returns a hash by which two members see whether they know the same of the room.
func (r *roster) sum() []byte {
	if r.digest == nil {
		h := sha256.New()
		var seq [8]byte
		for _, s := range r.members() {
			h.Write(s.entry.Statement.Device[:])
			h.Write(s.entry.Feed[:])
			binary.BigEndian.PutUint64(seq[:], s.entry.Sequence)
			h.Write(seq[:])
		}
		r.digest = h.Sum(nil)
	}
	return r.digest
}
