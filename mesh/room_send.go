package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Send sends a message to one member, given by name or as name#fingerprint, and returns when the member's
// node has it in its app's queue. See [Mesh.Send] for how it can fail; [ErrNotMember], at once, says that
// nobody of that name is in the room, and [ErrAmbiguous] that several are.
func (r *Room) Send(ctx context.Context, user string, data []byte, opts ...SendOption) (Receipt, error) {
	var id uint64 // one, however often
	for attempt := 0; ; attempt++ {
		p, err := r.send(ctx, user, data, opts, waits, id)
		if err != nil {
			return Receipt{ID: id}, err
		}
		id = p.ID()
		receipt, err := p.await(ctx)
		// A member that has not heard of us yet, or of our log-in, says so; our greeting and hello are on their way to it.
		var refused *RefusedError
		if attempt >= introductions || !errors.As(err, &refused) || refused.Reason != NotMember && refused.Reason != NoIdentity {
			return receipt, err
		}
		select {
		case <-time.After(introductionWait << attempt):
		case <-ctx.Done():
			return receipt, err
		}
	}
}

const (
	// introductions and introductionWait are how often and how long Send gives a member that it has just met
	// to take in its greeting: 50, 100, 200 and 400 ms.
	introductions    = 4
	introductionWait = 50 * time.Millisecond
)

// SendText is [Room.Send] of a text.
func (r *Room) SendText(ctx context.Context, user, text string, opts ...SendOption) (Receipt, error) {
	return r.Send(ctx, user, []byte(text), append(slices.Clip(opts), AsText())...)
}

// SendAsync is [Room.Send] for callers that pipeline: it returns when the message has been queued. See
// [Mesh.SendAsync]. It does not try again where Send does: a member that no connection led to before this call may
// refuse the first messages as [NotMember].
func (r *Room) SendAsync(ctx context.Context, user string, data []byte, opts ...SendOption) (*Pending, error) {
	return r.send(ctx, user, data, opts, watched, 0)
}

func (r *Room) send(ctx context.Context, user string, data []byte, opts []SendOption, w watching, id uint64) (*Pending, error) {
	var cfg sendConfig
	for _, o := range opts {
		o.applySend(&cfg)
	}
	if err := checkPayload(cfg.kind, data, r.mesh.cfg.maxMessage); err != nil {
		return nil, err
	}
	to, err := r.member(user)
	if err != nil {
		return nil, err
	}
	r.introduce(to.Peer)
	return r.mesh.sendDirect(ctx, to.Peer, outgoing{
		room: &r.tag, to: to.User, kind: cfg.kind, payload: data, mode: cfg.mode, watching: w, id: id,
	})
}

// member resolves an address to the one member it means.
func (r *Room) member(address string) (identity.Login, error) {
	addr, err := identity.ParseAddress(address)
	if err != nil {
		return identity.Login{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaving {
		return identity.Login{}, r.reasonLocked()
	}
	var found []identity.Login
	for _, s := range r.roster.seats {
		if s.present && s.User == addr.User && (addr.Fingerprint == "" || s.Key.Fingerprint() == addr.Fingerprint) {
			found = append(found, s.Login)
		}
	}
	switch {
	case len(found) == 0:
		return identity.Login{}, fmt.Errorf("%w %s: %s", ErrNotMember, r.name, addr)
	case len(found) > 1:
		return identity.Login{}, fmt.Errorf("%w: %s: name one of them as %s or %s", ErrAmbiguous, addr.User, found[0].Address(), found[1].Address())
	case found[0].Peer == r.mesh.host.ID():
		return identity.Login{}, ErrSelf
	}
	return found[0], nil
}

// takeDirect queues a message that a member has sent to this one alone, or says why not.
func (r *Room) takeDirect(from identity.Login, msg *DirectMessage, size int) wire.DirectFrame_Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.roster.devices[from.Peer]
	if r.leaving || s == nil || s.User != from.User || s.Key != from.Key {
		return wire.DirectFrame_NOT_MEMBER
	}
	r.noteLocked(r.roster.alive(time.Now(), from.Peer))
	if !s.present || r.door.holds(s.entry, time.Now()) != nil {
		return wire.DirectFrame_NOT_MEMBER
	}
	if !r.queue.PushDirect(msg, size) {
		return wire.DirectFrame_QUEUE_FULL
	}
	return wire.DirectFrame_REASON_UNSPECIFIED
}
