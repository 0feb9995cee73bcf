package stay

import "time"

// heldUp is what the program is to get once the stay is ready: messages, a notice, or neither if a
// receipt of an envelope is to follow its messages.
type heldUp struct {
	by     *Entry // of the member
	of     *Envelope
	items  []Item
	notice Notice
}

// maxHeldUp and maxHeldUpBytes bound the messages and notices that are held up, and their payload.
// Beyond that the stay waits no longer.
const (
	maxHeldUp      = 4096
	maxHeldUpBytes = 4 << 20
)

// heldUps is what is held up, in the order in which it came.
type heldUps struct {
	list  []heldUp
	items int       // messages and notices
	bytes int       // their payload
	short *Envelope // the last whose messages found no space in the program's queue
}

// handUp hands the program what was held up. The receipt of the last envelope may be still to come.
func (st *Stay) handUp(now time.Time) {
	for _, h := range st.held.list {
		st.handOver(now, h)
	}
	st.held = heldUps{short: st.held.short}
	st.world.Wake(ForProgram)
}

// handUpOf hands the program what was held up of a member that is gone: nothing of a stay comes
// after its end.
func (st *Stay) handUpOf(now time.Time, s *seat) {
	if len(st.held.list) == 0 {
		return
	}
	rest := st.held.list[:0:0]
	for _, h := range st.held.list {
		if h.by.key() == s.entry.key() {
			st.handOver(now, h)
		} else {
			rest = append(rest, h)
		}
	}
	st.held.list = rest
}

func (st *Stay) handOver(now time.Time, h heldUp) {
	switch {
	case h.notice != nil:
		st.world.Notice(h.notice)
	case h.items == nil:
		if st.held.short != h.of {
			st.confirm(now, h.of)
		}
	case !st.world.Deliver(h.by.Statement.Login(), h.of, h.items):
		st.held.short = h.of
	}
}

// hold keeps something for the program until the stay is ready. It reports false if that was handed
// over just now and found no space.
func (st *Stay) hold(now time.Time, h heldUp) bool {
	held := &st.held
	held.list = append(held.list, h)
	held.items += 1 + len(h.items)
	for _, item := range h.items {
		held.bytes += len(item.Data)
	}
	switch {
	case held.items <= maxHeldUp && held.bytes <= maxHeldUpBytes:
	case st.company() && !st.readyAt.IsZero():
		st.world.Notice(Ready{Again: true, Elapsed: now.Sub(st.cut.since)})
		st.whole(now)
	default:
		st.handUp(now)
	}
	return held.short != h.of
}

// Finish hands the program, before the stay ends, what was held up: it may have been acknowledged.
func (st *Stay) Finish(now time.Time) { st.handUp(now) }
