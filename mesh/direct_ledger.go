package mesh

import (
	"context"
	"errors"
	"sort"
	"time"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// windowMessages and windowBytes bound what is written and not yet answered, per peer and mode:
	// enough to keep a link of 1 Gbit/s and 30 ms busy, and well below windowRefusals.
	windowMessages = 1024
	windowBytes    = 4 << 20
	// windowSpan bounds the sequences from the oldest unanswered message to the newest, so that
	// everything that may be written again lies within what a receiver remembers.
	windowSpan = windowRefusals / 2
	// laneMessages and laneBytes bound everything that waits here for one peer and mode.
	laneMessages = 4096
	laneBytes    = 8 << 20
	// resendHorizon is how long after it was first written a message may be written again.
	// Receivers remember what they have taken for longer, so that they recognise a repeat.
	resendHorizon = 5 * time.Minute
)

var (
	errViolation = errors.New("the peer broke the protocol")
	errRestarted = errors.New("the peer has restarted since")
	errBroken    = errors.New("the connection broke")
	errLate      = errors.New("dropped: it had waited too long to be written")
	errNoAnswer  = errors.New("no answer in time")
)

// ledger is what one node owes one peer in one mode: what is queued, what is written, and how each
// message ended. It has no clock, lock or stream of its own; the lane around it has them.
type ledger struct {
	unreliable bool
	stats      *counters

	queue fifo // accepted, and certainly not sent
	sent  fifo // written at least once, by rising sequence; some have ended already
	next  int  // sent[:next] were written on the present stream
	seq   uint64
	top   uint64 // the highest sequence written on the present stream
	epoch uint64 // numbers the streams

	queueBytes, sentBytes int
	live                  int   // accepted and not ended
	lastErr               error // the last failure to connect, for the caller's error
}

// full reports whether another message of that size must wait.
func (l *ledger) full(size int) bool {
	n := l.queue.len() + l.sent.len()
	return n >= laneMessages || n > 0 && l.queueBytes+l.sentBytes+size > laneBytes
}

// add accepts a message.
func (l *ledger) add(p *sending) {
	l.queue.push(p)
	l.queueBytes += p.size
	l.live++
}

// wants reports whether a caller still waits for the end of a message.
func (l *ledger) wants() bool { return l.live > 0 }

// opened starts a new stream: everything unanswered is to be written again on it.
func (l *ledger) opened() {
	l.epoch++
	l.next, l.top = 0, 0
}

// fill appends frames to buf until it holds limit bytes or nothing more may be written.
func (l *ledger) fill(now time.Time, buf []byte, limit int) []byte {
	for len(buf) < limit {
		if l.next < l.sent.len() {
			p := l.sent.at(l.next)
			l.next++
			if p.ended {
				continue
			}
			buf = l.frame(p, buf)
			l.stats.directResent.Add(1)
			continue
		}
		p := l.take(now)
		if p == nil {
			break
		}
		l.seq++
		p.seq, p.epoch, p.wrote = l.seq, l.epoch, now
		l.sent.push(p)
		l.sentBytes += p.size
		l.next++
		buf = l.frame(p, buf)
	}
	return buf
}

func (l *ledger) frame(p *sending, buf []byte) []byte {
	l.top = p.seq
	return wire.AppendMessageFrame(buf, p.seq, p.body)
}

// take returns the next queued message if the window has space for it, and drops late messages.
func (l *ledger) take(now time.Time) *sending {
	for l.queue.len() > 0 {
		p := l.queue.at(0)
		if !p.ended && !p.late.IsZero() && now.After(p.late) {
			l.end(p, ErrUnreachable, errLate)
		}
		if !p.ended {
			if n := l.sent.len(); n > 0 && (n >= windowMessages || l.sentBytes+p.size > windowBytes ||
				l.seq+1-l.sent.at(0).seq >= windowSpan) {
				return nil
			}
		}
		l.queue.pop()
		l.queueBytes -= p.size
		if !p.ended {
			return p
		}
	}
	return nil
}

// ack ends every message up to seq that was not refused.
func (l *ledger) ack(seq uint64, now time.Time, relayed bool) error {
	if seq == 0 || seq > l.top {
		return errViolation
	}
	for l.next > 0 && l.sent.at(0).seq <= seq {
		p := l.popSent()
		if !p.ended {
			l.deliver(p, now, relayed)
		}
	}
	return nil
}

// refuse ends one message. Its record stays until an acknowledgement passes it or it is the oldest.
func (l *ledger) refuse(seq uint64, reason Reason) error {
	if seq == 0 || seq > l.top {
		return errViolation
	}
	i := sort.Search(l.next, func(i int) bool { return l.sent.at(i).seq >= seq })
	if i == l.next || l.sent.at(i).seq != seq {
		return nil // answered before
	}
	p := l.sent.at(i)
	p.answered = true
	if !p.ended {
		record := &sending{seq: p.seq, size: p.size, ended: true, answered: true}
		if l.finish(p, &RefusedError{Reason: reason}, true) {
			l.sent.set(i, record) // p goes on elsewhere
		}
	}
	for l.next > 0 && l.sent.at(0).answered {
		l.popSent()
	}
	return nil
}

func (l *ledger) popSent() *sending {
	p := l.sent.pop()
	l.sentBytes -= p.size
	l.next--
	return p
}

// turnedAway notes that the peer took nothing from the present stream. What was never written on
// another stream is certainly not sent, and waits again.
func (l *ledger) turnedAway() {
	var back []*sending
	for l.sent.len() > 0 && l.sent.at(l.sent.len()-1).epoch == l.epoch {
		p := l.sent.popLast()
		l.sentBytes -= p.size
		if p.ended {
			continue
		}
		p.seq, p.wrote = 0, time.Time{}
		back = append(back, p)
		l.queueBytes += p.size
	}
	for _, p := range back { // the newest first
		l.queue.pushFront(p)
	}
	l.next = min(l.next, l.sent.len())
}

// broken notes that the present stream is gone. Reliable messages that nobody has given up stay, to
// be written again. In the unreliable modes what was written is lost.
func (l *ledger) broken() {
	l.keepSent(func(p *sending) bool {
		if l.unreliable {
			l.end(p, ErrUnconfirmed, errBroken)
			return false
		}
		return true
	})
	l.next, l.top = 0, 0
}

// restarted notes that the peer is another process now, which recognises no repeats of what the
// former process took.
func (l *ledger) restarted() {
	l.keepSent(func(p *sending) bool {
		l.end(p, ErrUnconfirmed, errRestarted)
		return false
	})
	l.next, l.top = 0, 0
}

// keepSent drops what has ended, and of the rest what keep rejects.
func (l *ledger) keepSent(keep func(*sending) bool) {
	var kept fifo
	l.sentBytes = 0
	for i := range l.sent.len() {
		if p := l.sent.at(i); !p.ended && keep(p) {
			kept.push(p)
			l.sentBytes += p.size
		}
	}
	l.sent = kept
}

// expire ends what is due at now. due is when something next will be due; zero: never. stuck is
// when the oldest message that ended now without an answer was written.
func (l *ledger) expire(now time.Time) (due, stuck time.Time) {
	next := func(t time.Time) {
		if due.IsZero() || t.Before(due) {
			due = t
		}
	}
	for i := range l.sent.len() {
		p := l.sent.at(i)
		if p.ended {
			continue
		}
		limit := p.deadline
		if h := p.wrote.Add(resendHorizon); h.Before(limit) {
			limit = h
		}
		if now.Before(limit) {
			next(limit)
			continue
		}
		if stuck.IsZero() {
			stuck = p.wrote
		}
		l.end(p, ErrUnconfirmed, p.timeout(errNoAnswer))
	}
	for i := range l.queue.len() {
		p := l.queue.at(i)
		if p.ended {
			continue
		}
		limit, cause := p.deadline, p.timeout(l.lastErr)
		if !p.late.IsZero() && p.late.Before(limit) {
			limit, cause = p.late, errLate
		}
		if now.Before(limit) {
			next(limit)
			continue
		}
		l.end(p, ErrUnreachable, cause)
	}
	l.dropEnded()
	return due, stuck
}

// dropEnded removes ended messages from the front of the queue.
func (l *ledger) dropEnded() {
	for l.queue.len() > 0 && l.queue.at(0).ended {
		l.queueBytes -= l.queue.pop().size
	}
}

// abandon ends one message because its caller's context has ended.
func (l *ledger) abandon(p *sending, cause error) {
	if p.ended {
		return
	}
	l.end(p, p.outcome(), cause)
	l.dropEnded()
}

// withdraw ends the messages of a room. What was written is not written again.
func (l *ledger) withdraw(room [32]byte) {
	of := func(p *sending) bool {
		return !p.ended && p.home != nil && p.home.key.room != nil && p.home.key.room.tag == room
	}
	for i := range l.sent.len() {
		if p := l.sent.at(i); of(p) {
			l.end(p, ErrUnconfirmed, ErrNotMember)
		}
	}
	for i := range l.queue.len() {
		if p := l.queue.at(i); of(p) {
			l.end(p, ErrUnreachable, ErrNotMember)
		}
	}
	l.dropEnded()
}

// failQueue ends every message that was never written.
func (l *ledger) failQueue(cause error) {
	for l.queue.len() > 0 {
		p := l.queue.pop()
		l.queueBytes -= p.size
		if !p.ended {
			l.finish(p, &sendError{ErrUnreachable, cause}, true)
		}
	}
}

// failAll ends everything.
func (l *ledger) failAll(cause error) {
	l.keepSent(func(p *sending) bool {
		l.end(p, ErrUnconfirmed, cause)
		return false
	})
	l.next = 0
	l.failQueue(cause)
}

func (l *ledger) deliver(p *sending, now time.Time, relayed bool) {
	p.rtt, p.relayed = now.Sub(p.wrote), relayed
	l.finish(p, nil, false)
}

func (l *ledger) end(p *sending, outcome, cause error) {
	l.finish(p, &sendError{outcome, cause}, false)
}

// finish ends a message. If nothing of it can have been delivered, it may go back to its
// destination instead, which finish reports.
func (l *ledger) finish(p *sending, err error, mayGoBack bool) (back bool) {
	l.live--
	if mayGoBack && p.home != nil && p.home.takeBack(p, err) {
		return true
	}
	p.end(l.stats, err)
	return false
}

// outcome returns the outcome of a message that ends now without an answer.
func (p *sending) outcome() error {
	if p.wrote.IsZero() {
		return ErrUnreachable
	}
	return ErrUnconfirmed
}

// timeout returns the cause of an end by deadline: the context's error if it was a context's
// deadline, otherwise why.
func (p *sending) timeout(why error) error {
	switch {
	case !p.byCtx:
		return why
	case why == nil:
		return context.DeadlineExceeded
	}
	return errors.Join(context.DeadlineExceeded, why)
}
