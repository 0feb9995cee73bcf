package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// listen tells the program that a member has fallen silent, or is heard again, and returns when to
// look again.
func (st *Stay) listen(now time.Time, s *seat) (due time.Time) {
	if st.readyAt.IsZero() || !st.cut.heard.IsZero() || st.large || !s.present || !s.told || s.Peer == st.Self || s.goodbye != nil {
		return time.Time{}
	}
	at := st.roster.muteAt(&s.life, st.roster.replyWait())
	switch muted := !at.IsZero() && !now.Before(at); {
	case muted && !s.muted:
		s.muted = true
		st.world.Notice(Silent{s.public()})
	case !muted && s.muted:
		s.muted = false
		st.world.Notice(Heard{s.public()})
	case !muted:
		return at
	}
	return time.Time{}
}

// answerEvery is how often a member answers accusations at most.
func (r *roster) answerEvery() time.Duration { return min(refuteEvery, r.grace/3) }

// replyWait is how long an accused member is given to answer before it counts as silent.
func (r *roster) replyWait() time.Duration { return r.answerSpread() + answerTransit }

// muteAt returns since when a member counts as silent, or will: its connection is silent, or it has
// not answered a suspicion within wait from when it may. Zero: it does not.
func (r *roster) muteAt(l *life, wait time.Duration) time.Time {
	if !l.hushed.IsZero() || l.suspected.IsZero() {
		return l.hushed
	}
	at := l.accusedAt
	if next := l.answered.Add(r.answerEvery()); next.After(at) {
		at = next
	}
	return at.Add(wait)
}

// Probe asks a neighbour something that it must answer: it has said nothing for a while.
func (st *Stay) Probe(now time.Time, p peer.ID) {
	if st.neighbours[p] != nil {
		st.greet(now, p, compare)
	}
}

// Hushed notes that a neighbour has said nothing for a while, although it was asked, or beats.
func (st *Stay) Hushed(now time.Time, p peer.ID) {
	if s := st.roster.devices[p]; s != nil && s.present && st.neighbours[p] != nil && now.Sub(st.world.Spoke(p)) >= freshFor {
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
