package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

const (
	// JoinWait is how long a stay that joins waits for all neighbours that are there. After that,
	// one answer is enough.
	JoinWait = 2 * time.Second
	// JoinDelay is when the program is told that no neighbour has answered.
	JoinDelay = 5 * time.Second
	// JoinEnd is how long a stay waits for an answer at all. A neighbour that stands still is no
	// longer connected by then.
	JoinEnd = 15 * time.Second
	// cutShows is how long a stay must have been cut off for that to count. If two nodes dial each
	// other at once, both connections can end before a third is there.
	cutShows = time.Second
	// rejoinWait is how long a stay that was cut off waits for the answers of the neighbours that
	// it meets: as long as for the end of a feed whose member has left.
	rejoinWait = lostWait + 500*time.Millisecond
)

// cutoff is what a stay knows of its being cut off. The zero value means that it is not.
type cutoff struct {
	since time.Time // when it lost its last neighbour while others were in the room
	heard time.Time // when it first heard of the room again; zero: it has not
}

// heldUp is what the program is to get once the stay is ready: messages, a notice, or neither if a
// receipt of an envelope is to follow its messages.
type heldUp struct {
	from   identity.Login
	of     *Envelope
	items  []Item
	notice Notice
}

// maxHeldUp bounds the messages and notices that are held up. Beyond it they are handed over before
// the stay is ready.
const maxHeldUp = 4096

// Ready reports whether a stay that joins may begin: every connected peer has answered, or enough
// of them. These peers are those in the room, as GossipSub knows. due is when the stay may begin,
// or has something to report, without anything else happening.
func (st *Stay) Ready(now time.Time, peers []peer.ID) (ready bool, due time.Time) {
	if st.Agreed(now, peers) {
		return true, time.Time{}
	}
	if at := st.since.Add(JoinWait); now.Before(at) {
		return false, at
	}
	silent, answered := 0, false
	for _, p := range peers {
		if st.neighbours[p] == nil && !st.outcasts[p].silent(now, st.since) {
			silent++
		}
	}
	for _, n := range st.neighbours {
		if answered = answered || n.agreed; !n.agreed {
			silent++
		}
	}
	if answered || silent == 0 {
		return true, time.Time{}
	}
	at := st.since.Add(JoinDelay)
	if now.Before(at) {
		return false, at
	}
	if !st.delayed {
		st.delayed = true
		st.world.Notice(Delayed{silent})
	}
	at = st.since.Add(JoinEnd)
	return !now.Before(at), at
}

// Begin makes a stay ready: the neighbours have said who is there, and where every feed begins.
// If this node's user is banned as far as it knows, and nobody has told it otherwise, it ends the
// stay instead.
func (st *Stay) Begin(now time.Time) {
	if st.judgeOwn(now, true); st.leaving {
		return
	}
	st.readyAt = now
	st.world.Notice(Ready{Elapsed: now.Sub(st.since)})
	st.tell(now)
	for _, a := range st.journal.recall(now, st.Past.Count, len(st.neighbours) == 0) {
		st.arrived(now, a)
	}
	st.succeed()
	for _, a := range st.journal.becomeReady(now) {
		st.arrived(now, a)
	}
	st.handUp(now)
	st.world.Wake(ForTimer)
}

// Holding reports whether members and messages are not reported to the program yet: the stay is not
// ready, or not ready again. Once they are, the stay wakes [ForProgram].
func (st *Stay) Holding() bool { return st.readyAt.IsZero() || !st.cut.heard.IsZero() }

// alone notes that the last connection to a neighbour has ended. If no other neighbour is left
// though others are in the room, the stay is cut off.
func (st *Stay) alone(now time.Time) {
	if len(st.neighbours) == 0 && st.cut.since.IsZero() && !st.readyAt.IsZero() && st.roster.present > 1 {
		st.cut.since = now
	}
}

// contact notes that something of the room has been heard. A stay that was cut off holds back from
// now on what it would tell the program: first of all it is ready again.
func (st *Stay) contact(now time.Time) {
	switch {
	case st.cut.since.IsZero() || !st.cut.heard.IsZero():
	case now.Sub(st.cut.since) < cutShows:
		st.cut = cutoff{}
	default:
		st.cut.heard = now
		st.world.Wake(ForTimer)
	}
}

// rejoin makes a stay that was cut off ready again, when all neighbours have answered, and the
// feeds of those that have left have come to their end, or when the time for that is over. It
// returns when to look again.
func (st *Stay) rejoin(now time.Time) (due time.Time) {
	if st.cut.heard.IsZero() || st.leaving {
		return time.Time{}
	}
	over := st.cut.heard.Add(rejoinWait)
	if now.Before(over) && (len(st.neighbours) == 0 || !st.agreed() || st.ending()) {
		return over
	}
	st.cut.heard = time.Time{}
	if len(st.neighbours) > 0 { // otherwise the peer that it heard is gone
		st.world.Notice(Ready{Again: true, Elapsed: now.Sub(st.cut.since)})
		st.cut.since = time.Time{}
	}
	var rest []heldUp
	for _, h := range st.held {
		if s := st.roster.devices[h.from.Peer]; s != nil && s.told && !s.present {
			st.handOver(now, h) // nothing of a stay comes after its end
		} else {
			rest = append(rest, h)
		}
	}
	st.held = rest
	st.tell(now)
	st.handUp(now)
	return time.Time{}
}

// ending reports whether a member has said goodbye and the feed that ends with it has not ended
// here.
func (st *Stay) ending() bool {
	for s := range st.roster.order.all() {
		if s.present && s.goodbye != nil {
			return true
		}
	}
	return false
}

// handUp hands the program what was held up.
func (st *Stay) handUp(now time.Time) {
	for _, h := range st.held {
		st.handOver(now, h)
	}
	st.held, st.heldItems = nil, 0
	st.world.Wake(ForProgram)
}

func (st *Stay) handOver(now time.Time, h heldUp) {
	switch {
	case h.notice != nil:
		st.world.Notice(h.notice)
	case h.items == nil:
		if st.short != h.of {
			st.confirm(now, h.of)
		}
	case !st.world.Deliver(h.from, h.of, h.items):
		st.short = h.of
	}
}

// hold keeps something for the program until the stay is ready.
func (st *Stay) hold(now time.Time, h heldUp) {
	st.held = append(st.held, h)
	if st.heldItems += 1 + len(h.items); st.heldItems > maxHeldUp {
		st.handUp(now)
	}
}

// agreed reports whether every neighbour has answered.
func (st *Stay) agreed() bool {
	for _, n := range st.neighbours {
		if !n.agreed {
			return false
		}
	}
	return true
}

// tell tells the program what it does not know of the members yet: first who is gone, then who has
// come, then who is silent.
func (st *Stay) tell(now time.Time) {
	for _, present := range []bool{false, true} {
		for s := range st.roster.order.all() {
			if s.present == present {
				st.report(s)
			}
		}
	}
	for s := range st.roster.order.all() {
		st.listen(now, s)
	}
}

// report tells the program that a member has come or is gone, unless the program knows, or is not
// to be told: now, or in a large room.
func (st *Stay) report(s *seat) {
	if st.Holding() {
		return
	}
	was := st.large
	switch present := st.roster.present; {
	case present >= st.Large:
		st.large = true
	case present < st.Large-st.Large/10:
		st.large = false
	}
	if st.large != was {
		st.world.Notice(Size{st.roster.present, st.large})
	}
	told := s.told
	switch s.told = s.present; {
	case st.large || was || s.Peer == st.Self || s.told == told:
	case s.told:
		st.world.Notice(Joined{s.public()})
	default:
		s.muted = false
		st.world.Notice(Left{s.public(), s.reason})
	}
}

// listen tells the program that a member has fallen silent, or is heard again, and returns when to
// look again.
func (st *Stay) listen(now time.Time, s *seat) (due time.Time) {
	if st.Holding() {
		return time.Time{}
	}
	at := time.Time{}
	if s.present && s.Peer != st.Self && s.goodbye == nil {
		at = s.muteAt(st.roster.replyWait())
	}
	muted := !at.IsZero() && !now.Before(at)
	if muted == s.muted {
		if muted {
			return time.Time{}
		}
		return at
	}
	s.muted = muted
	switch {
	case st.large || !s.present:
	case muted:
		st.world.Notice(Silent{s.public()})
	default:
		st.world.Notice(Heard{s.public()})
	}
	return time.Time{}
}

// Probe asks a neighbour something that it must answer: it has said nothing for a while.
func (st *Stay) Probe(now time.Time, p peer.ID) {
	if st.neighbours[p] != nil {
		st.greet(now, p, compare)
	}
}

// Hushed notes that a neighbour has said nothing for a while, although it was asked, or beats.
func (st *Stay) Hushed(now time.Time, p peer.ID) {
	if s := st.roster.devices[p]; s != nil && s.present && st.neighbours[p] != nil {
		s.hushed = now
		st.listen(now, s)
	}
}

// Audible notes that such a neighbour has said something.
func (st *Stay) Audible(now time.Time, p peer.ID) {
	if s := st.roster.devices[p]; s != nil && !s.hushed.IsZero() {
		st.alive(now, p)
	}
}
