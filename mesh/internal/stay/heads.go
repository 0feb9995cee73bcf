package stay

import (
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// MaxPositions bounds the feeds in one frame.
	MaxPositions = 1024
	// AckEvery is how many envelopes a neighbour acknowledges together, and ackDelay how long an
	// acknowledgement waits for that number. After a silence of ackIdle the first envelope is
	// acknowledged at once. So is one with a single message: its author is not busy, and may wait
	// for the acknowledgement.
	AckEvery = 2
	ackDelay = 10 * time.Millisecond
	ackIdle  = 20 * time.Millisecond
	// FastAcks is how many neighbours acknowledge soon if there are more than closeRoom: one is
	// enough for a Publish to return. The others take up to ackSpread for each of them, and at most
	// maxAckDelay.
	FastAcks    = 8
	ackSpread   = 2 * time.Millisecond
	maxAckDelay = time.Second
	// announcePeers is how many neighbours are sent the positions of others' feeds that went quiet.
	// The author tells all that have not acknowledged its last message, announceTries times.
	announcePeers = 3
	announceTries = 3
)

var errBadHeads = errors.New("malformed heads")

// ack is what a member owes a neighbour that is the author of a feed.
type ack struct {
	count int       // envelopes not acknowledged
	last  time.Time // when the last acknowledgement was sent
	due   time.Time // when the next must be sent; zero: nothing is owed
}

// owe counts an envelope, and reports whether to acknowledge now. It assumes that the author has as
// many neighbours as this node.
func (a *ack) owe(now time.Time, chance *rand.Rand, neighbours int, single bool) bool {
	a.count++
	delay := ackDelay
	if neighbours <= closeRoom {
		if single || a.count >= AckEvery || now.Sub(a.last) >= ackIdle {
			return true
		}
	} else {
		if chance.IntN(neighbours) < FastAcks && now.Sub(a.last) >= ackIdle {
			return true
		}
		delay = time.Duration(chance.Int64N(int64(min(time.Duration(neighbours)*ackSpread, maxAckDelay))))
	}
	if a.due.IsZero() {
		a.due = now.Add(delay)
	}
	return false
}

// acknowledge tells the author of a feed, if it is a neighbour, how far the feed has arrived: at
// once or soon.
func (st *Stay) acknowledge(now time.Time, f *Feed, single bool) {
	author := f.entry.Statement.Peer
	if st.neighbours[author] == nil {
		return
	}
	if f.ack.owe(now, st.Rand, len(st.neighbours), single) {
		st.tellAck(now, f)
		return
	}
	if !st.owing.has(f) {
		st.owing.add(f)
		st.world.Wake(ForTimer)
	}
}

func (st *Stay) tellAck(now time.Time, f *Feed) {
	f.ack = ack{last: now}
	st.owing.remove(f)
	st.tellHeads(now, f.entry.Statement.Peer, []*Feed{f}, nil)
}

// pastAnswer is what Heads answer to a Past.
type pastAnswer struct {
	asker  FeedTag // the feed of the stay that asked
	ageMs  uint64  // the age that it gave
	firsts func(*Feed) (first uint64, sure bool)
}

// tellHeads tells a neighbour how far this node has got with feeds and, if it has asked, where they
// begin for it.
func (st *Stay) tellHeads(now time.Time, p peer.ID, feeds []*Feed, past *pastAnswer) {
	for len(feeds) > 0 {
		n := min(len(feeds), MaxPositions)
		h := &wire.RoomFrame_Heads{Feeds: make([]*wire.Position, n)}
		if past != nil {
			h.AgeMs, h.Answers = past.ageMs, past.asker[:]
		}
		for i, f := range feeds[:n] {
			pos := &wire.Position{Feed: f.tag[:], Last: f.reach(p)}
			if past != nil {
				first, sure := past.firsts(f)
				pos.First, pos.Unsure, pos.ClockMs = min(first, pos.Last+1), !sure, st.clock(now, p, f)
			}
			h.Feeds[i] = pos
		}
		feeds = feeds[n:]
		st.send(p, &wire.RoomFrame{Room: st.Tag[:], Body: &wire.RoomFrame_Heads_{Heads: h}})
	}
}

// clock returns what the clock of a feed's author shows, to say so to a peer; 0: it is not known.
func (st *Stay) clock(now time.Time, to peer.ID, f *Feed) uint64 {
	switch s := st.roster.devices[f.peer()]; {
	case f.peer() == st.Self:
		return uint64(max(now.UnixMilli(), 0))
	case s == nil:
		return 0
	default:
		return s.showsNow(now, to, now.Sub(st.since) > 2*maxUnderWay)
	}
}

// hearClock takes a neighbour's word of what the clock of a feed's author shows. It is kept until
// the author is known.
func (st *Stay) hearClock(now time.Time, from peer.ID, f *Feed, ms uint64) {
	if f == nil {
		return
	}
	if s := st.roster.devices[f.peer()]; s != nil {
		s.clocks.hear(now, s.Peer, from, ms)
	} else {
		f.clocks.hear(now, "", from, ms)
	}
}

func checkHeads(h *wire.RoomFrame_Heads) error {
	if len(h.Feeds) > MaxPositions || !isAsker(h.Answers) {
		return errBadHeads
	}
	for _, pos := range h.Feeds {
		if len(pos.Feed) != len(FeedTag{}) || pos.Last == math.MaxUint64 || pos.First > pos.Last+1 {
			return errBadHeads
		}
	}
	return nil
}

// isAsker reports whether an answer names a stay that asked, or none.
func isAsker(tag []byte) bool { return len(tag) == 0 || len(tag) == len(FeedTag{}) }

// answersThis reports whether an answer is to a question of this stay, and not to one of an earlier
// stay of this node, which wanted more of the past and knew more of the roster.
func (st *Stay) answersThis(asker []byte) bool { return string(asker) == string(st.journal.self[:]) }

// HearHeads takes a neighbour's positions. They are hints: only signed envelopes count. Where feeds
// begin counts only in an answer to this stay.
func (st *Stay) HearHeads(now time.Time, p peer.ID, h *wire.RoomFrame_Heads) error {
	if err := checkHeads(h); err != nil {
		return err
	}
	n := st.neighbours[p]
	if n == nil {
		return nil
	}
	st.roster.subscribed(now, p) // it is there
	answers := st.answersThis(h.Answers)
	late := answers && st.late(now, n, h.AgeMs)
	unknown, again := false, time.Duration(0)
	for _, pos := range st.journal.beginningsLast(h.Feeds) {
		tag := FeedTag(pos.Feed)
		if tag == st.own.Tag() {
			st.acked(now, p, n, pos.Last)
			continue
		}
		first := uint64(0)
		if answers {
			first = pos.First
		}
		f := st.journal.feeds[tag]
		st.hearClock(now, p, f, pos.ClockMs)
		switch {
		case f == nil:
			unknown = unknown || first == 0
		case f.next == 0:
			unknown = unknown || pos.Last > f.stored
		case f.peer() == p && f.position() >= pos.Last:
			st.acknowledge(now, f, false) // it would not have said so if it had heard that we have it
		}
		if every := st.journal.doubtEvery(now, f); every > 0 && first == 0 && (again == 0 || every < again) {
			again = every
		}
		if a := st.journal.claim(now, p, tag, pos.Last, first, !pos.Unsure && !late); a.feed != nil {
			st.arrived(now, a)
		}
		if f == nil {
			st.hearClock(now, p, st.journal.feeds[tag], pos.ClockMs)
		}
	}
	switch {
	case unknown && late && now.Sub(n.asked) >= lateAgain && now.Sub(n.compared) >= lateAgain:
		st.greet(now, p, compare)
	case unknown:
		st.ask(now, p, false)
	case again > 0:
		n.compareSoon(again)
		st.inquire(now)
	}
	st.world.Wake(ForTimer)
	return nil
}

// lateAgain is how soon a question that took too long is repeated.
const lateAgain = 100 * time.Millisecond

// late reports whether an answer is to a question that took longer on its way than was allowed, and
// allows more for the next one to that neighbour.
func (st *Stay) late(now time.Time, n *neighbour, ageMs uint64) bool {
	if ageMs == 0 || st.readyAt.IsZero() {
		return false
	}
	asked, _ := pastAsked(&wire.Past{AgeMs: ageMs})
	late := st.Past.late(asked, now.Sub(st.since).Truncate(time.Millisecond), st.readyAt.Sub(st.since).Truncate(time.Millisecond))
	n.slack = min(max(n.slack, n.slack+2*late), maxTransitSlack)
	return late > 0
}

// acked notes how much of this node's own feed a neighbour has.
func (st *Stay) acked(now time.Time, p peer.ID, n *neighbour, last uint64) {
	if last > st.head.Last || last <= n.acked {
		return
	}
	n.acked = last
	if st.window.confirmed(now, p, last) {
		st.world.Wake(ForPublisher)
	}
	for len(st.unacked) > 0 && st.unacked[0].last <= last {
		own := st.unacked[0].last
		st.unacked = st.unacked[1:]
		st.world.Ended(own, st.Ackers(own))
	}
	st.world.Wake(ForMembers)
}

// Ackers counts the neighbours that have acknowledged this node's own feed through last.
func (st *Stay) Ackers(last uint64) (count int) {
	for _, n := range st.neighbours {
		if n.acked >= last {
			count++
		}
	}
	return count
}

// announce sends neighbours the positions of feeds that have gone quiet, so that those that missed
// the last envelopes notice.
func (st *Stay) announce(now time.Time) {
	var others []*Feed
	for _, f := range st.journal.announce(now) {
		if f.tag == st.own.Tag() {
			st.remind = reminder{now, 0}
		} else {
			others = append(others, f)
		}
	}
	if due := st.remind.due(); !due.IsZero() && !now.Before(due) {
		own := []*Feed{st.journal.feeds[st.own.Tag()]}
		st.remind.times++
		behind := 0
		for _, p := range st.order {
			if st.neighbours[p].acked < st.head.Last {
				behind++
				st.tellHeads(now, p, own, nil)
			}
		}
		if behind == 0 {
			st.remind = reminder{}
		}
	}
	if len(others) == 0 {
		return
	}
	peers := announcePeers
	for p := range st.shuffled() {
		if peers--; peers < 0 {
			return
		}
		st.tellHeads(now, p, others, nil)
	}
}

// reminder is when neighbours are told how far this node's own feed has got: ever more seldom. The
// zero value means never.
type reminder struct {
	quiet time.Time // when the first reminder was due
	times int
}

func (m reminder) due() time.Time {
	if m.quiet.IsZero() || m.times >= announceTries {
		return time.Time{}
	}
	return m.quiet.Add(time.Duration(m.times*m.times) * time.Second)
}

// payAcks sends the acknowledgements that are due, and returns when the next is due.
func (st *Stay) payAcks(now time.Time) (due time.Time) {
	for f := range st.owing.all() {
		if !now.Before(f.ack.due) {
			st.tellAck(now, f)
		} else {
			due = earlier(due, f.ack.due)
		}
	}
	return due
}
