package mesh

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/task"
)

// load is what a [destination] has on its way, as its lanes report it: with their locks held, so
// that load takes no other lock but that of the group of goroutines.
type load struct {
	mu     sync.Mutex
	live   int     // accepted and not ended
	bytes  int     // of these
	flying int     // with the lane of a device
	to     peer.ID // which that is
	space  task.Changes
	// stuck is since when a message waits for what is under way to that device; zero: none does.
	// leg numbers the devices that were not waited for any longer, and the present one: flying
	// counts only what was handed over in this leg.
	stuck time.Time
	leg   uint32

	// A message that comes back puts the destination on hold: until one is delivered, one message
	// at a time is with a lane. So those that were under way with it come back first, and all keep
	// their order. A message for another device than those under way does the same.
	hold    bool
	back    []*sending // came back, and nobody has looked at them yet
	last    uint64     // the ID of the latest message that was delivered
	flight  uint32     // numbers the times that something was handed over while nothing was under way
	strikes int        // flights since then from which something came back
	missed  uint32     // the last of these flights
	struck  time.Time  // when something came back last
	spent   bool       // no further attempt: a refusal is final
}

const (
	// introductions is how often a destination tries again after a refusal that another attempt may
	// change, and introductionWait is the first pause before that in a room, in which the receiver
	// takes in this node's greeting. It doubles: 50, 100, 200 and 400 ms.
	introductions    = 4
	introductionWait = 50 * time.Millisecond
	// introductionRest is how long after the last of these attempts a refusal is final at once.
	introductionRest = 2 * time.Second
	// moveWait is how long messages for another device of the user wait for the answers of the one
	// before. A device that is gone answers no more.
	moveWait = 2 * time.Second
)

// reserve takes space for a message. If there is none, it returns a channel that is closed when
// there may be some.
func (l *load) reserve(size int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live >= laneMessages || l.live > 0 && l.bytes+size > laneBytes {
		return l.space.Next()
	}
	l.live++
	l.bytes += size
	return nil
}

// release gives the space of a message back.
func (l *load) release(size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.releaseLocked(size)
}

func (l *load) releaseLocked(size int) {
	l.live--
	l.bytes -= size
	// At half full, so that a caller that pipelines is woken once for many messages.
	if l.live <= laneMessages/2 && l.bytes <= laneBytes/2 {
		l.space.Tell()
	}
}

func (l *load) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live == 0
}

// fly notes that a message is handed to the lane of a device. It reports false if it must wait: for
// what came back, for a pause if it is fresh, or for what is under way while the destination is on
// hold or to another device. There the user may have been until now, so others wait for its
// answers, for up to moveWait.
func (l *load) fly(p *sending, to peer.ID, now time.Time, fresh bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.back) > 0 || fresh && l.hold:
		return false
	case l.flying == 0:
		l.flight++
	case to == l.to:
		if l.hold && !l.spent {
			l.stuck = now // it is looked up again after another moveWait
			return false
		}
	default:
		if l.stuck.IsZero() {
			l.stuck = now
		}
		if now.Sub(l.stuck) < moveWait {
			l.hold, l.spent = true, false
			return false
		}
		l.leg++
		l.flight++
		l.flying = 0
	}
	l.to, l.stuck = to, time.Time{}
	p.leg, p.flight = l.leg, l.flight
	l.flying++
	return true
}

// grounded notes that the lane did not take it.
func (l *load) grounded(p *sending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.landedLocked(p)
}

// landedLocked notes that a message is with no lane any more.
func (l *load) landedLocked(p *sending) {
	if p.leg != l.leg {
		return
	}
	if l.flying--; l.flying == 0 {
		l.stuck = time.Time{}
	}
}

// ended notes the end of a message that was with a lane. It reports whether what waits may go on.
func (l *load) ended(p *sending, delivered bool) (goesOn bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.landedLocked(p)
	l.releaseLocked(p.size)
	goesOn = l.hold && (delivered || l.flying == 0)
	if delivered {
		l.last = max(l.last, p.id)
	}
	// Others of a flight from which something came back may still be under way.
	if delivered && p.leg == l.leg && (p.flight != l.missed || l.flying == 0) {
		l.hold, l.strikes, l.spent = false, 0, false
	}
	return goesOn
}

// takeBack notes that a message comes back from its lane with err, for another attempt. It reports
// false if that is not worth it. resume is called if nobody looks after what came back.
func (l *load) takeBack(p *sending, err error, now time.Time, resume func() bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.struck) > introductionRest {
		l.strikes, l.spent = 0, false
	}
	if l.missed != l.flight {
		if l.strikes == introductions {
			l.spent = true
		} else {
			l.strikes++
		}
	}
	if l.spent || p.leg != l.leg && p.id < l.last || len(l.back) == 0 && !resume() {
		return false
	}
	l.missed, l.struck = l.flight, now
	l.hold = true
	l.landedLocked(p)
	p.err, p.seq, p.wrote, p.answered = err, 0, time.Time{}, false
	p.lane.Store(nil)
	l.back = append(l.back, p)
	return true
}

// landed returns what came back since the last call.
func (l *load) landed() []*sending {
	l.mu.Lock()
	defer l.mu.Unlock()
	back := l.back
	l.back = nil
	return back
}

// next says what to do with p, the first message that waits: hand it over, or pause before that, or
// end it with the refusal that it came back with. pause is the first pause between two attempts.
func (l *load) next(p *sending, now time.Time, pause time.Duration) (wait time.Duration, hopeless bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case p.err != nil && (l.spent || p.id < l.last):
		return 0, true
	case !l.hold || l.spent:
		return 0, false
	case l.flying > 0:
		if l.stuck.IsZero() {
			l.stuck = now
		}
		return max(0, l.stuck.Add(moveWait).Sub(now)), false
	}
	if l.strikes == 0 {
		return 0, false
	}
	return max(0, l.struck.Add(pause<<(l.strikes-1)).Sub(now)), false
}
