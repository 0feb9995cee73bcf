package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// Send sends a message to one member, named by user name or as name#fingerprint, and returns when
// the member's node has put it into its app's queue. See [Mesh.Send] for how it can fail. It
// returns [ErrNotMember] at once if nobody of that name is in the room.
//
// In open mode a pinned name (see [WithPins]) means the pinned key and no other. A name that is not
// pinned is pinned to the member that got the message. If the name does not say which key is meant,
// Send returns an [*identity.ConflictError] at once. That is also an ErrNotMember if the name is
// pinned and only others of that name are in the room. It is also an [ErrAmbiguous] if the name is
// not pinned and several members have it, or a user with another key has it who is connected and
// logged in, or has written to this node under it.
func (r *Room) Send(ctx context.Context, user string, data []byte, opts ...SendOption) (Receipt, error) {
	var to whom
	var id uint64 // the same for all attempts
	for attempt := 0; ; attempt++ {
		p, err := r.send(ctx, user, &to, data, opts, waits, id)
		if err != nil {
			return Receipt{ID: id, To: to.Login}, err
		}
		id = p.id
		receipt, err := p.await(ctx)
		// A member that does not know us yet, or does not know that we are logged in, refuses with
		// one of these reasons. Our greeting and hello are on their way to it.
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
	// introductions and introductionWait are how often and how long Send waits for a member that it
	// has just met to take in its greeting: 50, 100, 200 and 400 ms.
	introductions    = 4
	introductionWait = 50 * time.Millisecond
)

// SendText is [Room.Send] of a text.
func (r *Room) SendText(ctx context.Context, user, text string, opts ...SendOption) (Receipt, error) {
	return r.Send(ctx, user, []byte(text), append(slices.Clip(opts), AsText())...)
}

// SendAsync is [Room.Send] for callers that pipeline: it returns when the message has been queued.
// See [Mesh.SendAsync]. It does not try again where Send does: a member to which there was no
// connection before this call may refuse the first messages as [NotMember].
func (r *Room) SendAsync(ctx context.Context, user string, data []byte, opts ...SendOption) (Pending[Receipt], error) {
	return pending(r.send(ctx, user, new(whom), data, opts, watched, 0))
}

// whom is the user that an address has turned out to mean.
type whom struct {
	identity.Login
	byName bool // the name alone was given
}

// send sends to the user that the address means. In open mode that is always the same key, if it is
// called again with the same to.
func (r *Room) send(ctx context.Context, user string, to *whom, data []byte, opts []SendOption, w watching, id uint64) (*sending, error) {
	var cfg sendConfig
	for _, o := range opts {
		o.applySend(&cfg)
	}
	if err := checkPayload(cfg.kind, data, r.mesh.cfg.maxMessage); err != nil {
		return nil, err
	}
	if err := r.member(user, to); err != nil {
		return nil, err
	}
	r.do(func(st *stay.Stay, now time.Time) { st.Introduce(now, to.Peer) })
	return r.mesh.sendDirect(ctx, to.Peer, outgoing{
		room: &r.tag, to: to.User, login: to.Login, byName: to.byName, kind: cfg.kind, payload: data, mode: cfg.mode, watching: w, id: id,
	})
}

// member resolves an address to the one member it means. If to already has a login, only that user
// is meant.
func (r *Room) member(address string, to *whom) error {
	addr, err := identity.ParseAddress(address)
	if err != nil {
		return err
	}
	open := r.mesh.cfg.authority == nil
	again := open && to.User != ""
	byName := open && addr.Fingerprint == ""
	var key identity.PublicKey // the key that the name means; zero: any
	var own bool
	var elsewhere []identity.Login // who has the name, in the room or not
	if byName && !again {
		self := r.mesh.who.Self()
		own = self != nil && self.User == addr.User
		var pinned bool
		if key, pinned = r.mesh.cfg.pins.Lookup(addr.User); !pinned {
			elsewhere = r.mesh.named(addr.User)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stay.Leaving() {
		return r.reasonLocked()
	}
	if own {
		return ErrSelf
	}
	var found, others []identity.Login
	for m := range r.stay.Logins() {
		switch {
		case !addr.Matches(m.User, m.Key) || again && m.Key != to.Key:
		case !key.IsZero() && m.Key != key:
			others = append(others, m)
		default:
			found = append(found, m)
		}
	}
	switch {
	case len(found) == 0 && len(others) > 0:
		return fmt.Errorf("%w %s: %w", ErrNotMember, r.name, conflict(addr.User, key, others))
	case len(found) == 0:
		return fmt.Errorf("%w %s: %s", ErrNotMember, r.name, addr)
	case found[0].Peer == r.mesh.host.ID():
		return ErrSelf
	}
	all := found
	if byName && !again {
		all = append(all, r.mesh.cfg.pins.Others(found[0])...)
		for _, l := range elsewhere {
			if l.Key != found[0].Key {
				all = append(all, l)
			}
		}
	}
	if len(all) > 1 {
		return fmt.Errorf("%w: %w", ErrAmbiguous, conflict(addr.User, key, all))
	}
	*to = whom{all[0], byName}
	return nil
}

// conflict returns the error for a name that several users have.
func conflict(user string, pinned identity.PublicKey, found []identity.Login) error {
	slices.SortFunc(found, func(a, b identity.Login) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	found = slices.CompactFunc(found, func(a, b identity.Login) bool { return a.Key == b.Key })
	return &identity.ConflictError{User: user, Pinned: pinned, Found: found}
}

// takeDirect queues a message that a member has sent to this one alone, or returns why not.
func (r *Room) takeDirect(from identity.Login, msg *DirectMessage, size int, first bool) wire.DirectFrame_Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stay.HearDirect(r.mesh.clock.Now(), from) {
		return wire.DirectFrame_NOT_MEMBER
	}
	if first {
		r.mesh.cfg.pins.Heard(from)
	}
	if !r.queue.PushDirect(msg, size) {
		return wire.DirectFrame_QUEUE_FULL
	}
	return wire.DirectFrame_REASON_UNSPECIFIED
}
