package mesh

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// maxInfo is the most user information a member may give, in bytes.
	maxInfo = 200
	// maxMembers bounds a room's roster. Entries beyond it are not taken; it is eight times the size from
	// which a room is large.
	maxMembers = 4096
	// maxEntry bounds a sealed roster entry in bytes: a statement with a token, user information, a room
	// token and addresses.
	maxEntry = 20 << 10
	// maxAddrs is how many addresses of a member are taken.
	maxAddrs    = 16
	maxAddrSize = 256
	// tombstoneLife is how long a member that left is remembered, so that a late copy of its entry does not
	// bring it back. A cut that lasts longer can.
	tombstoneLife = 10 * time.Minute
)

// rosterEntry is a verified roster entry.
type rosterEntry struct {
	sealed    []byte
	statement *identity.Statement
	feed      FeedID
	sequence  uint64
	joined    bool
	info      []byte
	addrs     [][]byte
}

func (e *rosterEntry) key() memberKey { return memberKey{e.statement.User, e.statement.UserKey} }

// newer orders the entries of one user: the later join wins, by whatever device, and the peer ID breaks ties, so
// that every member computes the same.
func (e *rosterEntry) newer(o *rosterEntry) bool {
	return cmp.Or(cmp.Compare(e.sequence, o.sequence), cmp.Compare(e.statement.Peer, o.statement.Peer)) > 0
}

// openEntry verifies a sealed roster entry for a room.
func openEntry(sealed []byte, tag [32]byte, verifier *identity.Verifier, now time.Time) (*rosterEntry, error) {
	if len(sealed) > maxEntry {
		return nil, fmt.Errorf("roster entry of %d bytes", len(sealed))
	}
	_, body, err := wire.Split(sealed)
	if err != nil {
		return nil, err
	}
	var e wire.RosterEntry
	if err := proto.Unmarshal(body, &e); err != nil {
		return nil, errors.New("roster entry is not a protobuf message")
	}
	st, err := verifier.Verify(e.Statement, now)
	if err != nil {
		return nil, err
	}
	if _, err := wire.Open(wire.DomainRoster, st.Device[:], sealed); err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(e.Room, tag[:]):
		return nil, errors.New("roster entry of another room")
	case len(e.Feed) != len(FeedID{}):
		return nil, errors.New("roster entry without a feed")
	case e.Sequence == 0 || e.Sequence > uint64(now.Add(identity.MaxSkew).UnixMilli()):
		return nil, fmt.Errorf("roster entry: sequence %d is more than %v ahead of the time", e.Sequence, identity.MaxSkew)
	case e.State != wire.RosterEntry_JOINED && e.State != wire.RosterEntry_LEFT:
		return nil, errors.New("roster entry without a state")
	case len(e.Info) > maxInfo:
		return nil, fmt.Errorf("roster entry with %d bytes of user information", len(e.Info))
	}
	return &rosterEntry{
		sealed:    bytes.Clone(sealed),
		statement: st,
		feed:      FeedID(e.Feed),
		sequence:  e.Sequence,
		joined:    e.State == wire.RosterEntry_JOINED,
		info:      e.Info,
		addrs:     checkAddrs(e.Addrs),
	}, nil
}

func checkAddrs(addrs [][]byte) [][]byte {
	addrs = addrs[:min(len(addrs), maxAddrs)]
	return slices.DeleteFunc(addrs, func(a []byte) bool { return len(a) > maxAddrSize })
}

type memberKey struct {
	user string
	key  identity.PublicKey
}

// seat is what a room knows of one user: present, or a tombstone.
type seat struct {
	Member
	entry   *rosterEntry
	feed    feed
	present bool
	reason  LeaveReason // of a tombstone
	leftAt  time.Time
	lostAt  time.Time // when its connection was lost; zero: it is connected, or never was
	transit transit   // of its envelopes

	// goodbye is an entry that others tell of, while the feed that ends with it has not come to its end here.
	goodbye   *rosterEntry
	goodbyeAt time.Time
}

// roster is who is in a room. It is a plain state machine: the caller brings the time and holds the lock.
type roster struct {
	self    peer.ID
	grace   time.Duration
	seats   map[memberKey]*seat
	devices map[peer.ID]*seat
	present int
	digest  []byte // of the present entries; nil: to be computed
}

func newRoster(self peer.ID, grace time.Duration) *roster {
	return &roster{self: self, grace: grace, seats: make(map[memberKey]*seat), devices: make(map[peer.ID]*seat)}
}

// change is what an input did to a user's seat.
type change uint8

const (
	unchanged change = iota
	joined           // it was not present and is
	renewed          // it was and is present, on another feed or device
	left             // it was present and is not
	displaced        // this node's own user has joined from elsewhere, later
	outdated         // what came is older than what is known
)

// apply takes a verified entry. The seat is that of the entry's user.
func (r *roster) apply(now time.Time, e *rosterEntry) (*seat, change) {
	if on := r.devices[e.statement.Peer]; on != nil && on.present && on.Login != e.statement.Login() {
		return on, outdated // a device has one user in a room; it must leave before it is another
	}
	s := r.seats[e.key()]
	if s == nil {
		if len(r.seats) >= maxMembers && !r.evict() {
			return nil, outdated
		}
		s = &seat{Member: Member{Login: e.statement.Login()}}
		r.seats[e.key()] = s
		return s, r.set(now, s, e)
	}
	if !e.newer(s.entry) {
		return s, outdated
	}
	if s.present && s.entry.statement.Peer == r.self && e.statement.Peer != r.self && e.joined {
		r.set(now, s, e)
		return s, displaced
	}
	return s, r.set(now, s, e)
}

func (r *roster) set(now time.Time, s *seat, e *rosterEntry) change {
	if !e.joined && s.entry != nil && s.entry.statement.Peer != e.statement.Peer {
		// The goodbye of a device that another one has taken the place of.
		return outdated
	}
	was := s.present
	if s.entry != nil {
		delete(r.devices, s.entry.statement.Peer)
	}
	s.goodbye = nil
	fresh := s.entry == nil || s.entry.feed != e.feed
	s.entry, s.Login, s.Info = e, e.statement.Login(), e.info
	r.devices[e.statement.Peer] = s
	if fresh {
		s.feed = feed{id: e.feed}
	}
	r.digest = nil
	if !e.joined {
		return r.leave(now, s, Quit)
	}
	s.present, s.lostAt, s.leftAt = true, time.Time{}, time.Time{}
	if was {
		return renewed
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
		}
		return unchanged
	}
	s.present, s.leftAt, s.reason, s.lostAt = false, now, reason, time.Time{}
	r.present--
	r.digest = nil
	return left
}

// alive notes that a device has been heard of: itself, not what others say of it. One that had been given up
// is back.
func (r *roster) alive(now time.Time, p peer.ID) (*seat, change) {
	s := r.devices[p]
	if s == nil {
		return nil, unchanged
	}
	s.lostAt = time.Time{}
	if s.present || s.reason != Dropped {
		return s, unchanged
	}
	s.present, s.leftAt, s.Since = true, time.Time{}, now
	r.present++
	r.digest = nil
	return s, joined
}

// hearsay takes a verified entry that another member has passed on. A goodbye waits until the feed that it ends has
// been delivered: gossip and hearsay overtake each other.
func (r *roster) hearsay(now time.Time, e *rosterEntry) (*seat, change) {
	s := r.seats[e.key()]
	if e.joined || s == nil || !s.present || s.entry.feed != e.feed || s.feed.next == 0 && len(s.feed.held) == 0 || !e.newer(s.entry) {
		return r.apply(now, e)
	}
	if s.goodbye == nil {
		s.goodbye, s.goodbyeAt = e, now
	}
	return s, unchanged
}

// lost notes that the connection to a device has ended. The grace begins.
func (r *roster) lost(now time.Time, p peer.ID) {
	if s := r.devices[p]; s != nil && s.present && s.lostAt.IsZero() && p != r.self {
		s.lostAt = now
	}
}

// due is when expire has something to do; zero: nothing waits.
func (r *roster) due() (due time.Time) {
	for _, s := range r.seats {
		if !s.lostAt.IsZero() {
			due = earlier(due, s.lostAt.Add(r.grace))
		}
		if s.goodbye != nil {
			due = earlier(due, s.goodbyeAt.Add(gapWait))
		}
		due = earlier(due, s.feed.due())
	}
	return due
}

// earlier is the earlier of two times of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// expire gives up members whose grace is over, believes goodbyes that did not come by gossip, and forgets old
// tombstones.
func (r *roster) expire(now time.Time) (gone []*seat) {
	for key, s := range r.seats {
		switch {
		case s.present && !s.lostAt.IsZero() && !now.Before(s.lostAt.Add(r.grace)):
			r.leave(now, s, Dropped)
			gone = append(gone, s)
		case s.goodbye != nil && !now.Before(s.goodbyeAt.Add(gapWait)):
			if r.set(now, s, s.goodbye) == left {
				gone = append(gone, s)
			}
		case !s.present && now.Sub(s.leftAt) > tombstoneLife:
			r.remove(key, s)
		}
	}
	return gone
}

// evict forgets the oldest tombstone, and reports false when there is none.
func (r *roster) evict() bool {
	var key memberKey
	var oldest *seat
	for k, s := range r.seats {
		if !s.present && (oldest == nil || s.leftAt.Before(oldest.leftAt)) {
			key, oldest = k, s
		}
	}
	if oldest != nil {
		r.remove(key, oldest)
	}
	return oldest != nil
}

func (r *roster) remove(key memberKey, s *seat) {
	delete(r.seats, key)
	if r.devices[s.Peer] == s {
		delete(r.devices, s.Peer)
	}
}

// members are those present, ordered by user, key and device.
func (r *roster) members() []*seat {
	out := make([]*seat, 0, r.present)
	for _, s := range r.seats {
		if s.present {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *seat) int {
		return cmp.Or(cmp.Compare(a.User, b.User), bytes.Compare(a.Key[:], b.Key[:]), cmp.Compare(a.Peer, b.Peer))
	})
	return out
}

// known are the members, and those who said goodbye lately: entries that a neighbour may lack.
func (r *roster) known() []*seat {
	out := r.members()
	for _, s := range r.seats {
		if !s.present && !s.entry.joined {
			out = append(out, s)
		}
	}
	return out
}

// sum is a hash by which two members see whether they know the same of the room.
func (r *roster) sum() []byte {
	if r.digest == nil {
		h := sha256.New()
		var seq [8]byte
		for _, s := range r.members() {
			h.Write(s.entry.statement.Device[:])
			h.Write(s.entry.feed[:])
			binary.BigEndian.PutUint64(seq[:], s.entry.sequence)
			h.Write(seq[:])
		}
		r.digest = h.Sum(nil)
	}
	return r.digest
}
