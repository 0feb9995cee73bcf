package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/presence"
)

// Send sends data to a user, outside rooms, and returns when the user's node has put it into its
// program's event queue. The user is given as "alice", or as "alice#fingerprint" to name one user
// key exactly. Both must be logged in. Send waits until ctx ends, or for the send timeout (see
// [mesh.WithSendTimeout]) if ctx has no deadline.
//
// Errors:
//   - Refused here, with no traffic: [*identity.IDError] and [*identity.AddressError] for a bad
//     user, [mesh.ErrEmpty], [*mesh.SizeError], [mesh.ErrNotText], [mesh.ErrSelf],
//     [mesh.ErrNotLoggedIn], [ErrClosed].
//   - No receiver: [presence.ErrNotFound], or a [*presence.ConflictError] if the name alone does
//     not say which user is meant. Then either the name is pinned to a key that is not there, while
//     another user of that name is; or it is not pinned, and several users have it or have written
//     to this node under it.
//   - Certainly not sent, since the user's device cannot be reached: [mesh.ErrUnreachable].
//   - Refused by the receiver: [*mesh.RefusedError].
//   - Unknown, since no answer came: [mesh.ErrUnconfirmed].
func (n *Node) Send(ctx context.Context, user string, data []byte, opts ...mesh.SendOption) (mesh.Receipt, error) {
	call, done, err := n.enter(ctx)
	if err != nil {
		return mesh.Receipt{}, err
	}
	defer done()
	if _, ok := call.Deadline(); !ok {
		var cancel context.CancelFunc
		call, cancel = context.WithTimeout(call, n.settings.SendTimeout)
		defer cancel()
	}
	to, err := n.resolve(call, user, data, opts)
	if err != nil {
		return mesh.Receipt{}, err
	}
	receipt, err := n.mesh.Send(call, to, data, opts...)
	if err != nil && movedOn(err) && call.Err() == nil {
		// The log-in that we knew is gone, and may be on another device now. Nothing was delivered,
		// so it is safe to repeat the send.
		if again, e := n.find(call, user); e == nil && again.Peer != to.Peer {
			to = again
			receipt, err = n.mesh.Send(call, to, data, opts...)
		}
	}
	if err != nil {
		err = ended(call, fmt.Errorf("send to %s: %w", user, err))
	}
	return receipt, err
}

// SendText is [Node.Send] of a text, which must be valid UTF-8.
func (n *Node) SendText(ctx context.Context, user, text string, opts ...mesh.SendOption) (mesh.Receipt, error) {
	return n.Send(ctx, user, []byte(text), append(slices.Clip(opts), mesh.AsText())...)
}

// SendAsync is [Node.Send] for callers that pipeline: it finds the user, which takes no time while
// the user is connected, queues the message and returns. Messages of one caller to one user keep
// their order. The handle reports the result later, once. ctx bounds all of it. If something fails
// before the message is queued, SendAsync returns that error itself.
func (n *Node) SendAsync(ctx context.Context, user string, data []byte, opts ...mesh.SendOption) (mesh.Pending[mesh.Receipt], error) {
	call, done, err := n.enter(ctx)
	if err != nil {
		return mesh.Pending[mesh.Receipt]{}, err
	}
	defer done()
	finding, cancel := context.WithTimeout(call, n.settings.SendTimeout)
	defer cancel()
	to, err := n.resolve(finding, user, data, opts)
	if err != nil {
		return mesh.Pending[mesh.Receipt]{}, err
	}
	p, err := n.mesh.SendAsync(ctx, to, data, opts...)
	if err != nil {
		return mesh.Pending[mesh.Receipt]{}, ended(call, fmt.Errorf("send to %s: %w", user, err))
	}
	return p, nil
}

// resolve checks what can be checked here, and finds the user.
func (n *Node) resolve(ctx context.Context, user string, data []byte, opts []mesh.SendOption) (identity.Login, error) {
	addr, err := identity.ParseAddress(user)
	if err != nil {
		return identity.Login{}, err
	}
	if err := n.checkPayload(data, opts); err != nil {
		return identity.Login{}, err
	}
	self := n.presence.Self()
	switch {
	case self == nil || !self.LoggedInAt(n.clock.Now()):
		return identity.Login{}, mesh.ErrNotLoggedIn
	case addr.Matches(self.User, self.UserKey):
		return identity.Login{}, mesh.ErrSelf
	}
	to, err := n.find(ctx, user)
	if err != nil {
		err = ended(ctx, fmt.Errorf("send to %s: %w", user, err))
	}
	return to, err
}

// checkPayload refuses, before any traffic, payloads that the mesh would refuse only after the user
// was found.
func (n *Node) checkPayload(data []byte, opts []mesh.SendOption) error {
	switch {
	case len(data) == 0:
		return mesh.ErrEmpty
	case len(data) > n.settings.MaxMessage:
		return &mesh.SizeError{Size: len(data), Limit: n.settings.MaxMessage}
	}
	for _, o := range opts {
		if _, text := o.(mesh.TextOption); text && !utf8.Valid(data) {
			return mesh.ErrNotText
		}
	}
	return nil
}

// movedOn reports whether err is one that a user may cause by having moved to another device, and
// after which nothing was delivered.
func movedOn(err error) bool {
	if refused, ok := errors.AsType[*mesh.RefusedError](err); ok {
		return refused.Reason == mesh.NotLoggedIn || refused.Reason == mesh.WrongUser
	}
	return errors.Is(err, mesh.ErrUnreachable)
}

func (n *Node) find(ctx context.Context, user string) (identity.Login, error) {
	addr, err := identity.ParseAddress(user)
	if err != nil {
		return identity.Login{}, err
	}
	found, err := n.presence.Find(ctx, addr)
	if err != nil {
		return identity.Login{}, err
	}
	return found.Login, nil
}

// Pinned returns the key that a user's name means here, and whether the name is pinned to a key.
//
// Outside rooms, [Node.Find] or a send to the name alone pins it to the only key that has it. In a
// room, a message to the name alone does so when it has arrived or may have. In both, so does a
// message to a key that has written to this node under the name. Until then, the name alone means
// nobody else; this lasts until the node is closed, while pins are kept in the data directory. In
// app mode no name is pinned.
func (n *Node) Pinned(user string) (identity.PublicKey, bool) {
	if n.tokens != nil {
		return identity.PublicKey{}, false
	}
	return n.pins.Lookup(user)
}

// Find looks a logged-in user up among connected peers, peers met before and the app's directory,
// and by asking connected peers. It then connects to the user's node to confirm the result. It
// returns [presence.ErrNotFound], [presence.ErrUnreachable] or a [*presence.ConflictError]. A name
// alone is then pinned to the key that was found: see [Node.Pinned].
func (n *Node) Find(ctx context.Context, user string) (presence.Found, error) {
	call, done, err := n.enter(ctx)
	if err != nil {
		return presence.Found{}, err
	}
	defer done()
	addr, err := identity.ParseAddress(user)
	if err != nil {
		return presence.Found{}, err
	}
	found, err := n.presence.Find(call, addr)
	return found, ended(call, err)
}

// Online returns the log-ins of the nodes that are connected to this one, sorted by name, key and
// peer. Its own is not among them.
func (n *Node) Online() []identity.Login { return n.presence.Online() }

// takeDirect is the mesh's inbox: messages outside rooms become events of the node. It does not
// block.
func (n *Node) takeDirect(msg *mesh.DirectMessage, size int) bool {
	n.presence.Heard(msg.From)
	return n.queue.PushDirect(msg, size)
}
