package mesh

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/mesh/internal/rates"
)

// throttle holds this node to its rate of one kind of message.
type throttle struct {
	rate  Rate
	clock walltime.Clock
	limit RateLimit // of messages; that of bytes is the next
	// credit is how many bytes have been taken from the bucket in advance, if nothing but bytes is
	// limited: so few messages need the lock, or the time.
	credit atomic.Int64

	mu     sync.Mutex
	bucket rates.Bucket
}

func (t *throttle) init(r Rate, limit RateLimit, clock walltime.Clock) {
	t.rate, t.limit, t.clock, t.bucket = r, limit, clock, rates.NewBucket(r, rates.Burst)
}

// creditShare is the part of a second's bytes that is taken in advance.
const creditShare = 64

// take counts a message of so many bytes, or returns over which limit it is.
func (t *throttle) take(size int) *RateError {
	if t.rate == (Rate{}) {
		return nil
	}
	ahead := 0
	if t.rate.Messages == 0 {
		if t.credit.Add(-int64(size)) >= 0 {
			return nil
		}
		t.credit.Add(int64(size))
		ahead = max(t.rate.Bytes/creditShare-size, 0)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	wait, of := t.bucket.Take(t.clock.Now(), 1, size+ahead)
	if wait == 0 {
		t.credit.Add(int64(ahead))
		return nil
	}
	e := &RateError{Limit: t.limit, Rate: t.rate.Messages, After: wait}
	if of == rates.Bytes {
		e.Limit, e.Rate = t.limit+1, t.rate.Bytes
	}
	return e
}

// untake puts back what was counted for a message that was not accepted.
func (t *throttle) untake(size int) {
	if t.rate == (Rate{}) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bucket.Return(1, size)
}

// sleep waits for so long, and returns what ended the wait before, or nil.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pace is what an outbox holds its envelopes to. The outbox guards it.
type pace struct {
	clock walltime.Clock
	// accepts is the node's rate over all rooms, sealed what the room's members judge this node's
	// feeds by, and all the rate of the room.
	accepts *throttle
	sealed  rates.Bucket
	all     rates.Bucket
	room    int // broadcasts a second in all; 0: no limit
	waiting int // messages that have not been sealed
}

// most returns how many messages may wait, so that they can be sealed at once: 0 means any number.
func (p *pace) most() int {
	if p.accepts == nil || p.accepts.rate.Messages == 0 {
		return 0
	}
	return max(1, int(time.Duration(p.accepts.rate.Messages)*rates.Sealed/time.Second))
}

// take counts a message whose item has so many bytes, or returns over which limit it is.
func (p *pace) take(size int) *RateError {
	if p.accepts == nil {
		return nil
	}
	if err := p.accepts.take(size); err != nil {
		return err
	}
	if p.room == 0 {
		return nil
	}
	wait, _ := p.all.Take(p.clock.Now(), 1, 0)
	if wait == 0 {
		return nil
	}
	p.accepts.untake(size)
	return &RateError{Limit: RoomMessages, Rate: p.room, After: wait}
}

// heard counts messages of others in the room.
func (o *outbox) heard(messages int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pace.room > 0 {
		o.pace.all.Spend(o.pace.clock.Now(), messages, 0)
	}
}

// holdRoom sets how many broadcasts a second there should be in the room; 0: no limit.
func (o *outbox) holdRoom(rate int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pace.room = rate
	o.pace.all.SetRate(Rate{Messages: rate})
}

// paces is how much of what members judge this node by has been used up in rooms that were left a
// moment ago: they remember it when the node joins again.
type paces struct {
	mu    sync.Mutex
	rooms map[[32]byte]rates.Bucket
}

// keep remembers what was used up in a room whose stay ends. A second later nobody has to know.
func (p *paces) keep(now time.Time, tag [32]byte, sealed rates.Bucket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, b := range p.rooms {
		if b.Full(now) {
			delete(p.rooms, t)
		}
	}
	if sealed.Full(now) {
		delete(p.rooms, tag)
		return
	}
	if p.rooms == nil {
		p.rooms = make(map[[32]byte]rates.Bucket)
	}
	p.rooms[tag] = sealed
}

// of returns what is left in a room.
func (p *paces) of(tag [32]byte, r Rate) rates.Bucket {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.rooms[tag]; ok {
		return b
	}
	return rates.NewBucket(r, rates.Sealed)
}
