package node

import (
	"context"
	"slices"

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
//   - One of the last two, and also [mesh.ErrDisconnected], if this node's own link was known to be
//     down when the send ended: see [Node.Connection]. No send fails as not found meanwhile.
func (n *Node) Send(ctx context.Context, user string, data []byte, opts ...mesh.SendOption) (mesh.Receipt, error) {
	call, done, err := n.enter(ctx)
	if err != nil {
		return mesh.Receipt{}, err
	}
	defer done()
	receipt, err := n.mesh.SendTo(call, user, data, opts...)
	return receipt, ended(call, err)
}

// SendText is [Node.Send] of a text, which must be valid UTF-8.
func (n *Node) SendText(ctx context.Context, user, text string, opts ...mesh.SendOption) (mesh.Receipt, error) {
	return n.Send(ctx, user, []byte(text), append(slices.Clip(opts), mesh.AsText())...)
}

// SendAsync is [Node.Send] for callers that do not wait: it assigns the send its ID and returns at
// once, before the user is found. The handle reports the result later, once. Messages to one user
// and of one mode arrive in the order of the calls. ctx bounds all of it.
//
// Only what is refused here fails at once: with the errors that Send returns with no traffic, and
// with [mesh.ErrQueueFull] if 4096 messages or 8 MiB of that mode wait for that address already.
func (n *Node) SendAsync(ctx context.Context, user string, data []byte, opts ...mesh.SendOption) (mesh.Pending[mesh.Receipt], error) {
	return n.mesh.SendToAsync(ctx, user, data, opts...)
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
