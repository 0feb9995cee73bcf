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
//
// # Sources
//
// Several streams can share one queue, with one order, one count and one bound: each is a [Source]
// of the queue. What was dropped is reported for each source.
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
	of         *Source[E]
	before     *missed[E] // broadcasts dropped between the previous entry and this one
	prev, next *entry[E]
	later      *entry[E] // the next broadcast
}

// missed counts the broadcasts of one source that were dropped at one place of the queue. It is an
// element of a list with one for each source, by rising last.
type missed[E any] struct {
	of   *Source[E]
	n    int
	last uint64 // the number of the last of them
	next *missed[E]
}

// add returns the list with one more broadcast, which had number seq: later than all in it.
func (l *missed[E]) add(of *Source[E], seq uint64) *missed[E] {
	m, at := (*missed[E])(nil), &l
	for *at != nil {
		if (*at).of == of {
			m, *at = *at, (*at).next
			continue
		}
		at = &(*at).next
	}
	if m == nil {
		m = &missed[E]{of: of}
	}
	m.n, m.last, m.next = m.n+1, seq, nil
	*at = m
	return l
}

// Source is a stream of events that go to a queue. Its methods may be called from any goroutine.
type Source[E any] struct {
	queue  *Queue[E]
	stamp  func(ev E, seq uint64, at time.Time)
	lagged func(seq uint64, at time.Time, missed int) E
	over   bool // the lock of the queue guards it
}

// Queue is a bounded stream of events. Its methods may be called from any goroutine, but Recv and
// All from only one at a time.
type Queue[E any] struct {
	own                 Source[E]
	clock               walltime.Clock
	maxEvents, maxBytes int

	mu               sync.Mutex
	head, tail       *entry[E]
	oldest, youngest *entry[E] // of the broadcasts, linked by later
	free             *entry[E] // spare entries, linked by next
	seq              uint64
	count, bytes     int        // of the broadcasts and direct messages waiting
	notices          int        // waiting
	after            *missed[E] // broadcasts dropped behind tail
	end              error      // set once; Recv returns it when the list is empty

	wake task.Wake // there may be something to read
}

// NewQueue returns an empty queue, in which so many broadcasts and direct messages may wait, with
// payloads of so many bytes. Both bounds must be positive.
func NewQueue[E any](kind Kind[E], maxEvents, maxBytes int) *Queue[E] {
	q := &Queue[E]{clock: kind.Clock, maxEvents: maxEvents, maxBytes: maxBytes, wake: task.NewWake()}
	q.own = Source[E]{queue: q, stamp: kind.Stamp, lagged: kind.Lagged}
	return q
}

// Own returns the queue's own source, which the queue's methods use.
func (q *Queue[E]) Own() *Source[E] { return &q.own }

// NewSource returns another source of the queue. Of kind, only Stamp and Lagged count.
func (q *Queue[E]) NewSource(kind Kind[E]) *Source[E] {
	return &Source[E]{queue: q, stamp: kind.Stamp, lagged: kind.Lagged}
}

// PushBroadcast is [Source.PushBroadcast] of the queue's own source.
func (q *Queue[E]) PushBroadcast(ev E, size int) (dropped int, queued bool) {
	return q.own.PushBroadcast(ev, size)
}

// PushDirect is [Source.PushDirect] of the queue's own source.
func (q *Queue[E]) PushDirect(ev E, size int) bool { return q.own.PushDirect(ev, size) }

// PushNotice is [Source.PushNotice] of the queue's own source.
func (q *Queue[E]) PushNotice(ev E) { q.own.PushNotice(ev) }

// PushBroadcast queues an event whose payload has size bytes. When the queue is full, it drops the
// oldest broadcasts to make room. It returns how many it dropped, and whether the new one is in the
// queue: it is dropped itself when direct messages fill the queue, and nothing is accepted after
// the end.
func (s *Source[E]) PushBroadcast(ev E, size int) (dropped int, queued bool) {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil || s.over {
		return 0, false
	}
	for q.fullLocked(size) {
		dropped++
		if q.oldest == nil {
			// The number it would have had, so that the gap shows.
			q.seq++
			q.after = q.after.add(s, q.seq)
			q.signal()
			return dropped, false
		}
		q.evictLocked()
	}
	q.pushLocked(s, ev, size, broadcast)
	return dropped, true
}

// PushDirect queues an event whose payload has size bytes. It returns false when the queue is full
// or ended.
func (s *Source[E]) PushDirect(ev E, size int) bool {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil || s.over || q.fullLocked(size) {
		return false
	}
	q.pushLocked(s, ev, size, direct)
	return true
}

// PushNotice queues an event that may not be dropped.
func (s *Source[E]) PushNotice(ev E) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.noticeLocked(ev)
}

func (s *Source[E]) noticeLocked(ev E) {
	switch q := s.queue; {
	case q.end != nil || s.over:
	case q.notices >= maxNotices:
		q.endLocked(ErrOverrun)
	default:
		q.pushLocked(s, ev, 0, notice)
	}
}

// End queues the last event of the source, which may not be dropped, and takes nothing more from
// it. The queue stays open for its other sources. Only the first call counts.
func (s *Source[E]) End(last E) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.noticeLocked(last)
	s.over = true
}

// fullLocked admits a first message whatever its size, so that a small bound cannot block every
// message.
func (q *Queue[E]) fullLocked(size int) bool {
	return q.count >= q.maxEvents || q.count > 0 && q.bytes+size > q.maxBytes
}

func (q *Queue[E]) pushLocked(s *Source[E], ev E, size int, c class) {
	q.seq++
	s.stamp(ev, q.seq, q.clock.Now())

	e := q.free
	if e == nil {
		e = new(entry[E])
	} else {
		q.free = e.next
	}
	*e = entry[E]{ev: ev, seq: q.seq, size: size, class: c, of: s, before: q.after, prev: q.tail}
	q.after = nil
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
	gone := e.before.add(e.of, e.seq)
	if e.next != nil { // behind the oldest, nothing has been dropped yet
		e.next.before = gone
	} else {
		q.after = gone
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
		if q.after != nil {
			return q.laggedLocked(&q.after), true, nil
		}
		if q.end != nil {
			q.signal() // for the next call, which may come from another goroutine
		}
		return ev, false, q.end
	}
	if e.before != nil {
		return q.laggedLocked(&e.before), true, nil
	}
	ev = e.ev
	q.removeLocked(e)
	return ev, true, nil
}

// laggedLocked reports the first of what was dropped at one place, with the number of the last
// broadcast that it counts, so that numbers only rise.
func (q *Queue[E]) laggedLocked(list **missed[E]) E {
	m := *list
	*list = m.next
	return m.of.lagged(m.last, q.clock.Now(), m.n)
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
