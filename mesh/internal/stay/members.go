package stay

import (
	"iter"
	"maps"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// public returns a copy of the member that the app may keep.
func (s *seat) public() Member {
	m := s.Member
	m.Info = append([]byte(nil), m.Info...)
	return m
}

// Members returns the members, this node included, ordered by user. The caller owns the result.
func (st *Stay) Members() []Member {
	seats := st.roster.members()
	out := make([]Member, len(seats))
	for i, s := range seats {
		out[i] = s.public()
	}
	return out
}

// Missing returns the other members that were dropped and may come back, in no order. The caller
// owns the result.
func (st *Stay) Missing() (out []Member) {
	for s := range st.roster.order.all() {
		if !s.present && s.reason == Dropped && s.Peer != st.Self {
			out = append(out, s.public())
		}
	}
	return out
}

// Present returns how many members there are, this node included.
func (st *Stay) Present() int { return st.roster.present }

// Logins yields the members, in no order.
func (st *Stay) Logins() iter.Seq[identity.Login] {
	return func(yield func(identity.Login) bool) {
		for s := range st.roster.order.all() {
			if s.present && !yield(s.Login) {
				return
			}
		}
	}
}

// HearDirect notes that a user has sent this node a message of its own, and reports whether the
// user is a member.
func (st *Stay) HearDirect(now time.Time, from identity.Login) bool {
	s := st.roster.devices[from.Peer]
	if st.leaving || s == nil || s.User != from.User || s.Key != from.Key {
		return false
	}
	st.contact(now)
	st.alive(now, from.Peer)
	return s.present && st.Door.holds(s.entry, now) == nil
}

// Unread returns the feeds whose messages the program gets.
func (st *Stay) Unread() (feeds []*Feed) {
	for _, f := range st.journal.feeds {
		if f.next > 0 && f.entry != nil && f.peer() != st.Self {
			feeds = append(feeds, f)
		}
	}
	return feeds
}

// Author returns a feed's author, and its name there.
func (f *Feed) Author() (identity.Login, FeedID) { return f.entry.Statement.Login(), f.entry.Feed }

// First returns the first item of a feed that a reader may want that has got to an item. Item 1 is
// the author's entry, which no ring retains and no reader misses.
func (f *Feed) First(last uint64) uint64 { return max(last+1, f.floor, 2) }

// Retained returns what is retained of a feed from an item on, about so many bytes, and the item
// through which it is lost; 0: none is.
func (st *Stay) Retained(f *Feed, first uint64, bytes int) (list []Kept, gone uint64) {
	list, gone, _ = st.journal.answer(f.tag, span{first: first}, bytes)
	return list, gone
}

// Handed returns how far this stay, and those before it, have handed up the feeds of others, and
// the last stay of each device of which a message was. The caller owns the maps.
func (st *Stay) Handed() (feeds map[FeedTag]uint64, latest map[peer.ID]Mark) {
	j := st.journal
	feeds, latest = make(map[FeedTag]uint64), maps.Clone(j.stays.latest)
	for t, f := range j.feeds {
		if t != j.self && f.next > 0 {
			if feeds[t] = f.handed; !f.untouched() {
				feeds[t] = max(f.last(), f.handed)
			}
		}
	}
	for t, last := range j.stays.handed {
		if _, known := feeds[t]; !known && len(feeds) < MaxFeeds {
			feeds[t] = last
		}
	}
	if len(latest) > MaxFeeds {
		clear(latest)
	}
	return feeds, latest
}
