package mesh

import (
	"slices"
	"time"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// gapWait is how long a receiver waits for what is missing before it says that it is lost: two heartbeats
	// of GossipSub, in which neighbours that are outside the topic mesh offer what they have.
	gapWait = 2500 * time.Millisecond
	// baselineWait is how long the first envelope of a feed whose beginning was not seen, and whose sender is no neighbour
	// that tells how far it has got, waits for one before it: envelopes overtake each other on the way.
	baselineWait = 250 * time.Millisecond
	// maxHeld and maxHeldBytes bound what one feed may have waiting behind a gap. A feed beyond them gives
	// its gap up at once.
	maxHeld      = 256
	maxHeldBytes = 4 << 20
)

// feed puts the envelopes of one stay of one member into order. It is a plain state machine: the caller
// brings the time and holds the lock.
type feed struct {
	id   FeedID
	next uint64 // sequence of the next item to deliver; 0: no baseline yet
	// tip is the hash of the envelope that ended just before next; nil when that one was not seen.
	tip       *[32]byte
	held      []*envelope // behind a gap, by rising first
	heldBytes int
	gapSince  time.Time // when the present gap showed, or what is held began to wait for a baseline; zero: nothing waits
	broken    bool      // the sender has signed two different continuations
}

// verdict is what became of an envelope.
type verdict uint8

const (
	taken verdict = iota // it is among those ready now, or will be
	stale                // delivered before, or from before this node's time
	forked
)

// span is a range of sequences, inclusive.
type span struct{ first, last uint64 }

// from sets the baseline: what follows last is to be delivered, what does not is from before our time.
// It does nothing once a baseline is known.
func (f *feed) from(head *wire.Head) {
	if f.next != 0 {
		return
	}
	f.next = head.GetLast() + 1
	if len(head.GetHash()) == len(f.tip) {
		tip := [32]byte(head.Hash)
		f.tip = &tip
	}
}

// settle gives what is held and ready, after a baseline has been set: what lies before it is from before our time.
func (f *feed) settle(now time.Time) ([]*envelope, verdict) {
	if f.broken {
		return nil, forked
	}
	for len(f.held) > 0 && f.held[0].Next() <= f.next {
		f.popHeld()
	}
	switch {
	case len(f.held) == 0:
		f.gapSince = time.Time{}
		return nil, taken
	case f.held[0].First > f.next:
		return nil, taken
	case f.held[0].First < f.next:
		f.broken = true
		return nil, forked
	}
	return f.advance(now, f.popHeld())
}

// take gives the envelopes that e makes ready, in order.
func (f *feed) take(now time.Time, e *envelope) ([]*envelope, verdict) {
	if f.broken {
		return nil, forked
	}
	if f.next == 0 && e.First == 1 {
		f.next = 1
	}
	switch {
	case f.next == 0:
		return nil, f.hold(now, e)
	case e.Next() <= f.next:
		return nil, stale
	case e.First < f.next:
		// It overlaps what was delivered: a sender cuts its feed into envelopes once.
		f.broken = true
		return nil, forked
	case e.First > f.next:
		return nil, f.hold(now, e)
	}
	return f.advance(now, e)
}

func (f *feed) hold(now time.Time, e *envelope) verdict {
	i, found := slices.BinarySearchFunc(f.held, e.First, func(h *envelope, first uint64) int {
		return int(min(max(int64(h.First-first), -1), 1))
	})
	if found {
		if f.held[i].hash != e.hash {
			f.broken = true
			return forked
		}
		return stale
	}
	f.held = slices.Insert(f.held, i, e)
	f.heldBytes += e.size
	if f.gapSince.IsZero() {
		f.gapSince = now
	}
	return taken
}

// advance delivers e, which starts at next, and whatever it completes.
func (f *feed) advance(now time.Time, e *envelope) ([]*envelope, verdict) {
	var ready []*envelope
	for {
		if f.tip != nil && !e.Continues(*f.tip) {
			f.broken = true
			return ready, forked
		}
		ready = append(ready, e)
		f.next, f.tip = e.Next(), &e.hash
		if len(f.held) == 0 {
			f.gapSince = time.Time{}
			return ready, taken
		}
		if f.held[0].First != f.next {
			// Another gap, behind the one that closed.
			f.gapSince = now
			return ready, f.overlap()
		}
		e = f.popHeld()
	}
}

// overlap checks that what is held does not begin inside what was delivered.
func (f *feed) overlap() verdict {
	if f.held[0].First < f.next {
		f.broken = true
		return forked
	}
	return taken
}

func (f *feed) popHeld() *envelope {
	e := f.held[0]
	f.held[0] = nil
	f.held = f.held[1:]
	f.heldBytes -= e.size
	return e
}

// due is when expire has something to do; zero: nothing waits.
func (f *feed) due() time.Time {
	if f.gapSince.IsZero() || f.broken {
		return time.Time{}
	}
	if len(f.held) > maxHeld || f.heldBytes > maxHeldBytes {
		return f.gapSince
	}
	if f.next == 0 {
		return f.gapSince.Add(baselineWait)
	}
	return f.gapSince.Add(gapWait)
}

// expire gives up the present gap when its time is over: what is lost (nothing, before the baseline), and what is ready
// behind it. It does nothing unless due says so.
func (f *feed) expire(now time.Time) (lost span, ready []*envelope, v verdict) {
	due := f.due()
	if due.IsZero() || now.Before(due) {
		return span{}, nil, taken
	}
	if f.next > 0 {
		lost = span{f.next, f.held[0].First - 1}
	}
	f.next, f.tip = f.held[0].First, nil
	ready, v = f.advance(now, f.popHeld())
	return lost, ready, v
}
