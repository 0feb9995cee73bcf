package mesh

import (
	"context"
	"errors"
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

// Pending is an accepted send, ended or not. It ends exactly once. Its methods are safe for
// concurrent use.
type Pending struct {
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

// ID is the number of this send, the same as in its [Receipt].
func (p *Pending) ID() uint64 { return p.id }

// Done returns a channel that is closed when the send has ended.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Result waits for the end of the send, which the send's deadline bounds, and returns what Send
// would.
func (p *Pending) Result() (Receipt, error) {
	<-p.done
	return p.result()
}

// result returns how a send has ended. It may write a pin to disk, so the caller must hold no lock.
func (p *Pending) result() (Receipt, error) {
	if p.pin != nil && (p.err == nil || errors.Is(p.err, ErrUnconfirmed)) { // it has arrived, or may have
		p.pin.once.Do(func() { p.pin.of(*p.to) })
	}
	r := p.sent()
	r.RTT, r.Relayed = p.rtt, p.relayed
	return r, p.err
}

// sent returns the receipt as far as it is known before the send has ended.
func (p *Pending) sent() Receipt {
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

// Wait is [Pending.Result] bounded by ctx. If ctx ends first, it returns ctx's error, and the send
// goes on.
func (p *Pending) Wait(ctx context.Context) (Receipt, error) {
	select {
	case <-p.done:
		return p.result()
	default:
	}
	select {
	case <-p.done:
		return p.result()
	case <-ctx.Done():
		return p.sent(), ctx.Err()
	}
}
