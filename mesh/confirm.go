package mesh

import (
	"context"
	"slices"
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

// confirmation is an accepted confirmed broadcast, ended or not: what its [Pending] is about.
type confirmation struct {
	room        *Room
	publication publication // written before its batch is sealed
	done        chan struct{}

	// Guarded by the room's mutex.
	poll   *stay.Poll
	result Confirmation // once poll has ended
	err    error
}

func (p *confirmation) over() <-chan struct{} { return p.done }

func (p *confirmation) settle(uint64, uint32) (Confirmation, error) { return p.result, p.err }

func (p *confirmation) cut(_ uint64, cause error) (Confirmation, error) {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if p.poll.Ended() {
		return p.result, p.err
	}
	return p.snapshotLocked(p.room.stay.Ackers(p.poll.Last())), blame(&sendError{ErrUnconfirmed, cause}, p.room.mesh.cfg.linkDown)
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
	p, err := r.confirm(ctx, data, append(slices.Clip(opts), WithWaiting()))
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
	<-p.done
	return p.result, p.err
}

// PublishConfirmedAsync is [Room.PublishConfirmed] for callers that pipeline: it returns at once,
// as [Room.PublishAsync] does. Ctx bounds this call; only its deadline bounds the wait for
// receipts. A broadcast that has not ended takes some 100 bytes for each member. If ctx ends
// [Pending.Wait], it returns what is known so far, and the error is also [ErrUnconfirmed].
func (r *Room) PublishConfirmedAsync(ctx context.Context, data []byte, opts ...PublishOption) (Pending[Confirmation], error) {
	p, err := r.confirm(ctx, data, opts)
	if err != nil {
		return Pending[Confirmation]{}, err
	}
	return Pending[Confirmation]{id: p.publication.id, of: p}, nil
}

func (r *Room) confirm(ctx context.Context, data []byte, opts []PublishOption) (*confirmation, error) {
	var cfg publishConfig
	for _, o := range opts {
		o.applyPublish(&cfg)
	}
	if err := checkPayload(cfg.kind, data, r.mesh.cfg.maxMessage); err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.mesh.cfg.sendTimeout)
		defer cancel()
	}
	deadline, _ := r.mesh.clock.Deadline(ctx)
	p, err := r.askMembers(deadline)
	if err != nil {
		return nil, err
	}
	if _, err := r.outbox.add(ctx, kindToWire(cfg.kind), data, r.mesh.nextID, accept{wait: cfg.wait, confirm: p}); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stay.Await(p.poll)
	r.stay.EndPolls(r.why)
	return p, nil
}

// askMembers returns a confirmed broadcast that waits for the receipts of all members.
func (r *Room) askMembers(deadline time.Time) (*confirmation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stay.Leaving() {
		return nil, r.reasonLocked()
	}
	if n := r.stay.Present(); n > MaxConfirmed {
		return nil, &CrowdError{n, MaxConfirmed}
	}
	p := &confirmation{room: r, done: make(chan struct{})}
	p.poll = r.stay.Poll(deadline, p.endLocked)
	return p, nil
}

// endLocked ends a broadcast with what is known. cause is what ended the wait early, or nil.
func (p *confirmation) endLocked(acked int, cause error) {
	p.result = p.snapshotLocked(acked)
	if cause != nil {
		p.err = blame(&sendError{ErrUnconfirmed, cause}, p.room.mesh.cfg.linkDown)
	}
	close(p.done)
}

// snapshotLocked returns what is known now. acked is how many neighbours have the broadcast.
func (p *confirmation) snapshotLocked(acked int) Confirmation {
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
func (p *confirmation) fail(err error) {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if p.room.stay.DropPoll(p.poll) {
		p.err = err
		p.result = p.snapshotLocked(0)
		close(p.done)
	}
}
