package mesh

import (
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// maxPositions bounds the feeds in one frame.
	maxPositions = 1024
	// ackEvery is how many envelopes a neighbour acknowledges together, and ackDelay how long an
	// acknowledgement waits for that number. After a silence of ackIdle the first envelope is
	// acknowledged at once. So is one with a single message: its author is not busy, and may wait
	// for the acknowledgement.
	ackEvery = 2
	ackDelay = 10 * time.Millisecond
	ackIdle  = 20 * time.Millisecond
	// fastAcks is how many neighbours acknowledge soon if there are more than closeRoom: one is
	// enough for a Publish to return. The others take up to ackSpread for each of them, and at most
	// maxAckDelay.
	fastAcks    = 8
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
func (a *ack) owe(now time.Time, neighbours int, single bool) bool {
	a.count++
	delay := ackDelay
	if neighbours <= closeRoom {
		if single || a.count >= ackEvery || now.Sub(a.last) >= ackIdle {
			return true
		}
	} else {
		if rand.N(neighbours) < fastAcks && now.Sub(a.last) >= ackIdle {
			return true
		}
		delay = rand.N(min(time.Duration(neighbours)*ackSpread, maxAckDelay))
	}
	if a.due.IsZero() {
		a.due = now.Add(delay)
	}
	return false
}

// acknowledgeLocked tells the author of a feed, if it is a neighbour, how far the feed has arrived:
// at once or soon.
func (r *Room) acknowledgeLocked(now time.Time, f *feed, single bool) {
	author := f.entry.statement.Peer
	if r.neighbours[author] == nil {
		return
	}
	if f.ack.owe(now, len(r.neighbours), single) {
		r.tellAckLocked(now, f)
		return
	}
	if _, ok := r.owing[f]; !ok {
		r.owing[f] = struct{}{}
		r.armTimer()
	}
}

func (r *Room) tellAckLocked(now time.Time, f *feed) {
	f.ack = ack{last: now}
	delete(r.owing, f)
	r.tellHeadsLocked(f.entry.statement.Peer, []*feed{f}, 0, nil)
}

// tellHeadsLocked tells a neighbour how far this node has got with feeds and, if firsts is not nil,
// where they begin for that neighbour: the answer to a Past with that age.
func (r *Room) tellHeadsLocked(p peer.ID, feeds []*feed, ageMs uint64, firsts func(*feed) (uint64, bool)) {
	now := time.Now()
	for len(feeds) > 0 {
		n := min(len(feeds), maxPositions)
		list := make([]*wire.Position, n)
		for i, f := range feeds[:n] {
			list[i] = &wire.Position{Feed: f.tag[:], Last: f.reach(p)}
			if firsts != nil {
				first, sure := firsts(f)
				list[i].First, list[i].Unsure, list[i].ClockMs = min(first, list[i].Last+1), !sure, r.clockLocked(now, p, f)
			}
		}
		feeds = feeds[n:]
		r.mesh.tell(p, &wire.RoomFrame{Room: r.tag[:], Body: &wire.RoomFrame_Heads_{Heads: &wire.RoomFrame_Heads{Feeds: list, AgeMs: ageMs}}})
	}
}

// clockLocked returns what the clock of a feed's author shows, to say so to a peer; 0: it is not
// known.
func (r *Room) clockLocked(now time.Time, to peer.ID, f *feed) uint64 {
	switch s := r.roster.devices[f.peer()]; {
	case f.peer() == r.mesh.host.ID():
		return uint64(max(now.UnixMilli(), 0))
	case s == nil:
		return 0
	default:
		return s.showsNow(now, to, now.Sub(r.since) > 2*maxUnderWay)
	}
}

// hearClockLocked takes a neighbour's word of what the clock of a feed's author shows. It is kept
// until the author is known.
func (r *Room) hearClockLocked(now time.Time, from peer.ID, f *feed, ms uint64) {
	if f == nil {
		return
	}
	if s := r.roster.devices[f.peer()]; s != nil {
		s.clocks.hear(now, s.Peer, from, ms)
	} else {
		f.clocks.hear(now, "", from, ms)
	}
}

func checkHeads(h *wire.RoomFrame_Heads) error {
	if len(h.Feeds) > maxPositions {
		return errBadHeads
	}
	for _, pos := range h.Feeds {
		if len(pos.Feed) != len(feedTag{}) || pos.Last == math.MaxUint64 || pos.First > pos.Last+1 {
			return errBadHeads
		}
	}
	return nil
}

// hearHeads takes a neighbour's positions. They are hints: only signed envelopes count.
func (r *Room) hearHeads(p peer.ID, h *wire.RoomFrame_Heads) error {
	if err := checkHeads(h); err != nil {
		return err
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.neighbours[p]
	if n == nil {
		return nil
	}
	r.roster.subscribed(now, p) // it is there
	late := r.lateLocked(now, n, h.AgeMs)
	unknown := false
	for _, pos := range r.journal.beginningsLast(h.Feeds) {
		tag := feedTag(pos.Feed)
		if tag == r.own.tag() {
			r.ackedLocked(now, p, n, pos.Last)
			continue
		}
		f := r.journal.feeds[tag]
		r.hearClockLocked(now, p, f, pos.ClockMs)
		switch {
		case f == nil:
			unknown = unknown || pos.First == 0
		case f.next == 0:
			unknown = unknown || pos.Last > f.stored
		case f.peer() == p && f.position() >= pos.Last:
			r.acknowledgeLocked(now, f, false) // it would not have said so if it had heard that we have it
		}
		if a := r.journal.claim(now, p, tag, pos.Last, pos.First, !pos.Unsure && !late); a.feed != nil {
			r.arrivedLocked(now, a)
		}
		if f == nil {
			r.hearClockLocked(now, p, r.journal.feeds[tag], pos.ClockMs)
		}
	}
	switch {
	case unknown && late && now.Sub(n.asked) >= lateAgain && now.Sub(n.compared) >= lateAgain:
		r.greetLocked(p, compare)
	case unknown:
		r.askLocked(now, p, false)
	}
	r.armTimer()
	return nil
}

// lateAgain is how soon a question that took too long is repeated.
const lateAgain = 100 * time.Millisecond

// lateLocked reports whether an answer is to a question that took longer on its way than was
// allowed, and allows more for the next one to that neighbour.
func (r *Room) lateLocked(now time.Time, n *neighbour, ageMs uint64) bool {
	if ageMs == 0 || r.readyAt.IsZero() {
		return false
	}
	asked, _ := pastAsked(&wire.Past{AgeMs: ageMs})
	late := r.past.late(asked, now.Sub(r.since).Truncate(time.Millisecond), r.readyAt.Sub(r.since).Truncate(time.Millisecond))
	n.slack = min(max(n.slack, n.slack+2*late), maxTransitSlack)
	return late > 0
}

// ackedLocked notes how much of this node's own feed a neighbour has.
func (r *Room) ackedLocked(now time.Time, p peer.ID, n *neighbour, last uint64) {
	if last > r.head.last || last <= n.acked {
		return
	}
	n.acked = last
	if r.window.confirmed(now, p, last) {
		r.signalMoved()
	}
	for len(r.unacked) > 0 && r.unacked[0].last() <= last {
		b := r.unacked[0]
		r.unacked[0] = nil
		r.unacked = r.unacked[1:]
		b.acked = r.ackersLocked(b.last())
		b.end(nil)
	}
	r.broadcastLocked()
}

// ackersLocked counts the neighbours that have acknowledged this node's own feed through last.
func (r *Room) ackersLocked(last uint64) (count int) {
	for _, n := range r.neighbours {
		if n.acked >= last {
			count++
		}
	}
	return count
}

// announceLocked sends neighbours the positions of feeds that have gone quiet, so that those that
// missed the last envelopes notice.
func (r *Room) announceLocked(now time.Time) {
	var others []*feed
	for _, f := range r.journal.announce(now) {
		if f.tag == r.own.tag() {
			r.remind = reminder{now, 0}
		} else {
			others = append(others, f)
		}
	}
	if due := r.remind.due(); !due.IsZero() && !now.Before(due) {
		own := []*feed{r.journal.feeds[r.own.tag()]}
		r.remind.times++
		behind := 0
		for p, n := range r.neighbours {
			if n.acked < r.head.last {
				behind++
				r.tellHeadsLocked(p, own, 0, nil)
			}
		}
		if behind == 0 {
			r.remind = reminder{}
		}
	}
	if len(others) == 0 {
		return
	}
	peers := announcePeers
	for p := range r.neighbours { // in random order
		if peers--; peers < 0 {
			return
		}
		r.tellHeadsLocked(p, others, 0, nil)
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

// payAcksLocked sends the acknowledgements that are due, and returns when the next is due.
func (r *Room) payAcksLocked(now time.Time) (due time.Time) {
	for f := range r.owing {
		if !now.Before(f.ack.due) {
			r.tellAckLocked(now, f)
		} else {
			due = earlier(due, f.ack.due)
		}
	}
	return due
}
