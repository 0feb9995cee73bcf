package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
)

// destinationKey is where a message is to go: to a user, as its sender has named it, in a room or
// outside rooms. Each mode has an order of its own.
type destinationKey struct {
	room *Room // nil: outside rooms
	to   identity.Address
	mode Mode
}

// minSweep is how many destinations are kept at least, idle or not.
const minSweep = 64

// destinations holds the destinations of a mesh.
type destinations struct {
	mu  sync.Mutex
	all map[destinationKey]*destination
	// sweepAt is how many there are when the idle ones are forgotten: twice as many as the last
	// sweep left, so that a sweep costs each send next to nothing.
	sweepAt int
	// searches has an element for each search under way.
	searches chan struct{}
}

// maxSearches is how many users are searched for at a time, in behalf of sends: each search asks
// many nodes. Others wait, within their deadline.
const maxSearches = 256

// destination is what is on its way to one user in one mode. A message waits here until its sender
// knows the receiver's device and the lane to that device takes it. A message comes back from the
// lane if the device does not know this node yet, or if the user has moved to another one. It then
// waits here again, and what was accepted later waits behind it.
type destination struct {
	m    *Mesh
	key  destinationKey
	wake task.Wake // for carry: see load.tight

	mu      sync.Mutex
	waiting fifo               // by rising ID
	carried bool               // carry runs
	search  context.CancelFunc // ends the search under way; nil: there is none
	sought  *sending           // on behalf of which it runs
	due     time.Time          // when timer fires
	timer   *time.Timer

	load load
}

// reserve takes space for a message of so many bytes in the destination of a key. If there is none,
// it returns a channel that is closed when there may be some.
func (m *Mesh) reserve(key destinationKey, size int) (d *destination, space <-chan struct{}, err error) {
	ds := &m.to
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d = ds.all[key]
	if d == nil {
		if r := key.room; r != nil && r.ctx.Err() != nil {
			return nil, nil, r.reason() // forget has been here, or is about to
		}
		if len(ds.all) >= ds.sweepAt {
			maps.DeleteFunc(ds.all, func(_ destinationKey, d *destination) bool { return d.load.idle() })
			ds.sweepAt = max(minSweep, 2*len(ds.all))
		}
		d = &destination{m: m, key: key, wake: task.NewWake()}
		ds.all[key] = d
	}
	return d, d.load.reserve(size), nil
}

// forget drops the destinations in a room whose stay has ended. What still waits there ends by
// itself.
func (m *Mesh) forget(r *Room) {
	m.to.mu.Lock()
	defer m.to.mu.Unlock()
	maps.DeleteFunc(m.to.all, func(key destinationKey, _ *destination) bool { return key.room == r })
}

// accept assigns p its ID, unless the room has been left. Its space has been reserved.
func (d *destination) accept(p *sending, now time.Time) error {
	to, err := d.lookUp(now, nil)
	if err == errGone {
		d.load.release(p.size)
		return d.key.room.reason()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p.home, p.id = d, d.m.nextID()
	d.m.stats.directSent.Add(1)
	inTurn := !d.carried && d.waiting.len() == 0
	d.waiting.push(p)
	if inTurn && err != errUnknown && err != errCutOff {
		if err != nil {
			d.waiting.pop()
			p.end(&d.m.stats, err)
			return nil
		}
		if done, _ := d.handLocked(p, to, now, true); done {
			return nil
		}
	}
	d.armLocked(p)
	if d.carried {
		return nil
	}
	if d.carried = d.m.tasks.Go(d.carry); !d.carried {
		d.waiting.pop()
		d.endLocked(p, ErrClosed)
	}
	return nil
}

// errUnknown says that the receiver has to be searched for.
var errUnknown = errors.New("not among the connected")

// errGone says that this node has left the room of a destination.
var errGone = errors.New("left")

// lookUp returns whom the address means, or errUnknown if that takes a search. In a room, only the
// user of the login was is meant, if was is not nil; errGone says that the room has been left.
func (d *destination) lookUp(now time.Time, was *identity.Login) (whom, error) {
	if r := d.key.room; r != nil {
		to, err := r.receiver(now, d.key.to, was)
		if errors.Is(err, ErrNotMember) && d.m.cfg.linkDown() && r.isMissing(d.key.to) {
			err = errCutOff
		}
		return to, err
	}
	if err := d.m.mayTalk(d.key.to); err != nil {
		return whom{}, err
	}
	login, known, err := d.m.finder.Known(d.key.to)
	if err == nil && !known {
		err = errUnknown
	}
	return whom{login, d.key.to.Fingerprint == ""}, err
}

// find is lookUp, and searches if need be, on behalf of p, which was for a user before.
func (d *destination) find(p *sending, was *identity.Login) (whom, error) {
	to, err := d.lookUp(d.m.clock.Now(), was)
	if err != errUnknown {
		return to, err
	}
	ctx, cancel := context.WithTimeout(d.m.ctx, d.m.clock.Until(p.deadline))
	defer cancel()
	select {
	case d.m.to.searches <- struct{}{}:
		defer func() { <-d.m.to.searches }()
	case <-p.done:
		return to, errInterrupted
	case <-ctx.Done():
		return to, errInterrupted
	}
	d.mu.Lock()
	d.search, d.sought = cancel, p
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.search, d.sought = nil, nil
		d.mu.Unlock()
	}()
	to.Login, err = d.m.finder.Locate(ctx, d.key.to)
	switch {
	case err != nil && ctx.Err() != nil:
		err = errInterrupted
	case err != nil && d.m.cfg.linkDown() && !isConflict(err):
		err = errCutOff
	case err == nil:
		err = d.m.mayTalk(d.key.to) // it has taken time
	}
	return to, err
}

// errInterrupted says that a search has ended because nobody waits for it any more.
var errInterrupted = errors.New("interrupted")

// carry hands over what waits, until nothing does. One goroutine at a time runs it.
func (d *destination) carry() {
	for {
		p, pause := d.front()
		if p == nil && pause == 0 {
			return
		}
		if p == nil {
			d.sleep(pause)
			continue
		}
		was := p.to.Load()
		to, err := d.find(p, was)
		switch {
		case err == errInterrupted:
			d.sweep()
		case err == errGone:
			d.refuse(was, d.key.room.reason())
		case err == errCutOff:
			d.sleep(cutPause)
		case err != nil:
			d.refuse(was, err)
		default:
			d.handAll(to, was)
		}
	}
}

// front returns the next message to hand over. If it must wait, front returns for how long at most;
// if nothing waits, it returns neither, and carry has ended.
func (d *destination) front() (p *sending, pause time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takeLocked()
	for d.m.ctx.Err() != nil && d.waiting.len() > 0 {
		d.endLocked(d.waiting.pop(), ErrClosed)
	}
	for d.waiting.len() > 0 {
		p = d.waiting.at(0)
		if p.ended {
			d.waiting.pop()
			continue
		}
		pause, hopeless := d.nextLocked(p)
		if hopeless {
			d.waiting.pop()
			p.end(&d.m.stats, p.err)
			continue
		}
		if pause != 0 {
			return nil, pause
		}
		return p, 0
	}
	d.carried = false
	return nil, 0
}

// sleep waits for the pause, a wake-up or the end of the mesh.
func (d *destination) sleep(pause time.Duration) {
	var over <-chan time.Time
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-d.wake:
	case <-over:
	case <-d.m.ctx.Done():
	}
}

// handAll hands over what waits to the device that was just found, for what was for a user before,
// until something has to wait or is to be searched for in another way.
func (d *destination) handAll(to whom, was *identity.Login) {
	p, space := d.handSome(to, was)
	if space == nil {
		return
	}
	again := time.NewTimer(moveWait) // the user may have moved
	defer again.Stop()
	select {
	case <-space:
	case <-again.C:
	case <-p.done:
	case <-d.m.ctx.Done():
	}
}

// handSome is handAll up to where the lane is full: then it returns the message that waits, and a
// channel that is closed when there may be space.
func (d *destination) handSome(to whom, was *identity.Login) (p *sending, space <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.waiting.len() > 0 {
		p = d.waiting.at(0)
		if p.ended {
			d.waiting.pop()
			continue
		}
		if pause, hopeless := d.nextLocked(p); pause != 0 || hopeless || !sameBefore(p.to.Load(), was) {
			return nil, nil
		}
		if done, space := d.handLocked(p, to, d.m.clock.Now(), false); !done {
			return p, space
		}
	}
	return nil, nil
}

// sameBefore reports whether two messages were for the same user before, or both for none: then an
// address means the same for both.
func sameBefore(a, b *identity.Login) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.User == b.User && a.Key == b.Key
}

// handLocked hands the first waiting message to the lane of its device, or ends it. It reports
// false if the message must wait, as one that is fresh does while the destination is on hold. If
// the lane is full, it returns a channel that is closed when there may be space.
func (d *destination) handLocked(p *sending, to whom, now time.Time, fresh bool) (done bool, space <-chan struct{}) {
	if d.key.room == nil && p.err != nil && p.to.Load().Peer == to.Peer {
		d.waiting.pop() // it has not moved
		p.end(&d.m.stats, p.err)
		return true, nil
	}
	if !d.load.fly(p, to.Peer, now, fresh) {
		return false, nil
	}
	p.pin = d.m.pinningFor(to.Login, to.byName)
	space, err := d.m.toLane(to.Login, d.key.mode, p, now)
	switch {
	case space != nil:
		d.load.grounded(p)
		return false, space
	case err != nil:
		d.load.grounded(p)
		d.waiting.pop()
		p.end(&d.m.stats, &sendError{ErrUnreachable, err})
		return true, nil
	}
	d.waiting.pop()
	return true, nil
}

// refuse ends everything that waits and was for that user before. Its receiver was not found.
func (d *destination) refuse(was *identity.Login, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takeLocked()
	for range d.waiting.len() {
		switch p := d.waiting.pop(); {
		case p.ended:
		case !sameBefore(p.to.Load(), was):
			d.waiting.push(p)
		case p.err != nil:
			p.end(&d.m.stats, p.err) // the refusal for which its receiver was searched again
		default:
			p.end(&d.m.stats, err)
		}
	}
}

// ended notes the end of a message, whose lock is held.
func (d *destination) ended(p *sending, delivered bool) {
	if p.lane.Load() == nil {
		d.load.release(p.size)
	} else if d.load.ended(p, delivered) {
		d.wake.Set()
	}
}

// takeBack keeps a message that a lane could not deliver if it is worth another attempt. The lock
// of the lane is held.
func (d *destination) takeBack(p *sending, err error) bool {
	switch refused, _ := errors.AsType[*RefusedError](err); {
	case d.key.room == nil:
		if !errors.Is(err, ErrUnreachable) && (refused == nil || refused.Reason != NotLoggedIn && refused.Reason != WrongUser) {
			return false
		}
	case refused == nil || refused.Reason != NotMember && refused.Reason != NoIdentity:
		return false
	}
	return d.load.takeBack(p, err, d.m.clock.Now(), func() bool { return d.m.tasks.Go(d.resume) })
}

// nextLocked is load.next with the pause of this destination.
func (d *destination) nextLocked(p *sending) (wait time.Duration, hopeless bool) {
	var pause time.Duration
	if d.key.room != nil {
		pause = introductionWait
	}
	return d.load.next(p, d.m.clock.Now(), pause)
}

// resume makes carry look after what came back.
func (d *destination) resume() {
	d.mu.Lock()
	d.takeLocked()
	carried := d.carried
	d.carried = true
	d.mu.Unlock()
	if carried {
		d.wake.Set()
		return
	}
	d.carry()
}

// takeLocked puts what came back before what was accepted later.
func (d *destination) takeLocked() {
	back := d.load.landed()
	if len(back) == 0 {
		return
	}
	for d.waiting.len() > 0 {
		back = append(back, d.waiting.pop())
	}
	slices.SortFunc(back, func(a, b *sending) int { return cmp.Compare(a.id, b.id) })
	for _, p := range back {
		d.waiting.push(p)
		d.armLocked(p)
	}
}

// abandon ends a message because its context has ended.
func (p *sending) abandon(cause error) {
	for {
		if l := p.lane.Load(); l != nil {
			if l.abandon(p, cause) {
				return
			}
			continue // it came back just now
		}
		if p.home.abandon(p, cause) {
			return
		}
	}
}

// abandon ends a message that is with no lane. It reports false if it is.
func (d *destination) abandon(p *sending, cause error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.lane.Load() != nil {
		return false
	}
	d.endLocked(p, cause)
	return true
}

// endLocked ends a message that is with no lane, unless it has ended: because of cause, beside the
// refusal that it may have come back with.
func (d *destination) endLocked(p *sending, cause error) {
	if p.ended {
		return
	}
	if p.err != nil {
		p.end(&d.m.stats, fmt.Errorf("%w: %w", p.err, cause))
	} else {
		p.end(&d.m.stats, &sendError{ErrUnreachable, cause})
	}
	if d.search != nil && d.sought == p {
		d.search()
	}
}

// armWithin is how soon the timer fires at the latest, so that it does not keep what it belongs to
// for as long as a distant deadline.
const armWithin = time.Minute

// armLocked makes the timer fire when p is overdue, at the latest.
func (d *destination) armLocked(p *sending) {
	t := p.limit()
	if soon := d.m.clock.Now().Add(armWithin); soon.Before(t) {
		t = soon
	}
	if !d.due.IsZero() && !t.Before(d.due) {
		return
	}
	d.due = t
	if d.timer == nil {
		d.timer = time.AfterFunc(d.m.clock.Until(t), d.sweep)
		return
	}
	d.timer.Reset(d.m.clock.Until(t))
}

// sweep ends what has waited too long.
func (d *destination) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.due = time.Time{}
	now := d.m.clock.Now()
	for i := range d.waiting.len() {
		p := d.waiting.at(i)
		switch {
		case p.ended:
		case now.Before(p.limit()):
			d.armLocked(p)
		case !p.late.IsZero() && !now.Before(p.late):
			d.endLocked(p, errLate)
		default:
			d.endLocked(p, p.timeout(nil))
		}
	}
}
