package mesh

import (
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// lostFor is how long a neighbour stays lost before it is accused, and the least time over which the accusations of
	// several are spread, so that one is enough: nodes redial at once, and most links that break are back by then.
	lostFor = time.Second
	// memberSpread widens that time for each member of a room, up to maxSpread.
	memberSpread = 20 * time.Millisecond
	maxSpread    = 5 * time.Second
	// echoWait is how long after the end of a connection to a member what others pass on of it may be from before.
	echoWait = time.Second
	// freshFor is how lately a neighbour must have been heard of for accusations to be ignored without asking it.
	freshFor = 5 * time.Second
	// refuteEvery bounds how often a member answers accusations. It is well under the grace, so that every accusation is
	// answered in time.
	refuteEvery = 3 * time.Second
	// maxAccused is how many members one accuser can have under suspicion, and how many it may accuse at once, with
	// one more every accuseEvery. An honest one accuses no more than half as many.
	maxAccused  = 32
	accuseEvery = time.Second
	// doubtEvery is how often a member that was dropped here, and that others tell of, is asked whether it is there.
	doubtEvery = time.Minute
	// A member that is not connected to all others says something every beatEvery, or memberBeat for each member if that is
	// longer: one envelope in 4 s in the whole room, which costs each member some 400 B/s. Who has said nothing for silentBeats
	// of these is accused.
	beatEvery   = 2 * time.Minute
	memberBeat  = 4 * time.Second
	silentBeats = 3
)

// life is what a room knows of whether a member is still there. The zero value is of one that nothing is known of.
type life struct {
	heard     time.Time // the last sign of it, signed by it or over its own connection
	lost      time.Time // when the connection to it ended; zero: it has not, or it was heard of since
	accuseAt  time.Time // when to accuse it; zero: nothing speaks for it
	suspected time.Time // when its grace began; zero: it is under no suspicion
	accuser   peer.ID   // who began that; "": this node
	doubted   time.Time // when it was last accused although it had been dropped
	accusing  allowance // of accusations by it
}

// allowance lets so many accusations through at once and then one every accuseEvery. The zero value is full.
type allowance struct{ used time.Time }

func (a *allowance) take(now time.Time, atOnce int) bool {
	if a.used.Before(now) {
		a.used = now
	}
	if a.used.Sub(now) > time.Duration(atOnce-1)*accuseEvery {
		return false
	}
	a.used = a.used.Add(accuseEvery)
	return true
}

// accusation says that a member's stay has ended without a goodbye, as far as its accuser can tell.
type accusation struct {
	device   peer.ID
	feed     FeedID
	sequence uint64 // of the roster entry by which the accuser knows it: the answer is one with a higher one
}

// hear notes a sign of life.
func (l *life) hear(at time.Time) {
	if at.After(l.heard) {
		l.heard = at
	}
	if !l.lost.IsZero() && at.Sub(l.lost) < echoWait {
		return
	}
	l.lost, l.accuseAt = time.Time{}, time.Time{}
	if !at.Before(l.suspected) {
		l.suspected, l.accuser = time.Time{}, ""
	}
}

// there notes a sign of life over the member's own connection.
func (l *life) there(now time.Time) {
	l.lost = time.Time{}
	l.hear(now)
}

// randomPart is the jitter of a roster outside tests.
func randomPart(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// spread is a random share of the time over which a room's members act on what they all see at once. It leaves most of the
// grace for answers.
func (r *roster) spread() time.Duration {
	return r.jitter(min(max(lostFor, time.Duration(r.present)*memberSpread), maxSpread, r.grace/4))
}

// patience is how long to wait before an accusation.
func (r *roster) patience() time.Duration { return min(lostFor, r.grace/4) + r.spread() }

// lost notes that the connection to a device has ended. The grace begins, if nobody has heard of the device when it is time to accuse it.
func (r *roster) lost(now time.Time, p peer.ID) {
	if s := r.devices[p]; s != nil && s.present && s.lost.IsZero() && p != r.self {
		s.lost = now
		s.accuseAt = now.Add(r.patience())
	}
}

// unsubscribed notes that a connected device no longer takes the room's topic. If it has left, its goodbye is on its way.
func (r *roster) unsubscribed(now time.Time, p peer.ID) {
	if s := r.devices[p]; s != nil && s.present && s.accuseAt.IsZero() && p != r.self {
		s.accuseAt = now.Add(r.patience())
	}
}

// apart reports whether a member has been lost and not yet given up.
func (r *roster) apart() bool {
	for _, s := range r.seats {
		if s.present && (!s.lost.IsZero() || !s.suspected.IsZero()) {
			return true
		}
	}
	return false
}

// reconnected notes that there is a connection to a device again. Whether it is still in the room it has yet to say, and
// has as long for that as when the connection was lost.
func (r *roster) reconnected(now time.Time, p peer.ID) {
	s := r.devices[p]
	if s == nil || !s.present || s.lost.IsZero() {
		return
	}
	s.lost, s.accuseAt = now, now.Add(r.patience())
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

// accused takes an accusation that was published at the time came, and reports whether to ask the accused whether it is there.
func (r *roster) accused(now, came time.Time, by peer.ID, a accusation) (ask bool) {
	accuser := r.devices[by]
	if accuser == nil || !accuser.present && accuser.reason != Dropped || by == a.device {
		return false
	}
	s := r.devices[a.device]
	if s == nil || s.entry.feed != a.feed || a.sequence < s.entry.sequence {
		return false
	}
	switch linked := r.linked(s.Peer); {
	case s.Peer == r.self:
		r.answer(now)
		return false
	case !s.present:
		s.accuseAt = time.Time{} // somebody has asked
		return false
	case !s.heard.Before(came), linked && (now.Sub(s.heard) < freshFor || now.Sub(came) >= freshFor):
		return false
	case !s.suspected.IsZero():
		return false
	case !accuser.accusing.take(now, maxAccused) || r.accusedBy(by) >= maxAccused:
		return false
	default:
		r.suspect(now, s, by)
		return linked
	}
}

func (r *roster) accusedBy(p peer.ID) (n int) {
	for _, s := range r.seats {
		if s.present && !s.suspected.IsZero() && s.accuser == p {
			n++
		}
	}
	return n
}

// suspect begins the grace of a member: when it was lost, but so that half of the grace is left for its answer.
func (r *roster) suspect(now time.Time, s *seat, by peer.ID) {
	s.accuseAt, s.accuser, s.suspected = time.Time{}, by, now
	if !s.lost.IsZero() {
		s.suspected = now.Add(max(s.lost.Sub(now), -r.grace/2))
	}
}

// answer has the node refute what it is accused of: all accusations against one entry at once.
func (r *roster) answer(now time.Time) {
	if r.refuteAt.IsZero() {
		r.refuteAt = now.Add(r.jitter(min(time.Duration(r.present)*memberSpread/2, lostFor, r.grace/8)))
		if next := r.refuted.Add(min(refuteEvery, r.grace/3)); next.After(r.refuteAt) {
			r.refuteAt = next
		}
		r.against = r.devices[r.self].entry.sequence
	}
}

// refutes reports whether the node has to publish a newer entry now.
func (r *roster) refutes(now time.Time) bool {
	if r.refuteAt.IsZero() || now.Before(r.refuteAt) {
		return false
	}
	r.refuteAt = time.Time{}
	own := r.devices[r.self]
	if own == nil || own.entry.sequence > r.against {
		return false // it has done so for another reason
	}
	r.refuted = now
	return true
}

// contradicted notes that others have a member in the room that was dropped here. If their grace is not still running, one of the
// two rosters is wrong.
func (r *roster) contradicted(now time.Time, s *seat, e *rosterEntry) {
	if s.present || s.reason != Dropped || !e.joined || e.feed != s.entry.feed || e.sequence != s.entry.sequence || now.Sub(s.leftAt) < r.grace {
		return
	}
	if s.accuseAt.IsZero() && now.Sub(s.doubted) >= doubtEvery {
		s.doubted, s.accuseAt = now, now.Add(r.patience())
	}
}

// reaffirmed notes a newer entry of a member's present stay: whatever it was accused of, it has answered. One that is lost
// may have signed it before, and is accused anew.
func (r *roster) reaffirmed(now time.Time, s *seat) {
	s.suspected, s.accuser, s.accuseAt, s.heard = time.Time{}, "", time.Time{}, now
	if !s.lost.IsZero() {
		s.accuseAt = now.Add(r.patience())
	}
}

// beat is how long a member that others do not see directly may say nothing.
func (r *roster) beat() time.Duration { return max(beatEvery, time.Duration(r.present)*memberBeat) }

// beatAt is when the node itself has to say something, having last done so at that time; zero: all others see it directly.
func (r *roster) beatAt(last time.Time) time.Time {
	unseen := false
	for _, s := range r.seats {
		unseen = unseen || s.present && s.Peer != r.self && !r.linked(s.Peer)
	}
	if !unseen {
		return time.Time{}
	}
	return last.Add(time.Duration(r.pace * float64(r.beat())))
}

// silentAt is when a member counts as silent; zero: it is watched by its connection, or was noticed.
func (r *roster) silentAt(s *seat) time.Time {
	if !s.present || s.Peer == r.self || !s.accuseAt.IsZero() || !s.suspected.IsZero() || r.linked(s.Peer) {
		return time.Time{}
	}
	return s.heard.Add(silentBeats * r.beat())
}

// accusations gives whom to accuse now. Without an audience nobody would learn of it, and the node decides for itself.
func (r *roster) accusations(now time.Time, audience bool) (list []*seat) {
	for _, s := range r.seats {
		if s.goodbye != nil {
			continue
		}
		if at := r.silentAt(s); !at.IsZero() && !now.Before(at) {
			s.accuseAt = now.Add(r.spread())
		}
		switch {
		case s.accuseAt.IsZero() || now.Before(s.accuseAt):
			continue
		case !s.present && (!audience || s.reason != Dropped), s.present && !s.suspected.IsZero():
			s.accuseAt = time.Time{}
			continue
		case audience && !r.accusing.take(now, maxAccused/2):
			s.accuseAt = now.Add(accuseEvery)
			continue
		}
		if audience {
			list = append(list, s)
		}
		if s.present {
			r.suspect(now, s, "")
		}
		s.accuseAt = time.Time{}
	}
	return list
}

// suspicionDue is when what is known of a member's life asks for something; zero: nothing does.
func (r *roster) suspicionDue(s *seat) (due time.Time) {
	if s.goodbye != nil {
		return time.Time{} // it has said goodbye, and only the end of its feed is waited for
	}
	due = earlier(s.accuseAt, r.silentAt(s))
	if s.present && !s.suspected.IsZero() {
		due = earlier(due, s.suspected.Add(r.grace))
	}
	return due
}
