package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/starling-mesh/starling/identity"
)

// Receipt says that the receiver's node put the message into its program's event queue; it does not
// say that the program has read it.
type Receipt struct {
	ID      uint64        // of the send: one count over all sends of this node, from 1
	RTT     time.Duration // from first byte out to receipt in
	Relayed bool          // the receipt came over a circuit relay
	// To is the receiver: the one key that the name of the send meant. A failed send has it too,
	// once it had an ID.
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
	return Published{ID: id}, fmt.Errorf("%w: %w", ErrUnconfirmed, cause)
}

// sending is a message to one user, ended or not: what its [Pending] is about.
type sending struct {
	id   uint64
	to   *identity.Login // the receiver; shared by many sends, not to be changed
	pin  *pinning        // what to do once the message has arrived; nil: nothing
	done chan struct{}

	// Written before done is closed, read after.
	rtt     time.Duration
	relayed bool
	err     error

	// Owned by the lane, guarded by its mutex.
	lane     *lane
	body     []byte  // the frame without what is known only when it is written
	pooled   *[]byte // where body's memory goes back to
	size     int     // of body
	deadline time.Time
	ctxErr   error     // what the deadline gives, when it is a context's
	late     time.Time // unreliable: not to be written after this
	seq      uint64    // 0 until written
	epoch    uint64    // of the stream it was first written on
	wrote    time.Time // when first written; zero: certainly not sent
	ended    bool      // done is closed, or about to be
	answered bool      // the receiver acknowledged or refused it
	unwatch  func() bool
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
	if p.pin != nil && (p.err == nil || errors.Is(p.err, ErrUnconfirmed)) { // it has arrived, or may have
		p.pin.once.Do(func() { p.pin.of(*p.to) })
	}
	r := p.sent()
	r.RTT, r.Relayed = p.rtt, p.relayed
	return r, p.err
}

// sent returns the receipt as far as it is known before the send has ended.
func (p *sending) sent() Receipt {
	r := Receipt{ID: p.id}
	if p.to != nil {
		r.To = *p.to
	}
	return r
}

// pinning pins the name of the user that got a message, or may have got it: if the name alone was
// given, or if this message answers what that key has written.
type pinning struct {
	pins   *identity.Pins
	byName bool
	once   sync.Once
}

func (p *pinning) of(to identity.Login) {
	if p.byName {
		p.pins.Pin(to.User, to.Key)
	} else {
		p.pins.Answered(to)
	}
}
