package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
)

// Receipt says that the receiver's node put the message into its program's event queue; it does not
// say that the program has read it.
type Receipt struct {
	ID      uint64        // of the send: one count over all sends of this node, from 1
	RTT     time.Duration // from first byte out to receipt in
	Relayed bool          // the receipt came over a circuit relay
	// To is the receiver: the one key that the name of the send meant. A failed send has it too, if
	// its receiver was found.
	To identity.Login
}

// Pending is an accepted send or broadcast, ended or not. It ends once, with a T: a [Receipt], a
// [Published] or a [Confirmation]. It is a small value: copy it freely. Its methods are safe for
// concurrent use.
type Pending[T any] struct {
	id    uint64
	index uint32 // of a broadcast, within its batch
	of    ending[T]
}

// ending is what is known of the sends that end together.
type ending[T any] interface {
	over() <-chan struct{}
	settle(id uint64, index uint32) (T, error) // once it is over
	cut(id uint64, cause error) (T, error)     // a wait has ended with cause before
}

// ID is the number of this send, the same as in its result.
func (p Pending[T]) ID() uint64 { return p.id }

// Done returns a channel that is closed when there is a result.
func (p Pending[T]) Done() <-chan struct{} { return p.of.over() }

// Result waits for the end, which the deadline of the send bounds, and returns what the call that
// waits ([Mesh.Send], [Room.Publish], [Room.PublishConfirmed]) would.
func (p Pending[T]) Result() (T, error) {
	<-p.of.over()
	return p.of.settle(p.id, p.index)
}

// Wait is [Pending.Result] bounded by ctx. If ctx ends first, it returns what is known so far and
// ctx's error; the send goes on.
func (p Pending[T]) Wait(ctx context.Context) (T, error) {
	select {
	case <-p.of.over():
		return p.of.settle(p.id, p.index)
	default:
	}
	select {
	case <-p.of.over():
		return p.of.settle(p.id, p.index)
	case <-ctx.Done():
		return p.of.cut(p.id, ctx.Err())
	}
}

func (b *batch) over() <-chan struct{} { return b.done }

func (b *batch) settle(id uint64, index uint32) (Published, error) {
	if b.err != nil {
		return Published{ID: id}, b.err
	}
	return Published{
		ID: id, Feed: b.feed, Number: b.first + uint64(index), Neighbours: b.neighbours, Acked: b.acked,
	}, nil
}

func (b *batch) cut(id uint64, cause error) (Published, error) {
	return Published{ID: id}, blame(fmt.Errorf("%w: %w", ErrUnconfirmed, cause), b.link)
}

// sending is a message to one user, ended or not: what its [Pending] is about.
type sending struct {
	id   uint64
	home *destination // where the message comes back to; nil: nowhere
	done chan struct{}
	link func() bool // reports whether this node's link is down; nil: not asked

	to      atomic.Pointer[identity.Login] // the receiver; shared by many sends, not to be changed
	lane    atomic.Pointer[lane]           // nil: with none
	unwatch atomic.Pointer[func() bool]

	// Written before done is closed, read after. Before, err is the refusal with which the message
	// has come back to its home.
	rtt time.Duration
	err error
	pin *pinning // what to do once the message has arrived; nil: nothing

	// Guarded by the mutex of the lane, or of home while the message is with no lane.
	body     []byte  // the frame without what is known only when it is written
	pooled   *[]byte // where body's memory goes back to
	deadline time.Time
	late     time.Time // unreliable: not to be written after this
	wrote    time.Time // when first written; zero: certainly not sent
	seq      uint64    // 0 until written
	epoch    uint64    // of the stream it was first written on
	leg      uint32    // of home's load, when the message was handed to a lane
	flight   uint32    // the same; the mutex of the load guards both
	size     int       // of body; never changed
	byCtx    bool      // the deadline is a context's
	ended    bool      // done is closed, or about to be
	answered bool      // the receiver acknowledged or refused it
	relayed  bool      // so was its answer; written with rtt
}

// pending returns the caller's handle, or passes the error on.
func pending(p *sending, err error) (Pending[Receipt], error) {
	if err != nil {
		return Pending[Receipt]{}, err
	}
	return Pending[Receipt]{id: p.id, of: p}, nil
}

func (p *sending) over() <-chan struct{} { return p.done }

func (p *sending) settle(uint64, uint32) (Receipt, error) { return p.result() }

func (p *sending) cut(_ uint64, cause error) (Receipt, error) { return p.sent(), cause }

// result returns how a send has ended. It may write a pin to disk, so the caller must hold no lock.
func (p *sending) result() (Receipt, error) {
	if p.pin != nil && p.mayHaveArrived() {
		p.pin.once.Do(func() { p.pin.of(*p.to.Load()) })
	}
	r := p.sent()
	r.RTT, r.Relayed = p.rtt, p.relayed
	if p.err != nil && p.home != nil && p.home.key.room == nil {
		return r, fmt.Errorf("send to %s: %w", p.home.key.to, p.err)
	}
	return r, p.err
}

// limit is when a message that is not yet written is overdue.
func (p *sending) limit() time.Time {
	if !p.late.IsZero() && p.late.Before(p.deadline) {
		return p.late
	}
	return p.deadline
}

// watch ends p when ctx ends.
func (p *sending) watch(ctx context.Context) {
	unwatch := context.AfterFunc(ctx, func() { p.abandon(ctx.Err()) })
	p.unwatch.Store(&unwatch)
	select {
	case <-p.done:
		unwatch()
	default:
	}
}

// end ends p, with nil if it was delivered.
func (p *sending) end(stats *counters, err error) {
	if p.link != nil {
		err = blame(err, p.link)
	}
	p.ended, p.err = true, err
	p.body = nil // the caller may keep the handle for long
	if p.pooled != nil {
		bodies.Put(p.pooled)
		p.pooled = nil
	}
	switch {
	case err == nil:
		stats.directDelivered.Add(1)
	case errors.Is(err, ErrRefused):
		stats.directRefused.Add(1)
	default:
		stats.directFailed.Add(1)
	}
	if p.home != nil {
		p.home.ended(p, err == nil)
	}
	close(p.done)
	if p.pin != nil && p.mayHaveArrived() {
		p.pin.tasks.Go(func() { _, _ = p.result() }) // the caller need not ask for the result
	}
	if unwatch := p.unwatch.Load(); unwatch != nil {
		(*unwatch)()
	}
}

// mayHaveArrived reports whether a message that has ended has arrived, or may have.
func (p *sending) mayHaveArrived() bool { return p.err == nil || errors.Is(p.err, ErrUnconfirmed) }

// sent returns the receipt as far as it is known before the send has ended.
func (p *sending) sent() Receipt {
	r := Receipt{ID: p.id}
	if to := p.to.Load(); to != nil {
		r.To = *to
	}
	return r
}

// pinning pins the name of the user that got a message, or may have got it: if the name alone was
// given, or if this message answers what that key has written.
type pinning struct {
	pins   *identity.Pins
	byName bool
	tasks  *task.Group
	once   sync.Once
}

func (p *pinning) of(to identity.Login) {
	if p.byName {
		p.pins.Pin(to.User, to.Key)
	} else {
		p.pins.Answered(to)
	}
}
