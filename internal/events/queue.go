package events

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/starling-mesh/starling/internal/task"
)

// Limits bounds a queue. A zero field takes its default.
type Limits struct {
	// Events is how many broadcasts and direct messages may wait. The default is 8192: thousands
	// can arrive at once while the reader is briefly busy.
	Events int
	// Bytes bounds their payloads, in bytes. The default is 16 MiB: 256 messages of the largest
	// size.
	Bytes int
}

const (
	defaultEvents = 8192
	defaultBytes  = 16 << 20
	// maxNotices ends a stream whose reader has left this many notices unread. Notices may not be
	// dropped, and a peer that joins and leaves for ever must not fill the memory.
	maxNotices = 65536
)

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
type entry struct {
	ev         Event
	size       int
	class      class
	before     int // broadcasts dropped between the previous entry and this one
	prev, next *entry
	later      *entry // the next broadcast
}

// Queue is a bounded stream of events. Its methods may be called from any goroutine, but Recv and
// All from only one at a time.
type Queue struct {
	room   string
	limits Limits

	mu               sync.Mutex
	head, tail       *entry
	oldest, youngest *entry // of the broadcasts, linked by later
	free             *entry // spare entries, linked by next
	seq              uint64
	count, bytes     int   // of the broadcasts and direct messages waiting
	notices          int   // waiting
	after            int   // broadcasts dropped behind tail
	end              error // set once; Recv returns it when the list is empty

	wake task.Wake // there may be something to read
}

// NewQueue returns an empty queue. Its events carry room, which may be empty.
func NewQueue(room string, limits Limits) *Queue {
	if limits.Events <= 0 {
		limits.Events = defaultEvents
	}
	if limits.Bytes <= 0 {
		limits.Bytes = defaultBytes
	}
	return &Queue{room: room, limits: limits, wake: task.NewWake()}
}

// PushBroadcast queues an event whose payload has size bytes. When the queue is full, it drops the
// oldest broadcasts to make room. It returns how many it dropped, and whether the new one is in the
// queue: it is dropped itself when direct messages fill the queue, and nothing is accepted after
// the end.
func (q *Queue) PushBroadcast(ev Event, size int) (dropped int, queued bool) {
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
func (q *Queue) PushDirect(ev Event, size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil || q.fullLocked(size) {
		return false
	}
	q.pushLocked(ev, size, direct)
	return true
}

// PushNotice queues an event that may not be dropped.
func (q *Queue) PushNotice(ev Event) {
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
func (q *Queue) fullLocked(size int) bool {
	return q.count >= q.limits.Events || q.count > 0 && q.bytes+size > q.limits.Bytes
}

func (q *Queue) pushLocked(ev Event, size int, c class) {
	q.seq++
	h := ev.Head()
	h.Seq, h.Time, h.Room = q.seq, time.Now(), q.room

	e := q.free
	if e == nil {
		e = new(entry)
	} else {
		q.free = e.next
	}
	*e = entry{ev: ev, size: size, class: c, before: q.after, prev: q.tail}
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
func (q *Queue) evictLocked() {
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
func (q *Queue) removeLocked(e *entry) {
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
	*e = entry{next: q.free}
	q.free = e
}

func (q *Queue) signal() {
	q.wake.Set()
}

// End ends the stream: Recv returns what is queued and from then on err. Only the first call
// counts.
func (q *Queue) End(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endLocked(err)
}

func (q *Queue) endLocked(err error) {
	if q.end == nil {
		q.end = err
		q.signal()
	}
}

// Recv returns the next event. It waits for one until ctx ends. After the last event of a stream
// that has ended, it returns the reason.
func (q *Queue) Recv(ctx context.Context) (Event, error) {
	for {
		ev, err := q.take()
		if ev != nil || err != nil {
			return ev, err
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns the next event or the reason of the end; it returns neither when the reader has to
// wait.
func (q *Queue) take() (Event, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.head
	if e == nil {
		if q.after > 0 {
			return q.laggedLocked(&q.after, q.seq), nil
		}
		if q.end != nil {
			q.signal() // for the next call, which may come from another goroutine
		}
		return nil, q.end
	}
	if e.before > 0 {
		return q.laggedLocked(&e.before, e.ev.Head().Seq-1), nil
	}
	ev := e.ev
	q.removeLocked(e)
	return ev, nil
}

// laggedLocked returns a Lagged with the number of the last dropped event, so that numbers only
// rise.
func (q *Queue) laggedLocked(missed *int, seq uint64) *Lagged {
	ev := &Lagged{Header{Type: "lagged", Seq: seq, Time: time.Now(), Room: q.room}, *missed}
	*missed = 0
	return ev
}

// All ranges over Recv. If the stream ends with an error for which quiet returns true, the loop
// ends without yielding it; otherwise the error is yielded last. Breaking out of the loop leaves
// the stream open.
func (q *Queue) All(ctx context.Context, quiet func(error) bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			ev, err := q.Recv(ctx)
			if err != nil {
				if !quiet(err) {
					yield(nil, err)
				}
				return
			}
			if !yield(ev, nil) {
				return
			}
		}
	}
}
