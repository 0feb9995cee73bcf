package stay

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

var errBadRoster = errors.New("malformed roster")

const (
	// RosterPart is how many bytes of entries travel in one frame.
	RosterPart = 32 << 10
	// firstAnswer is for how long after it began to join a node takes a LEFT in the first answer of
	// a neighbour for one from before: round trips, and the repair of a lost packet.
	firstAnswer = time.Second
)

// greet tells a peer who we are in this room, and by digests what we know of it. A question comes
// without the digest of heads while a feed has begun with a guess: a neighbour that has got as far
// may have begun earlier, and says so.
func (st *Stay) greet(now time.Time, p peer.ID, why purpose) {
	heads := st.journal.sum()
	if why != answer && st.journal.doubts() {
		heads = nil
	}
	st.greetWith(now, p, why, heads)
}

// greetWith is greet with a digest of heads.
func (st *Stay) greetWith(now time.Time, p peer.ID, why purpose, heads []byte) {
	if st.leaving {
		return
	}
	g := &wire.RoomFrame_Greeting{Entry: st.own.Sealed, Digest: st.roster.sum(), Heads: heads, Reply: why != answer, Compare: why == compare}
	g.ClockMs, g.Orders = uint64(max(now.UnixMilli(), 0)), st.orders.sum()
	if n := st.neighbours[p]; n != nil {
		n.greet(now, why)
	}
	if why != answer {
		g.Past = st.Past.ask(now.Sub(st.since), st.slack(p))
	}
	if why == ask {
		g.Known = st.roster.names()
	}
	st.send(p, &wire.RoomFrame{Room: st.Tag[:], Body: &wire.RoomFrame_Greeting_{Greeting: g}})
}

// slack returns how long a question to a neighbour may take on its way.
func (st *Stay) slack(p peer.ID) time.Duration {
	if n := st.neighbours[p]; n != nil {
		return TransitSlack + n.slack
	}
	return TransitSlack
}

// Introduce greets a member that is not a neighbour, before the first message to it alone.
func (st *Stay) Introduce(now time.Time, p peer.ID) {
	if n := st.neighbours[p]; n == nil || !n.agreed {
		if st.world.Link(p) != Apart {
			st.greet(now, p, answer)
		}
	}
}

// ask asks a neighbour for what it knows and we do not: it is new here, has brought a stranger's
// envelope, or has another roster.
func (st *Stay) ask(now time.Time, p peer.ID, fresh bool) {
	if n := st.neighbours[p]; n != nil {
		n.inquire(now, fresh)
		st.inquire(now)
	}
}

// OpenGreeting verifies the entry with which a peer greets.
func (d *Door) OpenGreeting(now time.Time, p peer.ID, g *wire.RoomFrame_Greeting) (*Entry, error) {
	entry, err := d.open(g.Entry, now)
	if err == nil && entry.Statement.Peer != p {
		return nil, fmt.Errorf("greeting with the entry of peer %s", entry.Statement.Peer)
	}
	return entry, err
}

// HearGreeting takes a peer's greeting, with the entry that it showed.
func (st *Stay) HearGreeting(now time.Time, p peer.ID, g *wire.RoomFrame_Greeting, entry *Entry) {
	if st.leaving {
		return
	}
	st.contact(now)
	s := st.apply(now, entry)
	if st.leaving || s == nil {
		return
	}
	if st.world.Link(p) == Apart {
		st.spoke(now, p) // read after its connection had ended
	} else {
		st.alive(now, p)
		if n := st.neighbours[p]; entry.Joined && (n == nil || n.doubted) {
			st.adopt(now, p)
			st.neighbours[p].unreported = now
		}
	}
	if s.Peer == p {
		s.clocks.hear(now, p, p, g.ClockMs)
	}
	if s.Peer == p && s.entry.Feed == entry.Feed {
		st.claim(now, s)
	}
	st.offer(now, p, g.Orders)
	if g.Reply {
		st.answer(now, p, g, entry.Tag())
	}
	if n := st.neighbours[p]; n != nil {
		switch n.hear(now, g.Reply, string(g.Digest) == string(st.roster.sum()), string(g.Heads) == string(st.journal.sum())) {
		case ask:
			st.ask(now, p, false)
		case compare:
			st.greetWith(now, p, compare, st.journal.sum()) // or two that ask without it would go on for ever
		}
	}
}

// answer sends a peer our greeting and, unless it knows the same, our heads and our roster. asker
// is the feed of the stay that asked.
func (st *Stay) answer(now time.Time, p peer.ID, g *wire.RoomFrame_Greeting, asker FeedTag) {
	st.greet(now, p, answer)
	if string(g.Heads) != string(st.journal.sum()) {
		age, count := pastAsked(g.Past)
		st.tellHeads(now, p, st.journal.positions(), &pastAnswer{asker, g.Past.GetAgeMs(), st.journal.firsts(now, age, count)})
	}
	same := string(g.Digest) == string(st.roster.sum())
	if g.Compare && !same {
		return // it will ask when it has read our digest
	}
	part := &wire.RoomFrame_Roster{Answers: asker[:]}
	size := 0
	if !same {
		unknown := st.roster.unknown(p, g.Known)
		all := 0
		for _, e := range unknown {
			all += len(e.Sealed)
		}
		if !st.world.Allow(p, all) {
			st.world.Count(CountRoomFramesDropped, 1)
			return // it has been sent all of this many times a second
		}
		for _, e := range unknown {
			if size > 0 && size+len(e.Sealed) > RosterPart {
				st.tellRoster(p, part)
				part, size = &wire.RoomFrame_Roster{Answers: asker[:]}, 0
			}
			part.Entries = append(part.Entries, e.Sealed)
			size += len(e.Sealed)
		}
	}
	part.Last = true
	st.tellRoster(p, part)
}

func (st *Stay) tellRoster(p peer.ID, part *wire.RoomFrame_Roster) {
	st.send(p, &wire.RoomFrame{Room: st.Tag[:], Body: &wire.RoomFrame_Roster_{Roster: part}})
}

// OpenRoster verifies the entries that a neighbour passes on, and leaves out those that do not
// count. An error is a breach of the protocol.
func (d *Door) OpenRoster(now time.Time, p peer.ID, part *wire.RoomFrame_Roster) ([]*Entry, error) {
	if !isAsker(part.Answers) {
		return nil, errBadRoster
	}
	entries := make([]*Entry, 0, len(part.Entries))
	for _, sealed := range part.Entries {
		entry, err := d.open(sealed, now)
		switch {
		case errors.Is(err, wire.ErrSignature), errors.Is(err, wire.ErrTruncated):
			return nil, err
		case err != nil:
			// That one has expired since is not the neighbour's fault.
			d.log.Debug("roster entry refused", "room", d.room, "peer", p, "err", err)
		default:
			entries = append(entries, entry)
		}
	}
	return entries, nil
}

// HearRoster takes a part of a neighbour's Roster, with the entries in it that count. They prove
// themselves; that a neighbour repeats one does not prove that the member is still there.
func (st *Stay) HearRoster(now time.Time, p peer.ID, part *wire.RoomFrame_Roster, entries []*Entry) {
	if st.neighbours[p] == nil {
		return // not asked for
	}
	before := st.roster.sum()
	first := !st.neighbours[p].agreed && st.readyAt.IsZero() && now.Sub(st.since) < firstAnswer
	for _, entry := range entries {
		if st.leaving {
			return
		}
		s := st.hearsay(now, p, entry)
		if first && s != nil && s.goodbye != nil && s.feed.next == 0 && !entry.Joined && !st.journal.history {
			s = st.apply(now, entry) // when that neighbour heard of this node, the stay was over
		}
		if s == nil || st.leaving || s.entry.Feed != entry.Feed {
			continue
		}
		st.claim(now, s)
	}
	st.world.Wake(ForTimer)
	n := st.neighbours[p]
	if n == nil {
		return
	}
	n.news = n.news || !bytes.Equal(before, st.roster.sum())
	if part.Last && st.answersThis(part.Answers) {
		n.agreed = true
		n.told(n.news)
		n.news = false
		if !st.cut.heard.IsZero() {
			st.world.Wake(ForTimer)
		}
		st.inquiries(now)
		delete(st.waiting, p)
		st.world.Wake(ForMembers)
	}
}
