package stay

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
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
	shown bool      // that was cutShows ago
	heard time.Time // when it first heard of the room again; zero: it has not
}

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
	if len(st.neighbours) == 0 {
		st.alone(now)
	}
	st.world.Wake(ForTimer)
}

// Holding reports whether members and messages are not reported to the program yet: the stay is not
// ready, or not ready again. Once they are, the stay wakes [ForProgram].
func (st *Stay) Holding() bool { return st.readyAt.IsZero() || st.cut.shown }

// company reports whether a neighbour is known as a member. A stranger can subscribe to the topic.
func (st *Stay) company() bool {
	return slices.ContainsFunc(st.order, func(p peer.ID) bool {
		s := st.roster.devices[p]
		return s != nil && s.present
	})
}

// alone notes that a neighbour is gone. If no other one is left though others are in the room, the
// stay is cut off.
func (st *Stay) alone(now time.Time) {
	if st.readyAt.IsZero() || st.roster.present <= 1 || st.company() {
		return
	}
	if st.cut.since.IsZero() {
		st.cut.since = now
	}
	st.cut.heard = time.Time{}
}

// contact notes that something of the room has been heard. A stay that was cut off holds back from
// now on whatever it would tell the program: first of all it is ready again.
func (st *Stay) contact(now time.Time) {
	if !st.cut.since.IsZero() && st.cut.heard.IsZero() && now.Sub(st.cut.since) >= cutShows {
		st.cut.shown, st.cut.heard = true, now
		st.world.Wake(ForTimer)
	}
}

// rejoin makes a stay that was cut off ready again, when all neighbours have answered, and the
// feeds of those that have left have come to their end, or when the time for that is over. It
// returns when to look again.
func (st *Stay) rejoin(now time.Time) (due time.Time) {
	switch over := st.cut.heard.Add(rejoinWait); {
	case st.cut.since.IsZero() || st.leaving:
	case !st.cut.shown:
		if st.company() || st.roster.present <= 1 { // the others may have said goodbye just now
			st.cut = cutoff{}
		} else if st.cut.shown = now.Sub(st.cut.since) >= cutShows; !st.cut.shown {
			return st.cut.since.Add(cutShows)
		}
	case st.cut.heard.IsZero():
	case now.Before(over) && (!st.company() || !st.agreed() || st.ending()):
		return over
	case st.company():
		st.world.Notice(Ready{Again: true, Elapsed: now.Sub(st.cut.since)})
		st.whole(now)
	default: // the peer that it heard is gone
		st.cut.heard = time.Time{}
		st.tell(now)
		st.world.Wake(ForProgram)
	}
	return time.Time{}
}

// whole ends a cut, and tells the program what was held up.
func (st *Stay) whole(now time.Time) {
	st.cut = cutoff{}
	st.tell(now)
	st.handUp(now)
	st.world.Wake(ForTimer)
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

// agreed reports whether every neighbour has answered.
func (st *Stay) agreed() bool {
	return !slices.ContainsFunc(st.order, func(p peer.ID) bool { return !st.neighbours[p].agreed })
}

// tell tells the program what it does not know of the members yet: first who is gone, then who has
// come, then who is silent.
func (st *Stay) tell(now time.Time) {
	for _, present := range []bool{false, true} {
		for s := range st.roster.order.all() {
			if s.present == present {
				st.report(now, s)
			}
		}
	}
	for s := range st.roster.order.all() {
		st.listen(now, s)
	}
}

// report tells the program that a member has come or is gone, unless the program knows, or is not
// to be told: now, or in a large room. A stay that is cut off tells only who is gone.
func (st *Stay) report(now time.Time, s *seat) {
	if st.readyAt.IsZero() || !st.cut.heard.IsZero() || st.cut.shown && s.present {
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
		st.handUpOf(now, s)
		st.world.Notice(Left{s.public(), s.reason})
	}
	if s.told != told {
		s.muted = false
	}
}
