package mesh

import (
	"fmt"
	"time"

	"github.com/starling-mesh/starling/identity"
)

// timerLoop gives up gaps, members whose grace is over, and envelopes that were not claimed, and
// renews this node's own entry.
func (r *Room) timerLoop() {
	timer := time.NewTimer(renewCheck)
	defer timer.Stop()
	var last time.Time
	for {
		var revoked <-chan struct{} // the authority has a new list
		if r.door.authority != nil {
			revoked = r.door.authority.Changed()
		}
		select {
		case <-r.rearm:
			if wait := lookEvery - time.Since(last); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		case <-revoked:
		case <-r.ctx.Done():
			return
		}
		r.renew()
		timer.Reset(r.expire())
		last = time.Now()
	}
}

// tokenLocked warns that this node's own token ends soon, ends the stay when the token has ended,
// and returns when there is something to do next.
func (r *Room) tokenLocked(now time.Time) time.Time {
	grant := r.own.grant
	if grant == nil || r.leaving {
		return time.Time{}
	}
	err := r.door.holds(r.own, now)
	if err == nil && !now.Before(grant.Expires) {
		err = fmt.Errorf("room %s: %w", r.name, identity.ErrTokenExpired)
	}
	if err != nil {
		r.leaving, r.why = true, err
		r.mesh.tasks.Go(func() { r.end(err) })
		return time.Time{}
	}
	warn := grant.Expires.Add(-identity.TokenWarning)
	if r.warned != grant && !now.Before(warn) {
		r.warned = grant
		r.queue.PushNotice(&TokenExpiring{Header{Type: TypeTokenExpiring}, grant.Expires})
	}
	if r.warned == grant {
		return grant.Expires
	}
	return warn
}

// armTimer makes the timer loop look again.
func (r *Room) armTimer() {
	r.rearm.Set()
}

// expire does what is due, and returns how long nothing else will be due.
func (r *Room) expire() time.Duration {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.journal.expire(now) {
		r.arrivedLocked(now, a)
	}
	r.repairLocked(now)
	due := r.mindLocked(now)
	r.mesh.stats.envelopesUnclaimed.Add(uint64(r.parked.expire(now)))
	r.compareLocked(now)
	r.seekLocked(now)
	inquiries := r.inquiriesLocked(now)
	r.announceLocked(now)
	r.overdueLocked(now)
	if !now.Before(r.nextSweep) {
		r.nextSweep = now.Add(renewCheck)
		r.journal.sweep(now)
	}
	due = earlier(earlier(earlier(due, r.parked.due()), r.nextDigest), inquiries)
	due = earlier(earlier(due, r.tokenLocked(now)), r.payAcksLocked(now))
	due = earlier(due, r.subscribeLocked(now))
	due = earlier(earlier(due, r.journal.due()), r.remind.due())
	due = earlier(earlier(due, r.passDueLocked(now)), r.confirmsDueLocked(now))
	if len(r.unacked) > 0 {
		due = earlier(due, r.unacked[0].deadline)
	}
	return min(max(due.Sub(now), 0), renewCheck)
}

// mindLocked checks all members, if that is not too soon, and returns when to do so again. It gives
// up those whose grace is over, accuses those that fell silent, and lets those return whose goodbye
// was lost.
func (r *Room) mindLocked(now time.Time) time.Time {
	if at := r.minded.Add(mindEvery); now.Before(at) {
		return at
	}
	r.minded = now
	due := r.watchLocked(now)
	for _, s := range r.roster.expire(now) {
		r.noteLocked(s, left)
	}
	for _, s := range r.roster.seats {
		if s.coming != nil && !now.Before(s.ends(s.comingAt)) {
			r.comeLocked(now, s) // its goodbye was lost
		}
	}
	if !r.leaving { // a node that leaves answers no accusation and makes none
		due = earlier(due, r.roster.due())
	}
	return due
}
