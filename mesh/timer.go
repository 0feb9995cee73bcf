package mesh

import (
	"time"

	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// timerLoop gives up gaps, members whose grace is over, and envelopes that were not claimed, and
// renews this node's own entry.
func (r *Room) timerLoop() {
	timer := time.NewTimer(stay.TickEvery)
	defer timer.Stop()
	var last time.Time
	for {
		var revoked <-chan struct{} // the authority has a new list
		if r.door.Authority != nil {
			revoked = r.door.Authority.Changed()
		}
		select {
		case <-r.rearm:
			if wait := lookEvery - r.mesh.clock.Since(last); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		case <-revoked:
		case <-r.ctx.Done():
			return
		}
		r.renew()
		r.do(func(st *stay.Stay, now time.Time) { timer.Reset(st.Tick(now)) })
		last = r.mesh.clock.Now()
	}
}

// lookEvery is how often a room checks what is due, at most, since much that comes makes it check.
const lookEvery = time.Millisecond
