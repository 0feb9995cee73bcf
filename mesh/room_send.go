package mesh

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Send sends a message to one member, named by user name or as name#fingerprint, and returns when
// the member's node has put it into its app's queue. See [Mesh.Send] for how it can fail. If nobody
// of that name is in the room, it ends at once with [ErrNotMember]. To a member that does not know
// this node yet, it tries again for some 750 ms.
//
// In open mode a pinned name (see [WithPins]) means the pinned key and no other. A name that is not
// pinned is pinned to the member that got the message. If the name does not say which key is meant,
// Send ends at once with an [*identity.ConflictError]. That is also an ErrNotMember if the name is
// pinned and only others of that name are in the room. It is also an [ErrAmbiguous] if the name is
// not pinned and several members have it, or a user with another key has it who is connected and
// logged in, or has written to this node under it.
func (r *Room) Send(ctx context.Context, user string, data []byte, opts ...SendOption) (Receipt, error) {
	p, err := r.send(ctx, user, data, opts, waits)
	if err != nil {
		return Receipt{}, err
	}
	return p.await(ctx)
}

// SendText is [Room.Send] of a text.
func (r *Room) SendText(ctx context.Context, user, text string, opts ...SendOption) (Receipt, error) {
	return r.Send(ctx, user, []byte(text), append(slices.Clip(opts), AsText())...)
}

// SendAsync is [Room.Send] for callers that pipeline: it returns at once. See [Mesh.SendAsync].
// Messages to one address and of one mode arrive in the order of the calls.
func (r *Room) SendAsync(ctx context.Context, user string, data []byte, opts ...SendOption) (Pending[Receipt], error) {
	return pending(r.send(ctx, user, data, opts, watched))
}

func (r *Room) send(ctx context.Context, user string, data []byte, opts []SendOption, w watching) (*sending, error) {
	to, err := identity.ParseAddress(user)
	if err != nil {
		return nil, err
	}
	d := message{room: &r.tag, to: to.User, payload: data, sendConfig: sendSettings(opts), watching: w}
	if err := r.mesh.check(d); err != nil {
		return nil, err
	}
	if self := r.mesh.who.Self(); self != nil && to.Matches(self.User, self.UserKey) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.stay.Leaving() {
			return nil, r.reasonLocked()
		}
		return nil, ErrSelf
	}
	return r.mesh.post(ctx, destinationKey{r, to, d.mode}, d)
}

// whom is the user that an address has turned out to mean.
type whom struct {
	identity.Login
	byName bool // the name alone was given
}

// receiver returns the one member that an address means, and introduces this node to it. In open
// mode, a message whose receiver was known before, as was, is for the same user.
func (r *Room) receiver(now time.Time, addr identity.Address, was *identity.Login) (whom, error) {
	open := r.mesh.cfg.authority == nil
	again := open && was != nil
	byName := open && addr.Fingerprint == ""
	var key identity.PublicKey     // the key that the name means; zero: any
	var elsewhere []identity.Login // who has the name, in the room or not
	if byName && !again {
		var pinned bool
		if key, pinned = r.mesh.cfg.pins.Lookup(addr.User); !pinned {
			elsewhere = r.mesh.named(addr.User)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stay.Leaving() {
		return whom{}, errGone
	}
	var found, others []identity.Login
	for m := range r.stay.Logins() {
		switch {
		case !addr.Matches(m.User, m.Key) || again && m.Key != was.Key:
		case !key.IsZero() && m.Key != key:
			others = append(others, m)
		default:
			found = append(found, m)
		}
	}
	switch {
	case len(found) == 0 && len(others) > 0:
		return whom{}, fmt.Errorf("%w %s: %w", ErrNotMember, r.name, conflict(addr.User, key, others))
	case len(found) == 0:
		return whom{}, fmt.Errorf("%w %s: %s", ErrNotMember, r.name, addr)
	case found[0].Peer == r.mesh.host.ID():
		return whom{}, ErrSelf
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
		return whom{}, fmt.Errorf("%w: %w", ErrAmbiguous, conflict(addr.User, key, all))
	}
	r.stay.Introduce(now, all[0].Peer)
	return whom{all[0], byName}, nil
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
	if r.stay.Holding() {
		if !r.early.add(msg, size) {
			return wire.DirectFrame_QUEUE_FULL
		}
	} else if !r.queue.PushDirect(msg, size) {
		return wire.DirectFrame_QUEUE_FULL
	}
	return wire.DirectFrame_REASON_UNSPECIFIED
}
