package mesh

import (
	"context"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// MaxConfirmed is how many members, this one included, a room may have for a confirmed broadcast.
const MaxConfirmed = 256

// Confirmation reports what is known of a broadcast for each member.
type Confirmation struct {
	Published
	// Members are the other members that were in the room when the broadcast was accepted, in the
	// order of [Room.Members].
	Members []Confirmed
}

// Confirmed is what is known of a broadcast for one member.
type Confirmed struct {
	Member identity.Login
	// Delivered says that the member's node has put the message into its program's event queue, in
	// the order of the feed, and has signed that. False means unknown: the member may have it, now
	// or later. A program that reads too slowly may still lose a delivered message from that queue,
	// and then gets [Lagged].
	Delivered bool
	After     time.Duration // from publishing until the receipt arrived; 0 if unknown
}

// Unknown returns the members for which nothing is known.
func (c Confirmation) Unknown() (logins []identity.Login) {
	for _, m := range c.Members {
		if !m.Delivered {
			logins = append(logins, m.Member)
		}
	}
	return logins
}

// PendingConfirmation is an accepted confirmed broadcast, ended or not. It ends exactly once. Its
// methods are safe for concurrent use.
type PendingConfirmation struct {
	room        *Room
	publication Publication // written before its batch is sealed
	done        chan struct{}

	// Guarded by the room's mutex.
	poll   *stay.Poll
	result Confirmation // once poll has ended
	err    error
}

// ID is the number of this send, the same as in its [Confirmation].
func (p *PendingConfirmation) ID() uint64 { return p.publication.id }

// Done returns a channel that is closed when there is a result.
func (p *PendingConfirmation) Done() <-chan struct{} { return p.done }

// Result waits for the end, which the deadline bounds, and returns what PublishConfirmed would.
func (p *PendingConfirmation) Result() (Confirmation, error) {
	<-p.done
	return p.result, p.err
}

// Wait is [PendingConfirmation.Result] bounded by ctx. If ctx ends first, it returns what is known
// so far and ctx's error, with [ErrUnconfirmed]; the broadcast goes on waiting for receipts.
func (p *PendingConfirmation) Wait(ctx context.Context) (Confirmation, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		p.room.mu.Lock()
		defer p.room.mu.Unlock()
		if !p.poll.Ended() {
			return p.snapshotLocked(p.room.stay.Ackers(p.poll.Last())), &sendError{ErrUnconfirmed, ctx.Err()}
		}
	}
	return p.result, p.err
}

// PublishConfirmed is [Room.Publish], but waits for the receipts of all members in the room and
// reports for each member whether it has the message. It waits until ctx's deadline, or for the
// time of [WithSendTimeout] if ctx has none. It returns sooner if all members have confirmed, or if
// those that have not have left the room. Unknown members are not an error.
//
// Receipts are signed by each member's device, so that nobody on their way can invent one. In rooms
// of more than 16 members they are gathered on their way and reach this node in a few frames. One
// receipt is for everything in the message's envelope.
//
// In a room of more than [MaxConfirmed] members it returns a *[CrowdError], and nothing is sent.
// Other refusals are those of Publish. If ctx is cancelled, or the room ends first, it returns what
// is known and [ErrUnconfirmed]. It does so too if the message still waits to be sent at the
// deadline.
func (r *Room) PublishConfirmed(ctx context.Context, data []byte, opts ...PublishOption) (Confirmation, error) {
	p, err := r.PublishConfirmedAsync(ctx, data, opts...)
	if err != nil {
		return Confirmation{}, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		r.mu.Lock()
		r.stay.EndPoll(p.poll, ctx.Err())
		r.mu.Unlock()
	}
	return p.Result()
}

// PublishConfirmedAsync is [Room.PublishConfirmed] for callers that pipeline: it returns when the
// message has been queued. Ctx bounds this call; only its deadline bounds the wait for receipts. A
// broadcast that has not ended takes some 100 bytes for each member.
func (r *Room) PublishConfirmedAsync(ctx context.Context, data []byte, opts ...PublishOption) (*PendingConfirmation, error) {
	var cfg publishConfig
	for _, o := range opts {
		o.applyPublish(&cfg)
	}
	if err := checkPayload(cfg.kind, data, r.mesh.cfg.maxMessage); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(r.mesh.cfg.sendTimeout)
	if t, ok := ctx.Deadline(); ok {
		deadline = t
	}
	p, err := r.askMembers(deadline)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if _, err := r.outbox.add(ctx, kindToWire(cfg.kind), data, r.mesh.nextID, accept{confirm: p}); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stay.Await(p.poll)
	r.stay.EndPolls(r.why)
	return p, nil
}

// askMembers returns a confirmed broadcast that waits for the receipts of all members.
func (r *Room) askMembers(deadline time.Time) (*PendingConfirmation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stay.Leaving() {
		return nil, r.reasonLocked()
	}
	if n := r.stay.Present(); n > MaxConfirmed {
		return nil, &CrowdError{n, MaxConfirmed}
	}
	p := &PendingConfirmation{room: r, done: make(chan struct{})}
	p.poll = r.stay.Poll(deadline, p.endLocked)
	return p, nil
}

// endLocked ends a broadcast with what is known. cause is what ended the wait early, or nil.
func (p *PendingConfirmation) endLocked(acked int, cause error) {
	p.result = p.snapshotLocked(acked)
	if cause != nil {
		p.err = &sendError{ErrUnconfirmed, cause}
	}
	close(p.done)
}

// snapshotLocked returns what is known now. acked is how many neighbours have the broadcast.
func (p *PendingConfirmation) snapshotLocked(acked int) Confirmation {
	c := Confirmation{Published: Published{ID: p.publication.id}}
	for _, a := range p.poll.Asked() {
		c.Members = append(c.Members, Confirmed(a))
	}
	if b := p.publication.batch; p.poll.Sent() {
		c.Feed, c.Number, c.Neighbours, c.Acked = b.feed, b.first+uint64(p.publication.index), b.neighbours, acked
	}
	return c
}

// fail ends a broadcast that was never sealed.
func (p *PendingConfirmation) fail(err error) {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if p.room.stay.DropPoll(p.poll) {
		p.err = err
		p.result = p.snapshotLocked(0)
		close(p.done)
	}
}
