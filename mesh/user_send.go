package mesh

import (
	"context"
	"errors"

	"github.com/starling-mesh/starling/identity"
)

// Finder is an [Identity] that finds users, for [Mesh.SendTo]. presence.Directory is one. All
// methods are safe for concurrent use.
type Finder interface {
	// Known returns the log-in that an address means if that can be told at once. known is false if
	// it takes a search. It waits for no peer.
	Known(to identity.Address) (login identity.Login, known bool, err error)
	// Locate returns the log-in that an address means, and searches for it until ctx ends.
	Locate(ctx context.Context, to identity.Address) (identity.Login, error)
}

var errNoFinder = errors.New("the mesh's identity finds no users")

// SendTo is [Mesh.Send] to a user that is given as "alice", or as "alice#fingerprint" to name one
// user key exactly. The mesh's Identity finds the user: it must be a [Finder]. If the user turns
// out to have moved to another device, the message follows.
//
// A bad address ([*identity.IDError], [*identity.AddressError]) fails at once, with no ID. If the
// user is not found, that is a result: the receipt has an ID, and the error is the Finder's. So it
// is if this node logs out before the message is sent ([ErrNotLoggedIn]).
func (m *Mesh) SendTo(ctx context.Context, user string, data []byte, opts ...SendOption) (Receipt, error) {
	p, err := m.sendTo(ctx, user, data, opts, waits)
	if err != nil {
		return Receipt{}, err
	}
	return p.await(ctx)
}

// SendToAsync is SendTo for callers that pipeline: it returns at once, before the user is found.
// See [Mesh.SendAsync]. Messages to one address and of one mode arrive in the order of the calls.
func (m *Mesh) SendToAsync(ctx context.Context, user string, data []byte, opts ...SendOption) (Pending[Receipt], error) {
	return pending(m.sendTo(ctx, user, data, opts, watched))
}

func (m *Mesh) sendTo(ctx context.Context, user string, data []byte, opts []SendOption, w watching) (*sending, error) {
	to, err := identity.ParseAddress(user)
	if err != nil {
		return nil, err
	}
	d := message{to: to.User, payload: data, sendConfig: sendSettings(opts), watching: w}
	if err := m.check(d); err != nil {
		return nil, err
	}
	if err := m.mayTalk(to); err != nil {
		return nil, err
	}
	return m.post(ctx, destinationKey{nil, to, d.mode}, d)
}

// mayTalk returns why this node may not send to a user outside rooms, or nil.
func (m *Mesh) mayTalk(to identity.Address) error {
	self := m.who.Self()
	switch {
	case self == nil || !self.LoggedInAt(m.clock.Now()):
		return ErrNotLoggedIn
	case to.Matches(self.User, self.UserKey):
		return ErrSelf
	case m.finder == nil:
		return errNoFinder
	}
	return nil
}

// post passes a checked message to its destination.
func (m *Mesh) post(ctx context.Context, key destinationKey, msg message) (_ *sending, err error) {
	p, now, err := m.admit(ctx, msg, key.room)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.direct.untake(len(msg.payload))
		}
	}()
	for {
		d, space, err := m.reserve(key, p.size)
		if err != nil {
			return nil, err
		}
		if space == nil {
			if err := d.accept(p, now); err != nil {
				return nil, err
			}
			break
		}
		if err := m.awaitSpace(ctx, p, msg, key.room, space); err != nil {
			return nil, err
		}
		now = m.clock.Now()
	}
	if msg.watching == watched && ctx.Done() != nil {
		p.watch(ctx)
	}
	return p, nil
}
