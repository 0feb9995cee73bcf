package stay

import (
	"hash/fnv"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// LostFor is how long a neighbour stays lost before it is accused. It is also the least time
	// over which several accusers take turns, so that one accusation is enough: nodes redial at
	// once, and most links that break are back by then.
	LostFor = time.Second
	// memberSpread widens that time for each member of a room, up to maxSpread.
	memberSpread = 20 * time.Millisecond
	maxSpread    = 5 * time.Second
	// echoWait is how long after the connection to a member ended what others pass on from it may
	// be from before.
	echoWait = time.Second
	// freshFor is how recently a neighbour must have been heard for accusations to be ignored
	// without asking it.
	freshFor = 5 * time.Second
	// refuteEvery bounds how often a member answers accusations. It is well under the grace, so
	// that every accusation is answered in time.
	refuteEvery = 3 * time.Second
	// maxAccused is how many members one accuser can have under suspicion, and how many it may
	// accuse at once, with one more every accuseEvery. An honest one accuses no more than half as
	// many.
	maxAccused  = 32
	accuseEvery = time.Second
	// A member that was dropped here and that others have in the room is asked whether it is there.
	// Nodes that learn that from a new neighbour take turns to ask within doubtSpread, so that one
	// asks for all; the others wait for doubtWait and up to as long again. If it does not answer,
	// it is asked again after doubtAgain, then after twice as long each time, up to doubtEvery.
	doubtSpread = 100 * time.Millisecond
	doubtWait   = 500 * time.Millisecond
	doubtAgain  = time.Second
	doubtEvery  = time.Minute
	// maxDoubted is how many such members are asked for at once, with one more every doubtedEvery.
	// Each answers with an envelope to all.
	maxDoubted   = 128
	doubtedEvery = time.Second / 16
	// answerTransit is how long an accusation and its answer may be on their way before the accused
	// counts as silent: some round trips, the repair of a lost packet, and that its broadcasts may
	// just be waiting for a subscription.
	answerTransit = newcomerWait + 500*time.Millisecond
	// reprieve is how much of the grace of a suspected member is left, at least, when the room
	// gains a neighbour through which the answer may come. A suspicion is prolonged only once this
	// way.
	reprieve = 3 * time.Second
	// lastWord is how much longer than the grace a suspected neighbour is given while its
	// connection stands: it is sent something several times a second, and may be about to answer.
	lastWord = time.Second
	// A member that is not connected to all others says something every BeatEvery, or every
	// memberBeat times the number of members if that is longer: one envelope in 4 s in the whole
	// room, which costs each member some 400 B/s. A member that has said nothing for SilentBeats of
	// these is accused.
	BeatEvery   = 2 * time.Minute
	memberBeat  = 4 * time.Second
	SilentBeats = 3
)

// life is what a room knows about whether a member is still there. The zero value means that
// nothing is known.
type life struct {
	heard     time.Time // the last sign of life, signed by it or over its own connection
	lost      time.Time // when the connection to it ended; zero: it has not, or it was heard since
	accuseAt  time.Time // when to accuse it; zero: there is no reason to
	missed    time.Time // since when it is not in the room, as its connection or another member says; zero: nobody does
	suspected time.Time // when its grace began; zero: it is under no suspicion
	accusedAt time.Time // when that suspicion came
	answered  time.Time // when it last signed its entry again
	hushed    time.Time // since when its connection counts as silent, while it stands or since; zero: it does not
	accuser   peer.ID   // the member that accused it; "": this node
	reprieved bool      // its grace has been prolonged
	doubted   time.Time // when it was last asked for although it had been dropped
	doubts    int       // how often that was, since it was dropped
	accusing  allowance // of accusations by it
	ordering  allowance // of orders in its feed
	asking    allowance // of its questions that began a wait here
}

// anew returns what is known when a member comes or goes: it starts with what it may still say of
// others.
func (l *life) anew(heard time.Time) life {
	return life{heard: heard, accusing: l.accusing, asking: l.asking, ordering: l.ordering}
}

// allowance lets so many accusations through at once and then one every so often. The zero value is
// full.
type allowance struct{ used time.Time }

func (a *allowance) take(now time.Time, atOnce int, every time.Duration) bool {
	if a.used.Before(now) {
		a.used = now
	}
	if a.used.Sub(now) > time.Duration(atOnce-1)*every {
		return false
	}
	a.used = a.used.Add(every)
	return true
}

// accusation says that a member's stay has ended without a goodbye, as far as its accuser knows.
type accusation struct {
	device   peer.ID
	feed     FeedID
	sequence uint64 // of the roster entry by which the accuser knows it; the answer is an entry with a higher one
	question bool   // the accuser has dropped it already, and asks whether it is there
}

// hear notes a sign of life.
func (l *life) hear(at time.Time) {
	if at.After(l.heard) {
		l.heard = at
	}
	if !l.lost.IsZero() && at.Sub(l.lost) < echoWait || !l.missed.IsZero() && at.Sub(l.missed) < echoWait {
		return
	}
	l.lost, l.missed, l.accuseAt = time.Time{}, time.Time{}, time.Time{}
	if !at.Before(l.hushed) {
		l.hushed = time.Time{}
	}
	if !at.Before(l.suspected) {
		l.suspected, l.accuser = time.Time{}, ""
	}
}

// there notes a sign of life over the member's own connection.
func (l *life) there(now time.Time) {
	l.lost, l.missed = time.Time{}, time.Time{}
	l.hear(now)
}

// maxTurns is up to how many members take turns. In larger rooms the turns are too close together,
// and not worth their cost: a random time is used.
const maxTurns = 256

// ownTurn returns this node's turn in a time in which one member is to report for all what they see
// at once of another. All members compute the same order. The turns are as far apart as the time
// allows, so that a node whose turn is later hears the first.
func (r *roster) ownTurn(about peer.ID, of time.Duration) time.Duration {
	if r.present > maxTurns {
		return r.jitter(of)
	}
	mine := turnOrder(r.self, about)
	before, all := 0, 1
	for s := range r.order.all() {
		if s.present && s.Peer != about && s.Peer != r.self {
			all++
			if turnOrder(s.Peer, about) < mine {
				before++
			}
		}
	}
	return of * time.Duration(before) / time.Duration(all)
}

// turnOrder returns the place of a member among those that report about another: the order differs
// for each reported member.
func turnOrder(p, about peer.ID) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, string(about))
	_, _ = io.WriteString(h, string(p))
	return h.Sum64()
}

// spread returns this node's turn in the time over which a room's members act on what they all see
// at once. It leaves most of the grace for answers.
func (r *roster) spread(about peer.ID) time.Duration {
	return r.turn(about, min(max(LostFor, time.Duration(r.present)*memberSpread), maxSpread, r.grace/4))
}

// patience returns how long to wait before an accusation.
func (r *roster) patience(of peer.ID) time.Duration { return min(LostFor, r.grace/4) + r.spread(of) }

// lost notes that the connection to a device has ended. The grace begins if nobody has heard from
// the device when it is time to accuse it.
func (r *roster) lost(now time.Time, p peer.ID) {
	if s := r.devices[p]; s != nil && s.present && s.lost.IsZero() && p != r.self {
		s.lost = now
		s.accuseAt = now.Add(r.patience(s.Peer))
	}
}

// unsubscribed notes that a connected device no longer takes the room's topic. If it has left, its
// goodbye is on its way.
func (r *roster) unsubscribed(now time.Time, p peer.ID) {
	s := r.devices[p]
	if s == nil || !s.present || p == r.self {
		return
	}
	asked := !s.missed.IsZero() && s.lost.IsZero() // and it has longer for its answer
	if at := now.Add(r.patience(s.Peer)); s.accuseAt.IsZero() || asked && at.Before(s.accuseAt) {
		s.missed, s.accuseAt = now, at
	}
}

// apart reports whether a member has been lost and not yet given up.
func (r *roster) apart() bool {
	for s := range r.order.all() {
		if s.present && (!s.lost.IsZero() || !s.suspected.IsZero()) {
			return true
		}
	}
	return false
}

// reconnected notes that there is a connection to a device again. The device has yet to say whether
// it is still in the room. It has as long for that as when the connection was lost.
func (r *roster) reconnected(now time.Time, p peer.ID) {
	s := r.devices[p]
	if s == nil || !s.present || s.lost.IsZero() {
		return
	}
	s.lost, s.accuseAt = now, now.Add(r.patience(s.Peer))
	if !s.suspected.IsZero() {
		s.suspected = now
	}
}

// subscribed notes that a connected device takes the room's topic.
func (r *roster) subscribed(now time.Time, p peer.ID) {
	if s := r.devices[p]; s != nil && s.present {
		s.there(now)
	}
}

// accused takes an accusation that was published at the time came, and reports whether to ask the
// accused member whether it is there.
func (r *roster) accused(now, came time.Time, by peer.ID, a accusation) (ask bool) {
	accuser := r.devices[by]
	if accuser == nil || !accuser.present && accuser.reason != Dropped || by == a.device {
		return false
	}
	s := r.devices[a.device]
	if s == nil || s.entry.Feed != a.feed || a.sequence < s.entry.Sequence {
		return false
	}
	r.look(s)
	switch linked := r.linked(s.Peer); {
	case s.Peer == r.self:
		r.answer(now)
		return false
	case !s.present:
		if now.Sub(came) < doubtAgain && (!s.accuseAt.IsZero() || s.doubts == 0) {
			s.asked(now) // by another member
		}
		return false
	case a.question && !linked && s.heard.Before(came) && s.accuseAt.IsZero() && s.suspected.IsZero():
		// Another member has given it up. If it does not answer, this node has to as well.
		if !accuser.asking.take(now, maxAccused, accuseEvery) {
			return false
		}
		s.missed, s.accuseAt = came, now.Add(r.grace/2+r.spread(s.Peer))
		return false
	case a.question, !s.heard.Before(came), linked && (now.Sub(s.heard) < freshFor || now.Sub(came) >= freshFor):
		return false
	case !s.suspected.IsZero():
		return false
	case !accuser.accusing.take(now, maxAccused, accuseEvery) || r.accusedBy(by) >= maxAccused:
		return false
	default:
		r.suspect(now, s, by)
		return linked
	}
}

func (r *roster) accusedBy(p peer.ID) (n int) {
	for s := range r.order.all() {
		if s.present && !s.suspected.IsZero() && s.accuser == p {
			n++
		}
	}
	return n
}

// suspect begins the grace of a member: at the time it was lost, but so that half of the grace is
// left for its answer.
func (r *roster) suspect(now time.Time, s *seat, by peer.ID) {
	s.accuseAt, s.accuser, s.suspected, s.accusedAt, s.reprieved = time.Time{}, by, now, now, false
	if !s.lost.IsZero() {
		s.suspected = now.Add(max(s.lost.Sub(now), -r.grace/2))
	}
}

// answer makes the node refute the accusations against it: all that are against one entry at once.
func (r *roster) answer(now time.Time) {
	if r.refuteAt.IsZero() {
		r.refuteAt = now.Add(r.jitter(r.answerSpread()))
		if next := r.refuted.Add(r.answerEvery()); next.After(r.refuteAt) {
			r.refuteAt = next
		}
		r.against = r.devices[r.self].entry.Sequence
	}
}

// answerSpread is the time within which an accused member answers, after the accusation has come.
func (r *roster) answerSpread() time.Duration {
	return min(time.Duration(r.present)*memberSpread/2, LostFor, r.grace/8)
}

// refutes reports whether the node has to publish a newer entry now.
func (r *roster) refutes(now time.Time) bool {
	if r.refuteAt.IsZero() || now.Before(r.refuteAt) {
		return false
	}
	r.refuteAt = time.Time{}
	own := r.devices[r.self]
	if own == nil || own.entry.Sequence > r.against {
		return false // it has done so for another reason
	}
	r.refuted = now
	return true
}

// contradicted notes that a neighbour has a member in the room that was dropped here. One of the
// two rosters is wrong, unless the grace is still running there. In that case the two have been
// neighbours since before the member was dropped.
func (r *roster) contradicted(now time.Time, s *seat, e *Entry, met time.Time) {
	if s.present || s.reason != Dropped || !e.Joined || e.Feed != s.entry.Feed || e.Sequence != s.entry.Sequence {
		return
	}
	switch {
	case met.After(s.leftAt):
		r.doubt(now, s, r.turn(s.Peer, doubtSpread))
	case now.Sub(s.leftAt) >= r.grace:
		r.doubt(now, s, doubtWait+r.turn(s.Peer, doubtWait)) // it has that from a member that asks, or is being told itself
	}
}

// doubt makes this node ask a dropped member, after wait, whether it is there.
func (r *roster) doubt(now time.Time, s *seat, wait time.Duration) {
	if !s.accuseAt.IsZero() {
		return
	}
	s.accuseAt = now.Add(wait)
	if s.doubts > 0 {
		if again := s.doubted.Add(min(doubtAgain<<min(s.doubts-1, 10), doubtEvery)); again.After(s.accuseAt) {
			s.accuseAt = again
		}
	}
}

// asked notes that a dropped member has been asked whether it is there.
func (l *life) asked(now time.Time) {
	l.accuseAt, l.doubted = time.Time{}, now
	l.doubts++
}

// showed takes a sign of life from some time ago: an envelope that had to be fetched. If the member
// was dropped before that, a fresh envelope shows that it is back. Since an older one the member
// may have died, so it is asked.
func (r *roster) showed(now, at time.Time, s *seat) change {
	switch {
	case s.present:
		s.hear(at)
	case s.reason != Dropped || !at.After(s.leftAt):
	case now.Sub(at) < freshFor:
		return r.back(now, s)
	default:
		r.doubt(now, s, r.turn(s.Peer, doubtSpread))
	}
	return unchanged
}

// back lists a dropped member again.
func (r *roster) back(now time.Time, s *seat) change {
	if s.present || s.reason != Dropped || r.door.holds(s.entry, now) != nil {
		return unchanged
	}
	s.present, s.leftAt, s.Since = true, time.Time{}, now
	s.life = s.anew(now)
	r.present++
	r.digest = nil
	return joined
}

// look takes note of anything that a neighbour has said over its connection.
func (r *roster) look(s *seat) {
	if at := r.signs(s.Peer); at.After(s.heard) {
		s.there(at)
	}
}

// bridged notes that there is another neighbour: through it the answers of suspected members may
// come.
func (r *roster) bridged(now time.Time) {
	for s := range r.order.all() {
		if s.present && !s.suspected.IsZero() && !s.reprieved {
			if least := now.Add(reprieve - r.grace); least.After(s.suspected) {
				s.suspected, s.reprieved = least, true
			}
		}
	}
}

// reaffirmed notes a newer entry of a member's present stay: it has answered whatever it was
// accused of. A member that is lost may have signed the entry before, and is accused again.
func (r *roster) reaffirmed(now time.Time, s *seat) {
	s.suspected, s.accuser, s.accuseAt, s.missed, s.hushed = time.Time{}, "", time.Time{}, time.Time{}, time.Time{}
	s.heard, s.answered = now, now
	if !s.lost.IsZero() {
		s.accuseAt = now.Add(r.patience(s.Peer))
	}
}

// beat returns how long a member that others do not see directly may say nothing.
func (r *roster) beat() time.Duration { return max(BeatEvery, time.Duration(r.present)*memberBeat) }

// beatAt returns when the node itself has to say something, having last done so at the time last;
// zero: all others see it directly.
func (r *roster) beatAt(last time.Time) time.Time {
	unseen := false
	for s := range r.order.all() {
		unseen = unseen || s.present && s.Peer != r.self && !r.linked(s.Peer)
	}
	if !unseen {
		return time.Time{}
	}
	return last.Add(time.Duration(r.pace * float64(r.beat())))
}

// silentAt returns when a member counts as silent; zero: it is watched by its connection, or was
// noticed.
func (r *roster) silentAt(s *seat) time.Time {
	if !s.present || s.Peer == r.self || !s.accuseAt.IsZero() || !s.suspected.IsZero() || r.linked(s.Peer) {
		return time.Time{}
	}
	return s.heard.Add(SilentBeats * r.beat())
}

// accusations returns the members to accuse now, and the dropped members to ask for. Without an
// audience nobody would learn of it, and the node decides for itself.
func (r *roster) accusations(now time.Time, audience bool) (list []*seat) {
	for s := range r.order.all() {
		if s.goodbye != nil {
			continue
		}
		if s.present && !s.accuseAt.IsZero() {
			r.look(s)
		}
		if at := r.silentAt(s); !at.IsZero() && !now.Before(at) {
			s.accuseAt = now.Add(r.spread(s.Peer))
		}
		switch {
		case s.accuseAt.IsZero() || now.Before(s.accuseAt):
			continue
		case !s.present && (!audience || s.reason != Dropped), s.present && !s.suspected.IsZero():
			s.accuseAt = time.Time{}
			continue
		case audience && s.present && !r.accusing.take(now, maxAccused/2, accuseEvery):
			s.accuseAt = now.Add(accuseEvery)
			continue
		case !s.present && !r.asking.take(now, maxDoubted, doubtedEvery):
			s.accuseAt = now.Add(doubtedEvery)
			continue
		}
		if audience {
			list = append(list, s)
		}
		if s.present {
			r.suspect(now, s, "")
		} else {
			s.asked(now)
		}
	}
	return list
}

// suspicionDue returns when something is due for a member's life; zero: nothing is.
func (r *roster) suspicionDue(s *seat) (due time.Time) {
	if s.goodbye != nil {
		return time.Time{} // it has said goodbye, and only the end of its feed is awaited
	}
	due = earlier(s.accuseAt, r.silentAt(s))
	if s.present && !s.suspected.IsZero() {
		due = earlier(due, r.over(s))
	}
	return due
}

// over returns when the grace of a suspected member is over.
func (r *roster) over(s *seat) time.Time {
	at := s.suspected.Add(r.grace)
	if r.linked(s.Peer) {
		at = at.Add(lastWord)
	}
	return at
}
