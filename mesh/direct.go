package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// DirectProtocol carries messages to one user, in rooms and outside them.
const DirectProtocol protocol.ID = "/starling/direct/1.0.0"

// Mode is how hard a send to one user tries. Each mode has its own streams, so that none waits
// behind a large message of another.
type Mode uint8

const (
	// Reliable messages are written again after a broken connection, until their deadline. They
	// arrive once and in order. It is the zero value.
	Reliable Mode = iota
	// UnreliableOrdered messages are not written again, and are dropped if they have waited
	// [LateAfter] to be written. Those that arrive are in order. A lost one still ends with a
	// result.
	UnreliableOrdered
	// UnreliableUnordered messages are like UnreliableOrdered ones, but may overtake each other.
	UnreliableUnordered
)

func (m Mode) String() string {
	switch m {
	case Reliable:
		return "reliable"
	case UnreliableOrdered:
		return "unreliable ordered"
	case UnreliableUnordered:
		return "unreliable unordered"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// LateAfter is how long a message of the unreliable modes may wait to be written, for instance
// while its receiver is dialled, before it is dropped and its send ends as [ErrUnreachable].
const LateAfter = 500 * time.Millisecond

// Send sends data to one logged-in user, outside rooms, and waits for the answer: until ctx ends,
// or for the send timeout (see [WithSendTimeout]) if ctx has no deadline. A nil error means that
// the receiver's node has put the message into its program's queue.
//
// Some calls fail at once, with no traffic and no ID: [ErrEmpty], [*SizeError], [ErrNotText],
// [ErrSelf], [ErrNotLoggedIn], [ErrClosed]. Otherwise the receipt has the send's ID even if the
// error is not nil: [ErrUnreachable], [ErrUnconfirmed] or a [*RefusedError].
func (m *Mesh) Send(ctx context.Context, to identity.Login, data []byte, opts ...SendOption) (Receipt, error) {
	p, err := m.sendOutside(ctx, to, data, opts, waits)
	if err != nil {
		return Receipt{}, err
	}
	return p.await(ctx)
}

// SendAsync is Send for callers that pipeline: it copies data, assigns the send its ID, and returns
// at once. ctx still bounds the whole send. If too much waits for that peer already (4096 messages
// or 8 MiB), SendAsync returns [ErrQueueFull], and the send has no ID; [WithWaiting] makes it wait
// for space.
func (m *Mesh) SendAsync(ctx context.Context, to identity.Login, data []byte, opts ...SendOption) (Pending[Receipt], error) {
	return pending(m.sendOutside(ctx, to, data, opts, watched))
}

func (m *Mesh) sendOutside(ctx context.Context, to identity.Login, data []byte, opts []SendOption, w watching) (*sending, error) {
	out := message{to: to.User, payload: data, sendConfig: sendSettings(opts), watching: w}
	if to.Peer == m.host.ID() {
		return nil, ErrSelf
	}
	if err := m.check(out); err != nil {
		return nil, err
	}
	if err := to.Peer.Validate(); err != nil {
		return nil, fmt.Errorf("receiver: %w", err)
	}
	self := m.who.Self()
	if self == nil || !self.LoggedInAt(m.clock.Now()) {
		return nil, ErrNotLoggedIn
	}
	if self.SameUser(to) {
		return nil, ErrSelf
	}
	return m.enqueue(ctx, to, out)
}

// message is one message to one user.
type message struct {
	room    *[32]byte // nil: outside rooms
	to      string    // the user
	payload []byte    // copied
	sendConfig
	watching watching
}

func sendSettings(opts []SendOption) (c sendConfig) {
	for _, o := range opts {
		o.applySend(&c)
	}
	return c
}

// watching says which side ends a send when its context ends.
type watching uint8

const (
	watched watching = iota // the mesh: the handle is the caller's
	waits                   // the caller, in sending.await
)

// waitsForSpace reports whether the caller waits if too much is queued already.
func (d message) waitsForSpace() bool { return d.wait || d.watching == waits }

// check returns why a message is refused here, or nil.
func (m *Mesh) check(d message) error {
	switch {
	case m.ctx.Err() != nil:
		return ErrClosed
	case d.mode > UnreliableUnordered:
		return fmt.Errorf("unknown %v", d.mode)
	}
	if err := checkPayload(d.kind, d.payload, m.cfg.maxMessage); err != nil {
		return err
	}
	return identity.CheckUser(d.to)
}

// newSending returns a checked message that no queue has accepted yet.
func (m *Mesh) newSending(ctx context.Context, d message, now time.Time) (*sending, error) {
	if err := ctx.Err(); err != nil {
		return nil, &sendError{ErrUnreachable, err}
	}
	content := wire.Direct{Kind: kindToWire(d.kind), To: []byte(d.to), Payload: d.payload, SentMS: now.UnixMilli()}
	if d.room != nil {
		content.Room = d.room[:]
	}
	p := &sending{done: make(chan struct{}), link: m.cfg.linkDown, deadline: now.Add(m.cfg.sendTimeout)}
	if len(d.payload) >= pooledBody {
		p.pooled = bodies.Get().(*[]byte)
		p.body = content.AppendContent((*p.pooled)[:0])
	} else {
		p.body = content.AppendContent(nil)
	}
	p.size = len(p.body)
	if t, ok := m.clock.Deadline(ctx); ok {
		p.deadline, p.byCtx = t, true
	}
	if d.mode != Reliable {
		p.late = now.Add(LateAfter)
	}
	return p, nil
}

// admit returns a checked message that is within the rate, and that no queue has accepted yet, and
// the time. If the caller waits, it waits for the rate: until the deadline of the send, or the end
// of the stay if it is in a room.
func (m *Mesh) admit(ctx context.Context, d message, r *Room) (p *sending, now time.Time, err error) {
	now = m.clock.Now()
	over := m.direct.take(len(d.payload))
	if over == nil {
		if p, err = m.newSending(ctx, d, now); err != nil {
			m.direct.untake(len(d.payload))
		}
		return p, now, err
	}
	if !d.waitsForSpace() {
		return nil, now, over
	}
	began := now
	for over != nil {
		if err := m.awaitRate(ctx, over, began, r); err != nil {
			return nil, now, err
		}
		over = m.direct.take(len(d.payload))
	}
	now = m.clock.Now()
	if p, err = m.newSending(ctx, d, now); err != nil {
		m.direct.untake(len(d.payload))
		return nil, now, err
	}
	if !p.byCtx {
		p.deadline = began.Add(m.cfg.sendTimeout)
	}
	return p, now, nil
}

// awaitRate waits until a message may be within the rate.
func (m *Mesh) awaitRate(ctx context.Context, over *RateError, began time.Time, r *Room) error {
	var left <-chan struct{}
	if r != nil {
		left = r.ctx.Done()
	}
	wait := over.After
	if _, bounded := ctx.Deadline(); !bounded {
		if rest := m.clock.Until(began.Add(m.cfg.sendTimeout)); rest < wait {
			return &sendError{ErrUnreachable, over}
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-left:
		return r.reason()
	case <-ctx.Done():
		return &sendError{ErrUnreachable, fmt.Errorf("%w: %w", over, ctx.Err())}
	case <-m.ctx.Done():
		return ErrClosed
	}
}

// enqueue passes a checked message to the lane of a known device.
func (m *Mesh) enqueue(ctx context.Context, to identity.Login, d message) (_ *sending, err error) {
	p, now, err := m.admit(ctx, d, nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.direct.untake(len(d.payload))
		}
	}()
	p.pin = m.pinningFor(to, false)
	for {
		space, err := m.toLane(to, d.mode, p, now)
		if err != nil {
			return nil, err
		}
		if space == nil {
			break
		}
		if err := m.awaitSpace(ctx, p, d, nil, space); err != nil {
			return nil, err
		}
		now = m.clock.Now()
	}
	if d.watching == watched && ctx.Done() != nil {
		p.watch(ctx)
	}
	return p, nil
}

// toLane passes a message to the lane of a device. If the lane is full, it returns a channel that
// is closed when there may be space.
func (m *Mesh) toLane(to identity.Login, mode Mode, p *sending, now time.Time) (space <-chan struct{}, err error) {
	for {
		l := m.lane(laneKey{to.Peer, mode})
		if l == nil {
			return nil, ErrClosed
		}
		space, err := l.accept(p, to, now)
		if err != errRetired { // it ended just now, and the next one takes over
			return space, err
		}
	}
}

// awaitSpace waits for space in a queue that is full, if the caller of this send waits: until the
// deadline of the send, or the end of the stay if it is in a room.
func (m *Mesh) awaitSpace(ctx context.Context, p *sending, d message, r *Room, space <-chan struct{}) error {
	if !d.waitsForSpace() {
		return ErrQueueFull
	}
	var left <-chan struct{}
	if r != nil {
		left = r.ctx.Done()
	}
	over := time.NewTimer(m.clock.Until(p.deadline))
	defer over.Stop()
	select {
	case <-space:
		return nil
	case <-left:
		return r.reason()
	case <-over.C:
		return blame(&sendError{ErrUnreachable, p.timeout(ErrQueueFull)}, p.link)
	case <-ctx.Done():
		return blame(&sendError{ErrUnreachable, fmt.Errorf("%w: %w", ErrQueueFull, ctx.Err())}, p.link)
	case <-m.ctx.Done():
		return ErrClosed
	}
}

// pinningFor returns what to do once a message has arrived. That is nothing in app mode, if the
// name is pinned already, and if the message is to a key that has not written.
func (m *Mesh) pinningFor(to identity.Login, byName bool) *pinning {
	pins := m.cfg.pins
	if m.cfg.authority != nil || to.User == "" {
		return nil
	}
	if byName {
		if _, pinned := pins.Lookup(to.User); pinned {
			return nil
		}
	} else if !pins.Answers(to) {
		return nil
	}
	return &pinning{pins: pins, byName: byName, tasks: &m.tasks}
}

// pooledBody is the payload in bytes from which a message's copy is kept for reuse: with the
// largest messages, garbage collection took half of the time of a send.
const pooledBody = 4 << 10

var bodies = sync.Pool{New: func() any {
	b := make([]byte, 0, maxDirectFrame)
	return &b
}}

// await waits for the end of a send that ends with ctx; nothing else watches ctx for it.
func (p *sending) await(ctx context.Context) (Receipt, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		p.abandon(ctx.Err())
		<-p.done
	}
	return p.result()
}

func kindToWire(k Kind) wire.Kind {
	if k == Text {
		return wire.Kind_KIND_TEXT
	}
	return wire.Kind_KIND_BINARY
}

// kindFromWire also reports whether a user may send that kind.
func kindFromWire(k wire.Kind) (Kind, bool) {
	switch k {
	case wire.Kind_KIND_BINARY:
		return Binary, true
	case wire.Kind_KIND_TEXT:
		return Text, true
	}
	return 0, false
}

var errRetired = errors.New("lane retired")
