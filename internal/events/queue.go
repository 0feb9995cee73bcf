// Package events is the ordered stream of events that a program reads.
//
//	q := events.NewQueue(events.Kind[Event]{Stamp: stamp, Lagged: lagged}, 8192, 16<<20)
//	q.PushNotice(&Joined{User: "bob"})
//	ev, err := q.Recv(ctx) // stamped with number 1
//
// # Order and bounds
//
// A queue has one reader at a time and any number of writers, none of which ever waits. It is
// bounded in events and in bytes. When it is full, the oldest broadcast is dropped and the reader
// finds what [Kind].Lagged returns in its place. A direct message is refused instead, so that its
// sender learns of it. Notices (membership, state) are kept. Every event takes the next sequence
// number when it is queued, so a dropped one leaves a gap.
package events

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/walltime"
)

// Kind is how a queue marks the events of a stream.
type Kind[E any] struct {
	Clock walltime.Clock // tells when events are queued
	// Stamp writes into an event which number of the stream it is, and when it was queued. It is
	// called under the queue's lock.
	Stamp func(ev E, seq uint64, at time.Time)
	// Lagged returns the event that reports missed broadcasts, the last of which had number seq.
	Lagged func(seq uint64, at time.Time, missed int) E
}

// maxNotices ends a stream whose reader has left this many notices unread. Notices may not be
// dropped, and a peer that joins and leaves for ever must not fill the memory.
const maxNotices = 65536

// ErrOverrun ends a stream whose reader left more notices unread than may be kept.
var ErrOverrun = errors.New("event stream was not read: too many unread membership events")

type class uint8

const (
	broadcast class = iota
	direct
	notice
)

// entry is a queued event. Entries form a list in order, since notices may come before the oldest
// broadcast.
type entry[E any] struct {
	ev         E
	seq        uint64
	size       int
	class      class
	before     int // broadcasts dropped between the previous entry and this one
	prev, next *entry[E]
	later      *entry[E] // the next broadcast
}

// Queue is a bounded stream of events. Its methods may be called from any goroutine, but Recv and
// All from only one at a time.
type Queue[E any] struct {
	kind                Kind[E]
	maxEvents, maxBytes int

	mu               sync.Mutex
	head, tail       *entry[E]
	oldest, youngest *entry[E] // of the broadcasts, linked by later
	free             *entry[E] // spare entries, linked by next
	seq              uint64
	count, bytes     int   // of the broadcasts and direct messages waiting
	notices          int   // waiting
	after            int   // broadcasts dropped behind tail
	end              error // set once; Recv returns it when the list is empty

	wake task.Wake // there may be something to read
}

// NewQueue returns an empty queue, in which so many broadcasts and direct messages may wait, with
// payloads of so many bytes. Both bounds must be positive.
func NewQueue[E any](kind Kind[E], maxEvents, maxBytes int) *Queue[E] {
	return &Queue[E]{kind: kind, maxEvents: maxEvents, maxBytes: maxBytes, wake: task.NewWake()}
}

// PushBroadcast queues an event whose payload has size bytes. When the queue is full, it drops the
// oldest broadcasts to make room. It returns how many it dropped, and whether the new one is in the
// queue: it is dropped itself when direct messages fill the queue, and nothing is accepted after
// the end.
func (q *Queue[E]) PushBroadcast(ev E, size int) (dropped int, queued bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil {
		return 0, false
	}
	for q.fullLocked(size) {
		dropped++
		if q.oldest == nil {
			// The number it would have had, so that the gap shows.
			q.seq++
			q.after++
			q.signal()
			return dropped, false
		}
		q.evictLocked()
	}
	q.pushLocked(ev, size, broadcast)
	return dropped, true
}

// PushDirect queues an event whose payload has size bytes. It returns false when the queue is full
// or ended.
func (q *Queue[E]) PushDirect(ev E, size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil || q.fullLocked(size) {
		return false
	}
	q.pushLocked(ev, size, direct)
	return true
}

// PushNotice queues an event that may not be dropped.
func (q *Queue[E]) PushNotice(ev E) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil {
		return
	}
	if q.notices >= maxNotices {
		q.endLocked(ErrOverrun)
		return
	}
	q.pushLocked(ev, 0, notice)
}

// fullLocked admits a first message whatever its size, so that a small bound cannot block every
// message.
func (q *Queue[E]) fullLocked(size int) bool {
	return q.count >= q.maxEvents || q.count > 0 && q.bytes+size > q.maxBytes
}

func (q *Queue[E]) pushLocked(ev E, size int, c class) {
	q.seq++
	q.kind.Stamp(ev, q.seq, q.kind.Clock.Now())

	e := q.free
	if e == nil {
		e = new(entry[E])
	} else {
		q.free = e.next
	}
	*e = entry[E]{ev: ev, seq: q.seq, size: size, class: c, before: q.after, prev: q.tail}
	q.after = 0
	if q.tail == nil {
		q.head = e
	} else {
		q.tail.next = e
	}
	q.tail = e
	switch c {
	case broadcast:
		if q.oldest == nil {
			q.oldest = e
		} else {
			q.youngest.later = e
		}
		q.youngest = e
		fallthrough
	case direct:
		q.count++
		q.bytes += size
	case notice:
		q.notices++
	}
	q.signal()
}

// evictLocked drops the oldest broadcast and adds it to the count kept with the next entry.
func (q *Queue[E]) evictLocked() {
	e := q.oldest
	missed := e.before + 1
	if e.next != nil {
		e.next.before += missed
	} else {
		q.after += missed
	}
	q.removeLocked(e)
}

// removeLocked unlinks e, which must be the oldest broadcast or no broadcast.
func (q *Queue[E]) removeLocked(e *entry[E]) {
	if e.prev == nil {
		q.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		q.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	switch e.class {
	case broadcast:
		q.oldest = e.later
		fallthrough
	case direct:
		q.count--
		q.bytes -= e.size
	case notice:
		q.notices--
	}
	*e = entry[E]{next: q.free}
	q.free = e
}

func (q *Queue[E]) signal() {
	q.wake.Set()
}

// End ends the stream: Recv returns what is queued and from then on err. Only the first call
// counts.
func (q *Queue[E]) End(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endLocked(err)
}

func (q *Queue[E]) endLocked(err error) {
	if q.end == nil {
		q.end = err
		q.signal()
	}
}

// Recv returns the next event. It waits for one until ctx ends. After the last event of a stream
// that has ended, it returns the reason.
func (q *Queue[E]) Recv(ctx context.Context) (ev E, err error) {
	for {
		ev, ok, err := q.take()
		if ok || err != nil {
			return ev, err
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return ev, ctx.Err()
		}
	}
}

// take returns the next event or the reason of the end; it returns neither when the reader has to
// wait.
func (q *Queue[E]) take() (ev E, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.head
	if e == nil {
		if q.after > 0 {
			return q.laggedLocked(&q.after, q.seq), true, nil
		}
		if q.end != nil {
			q.signal() // for the next call, which may come from another goroutine
		}
		return ev, false, q.end
	}
	if e.before > 0 {
		return q.laggedLocked(&e.before, e.seq-1), true, nil
	}
	ev = e.ev
	q.removeLocked(e)
	return ev, true, nil
}

// laggedLocked reports what was dropped, with the number of the last of it, so that numbers only
// rise.
func (q *Queue[E]) laggedLocked(missed *int, seq uint64) E {
	ev := q.kind.Lagged(seq, q.kind.Clock.Now(), *missed)
	*missed = 0
	return ev
}

// All ranges over Recv. If the stream ends with an error for which quiet returns true, the loop
// ends without yielding it; otherwise the error is yielded last. Breaking out of the loop leaves
// the stream open.
func (q *Queue[E]) All(ctx context.Context, quiet func(error) bool) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		for {
			ev, err := q.Recv(ctx)
			if err != nil {
				if !quiet(err) {
					yield(ev, err)
				}
				return
			}
			if !yield(ev, nil) {
				return
			}
		}
	}
}
