package node

import (
	"context"
	"iter"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// Status reports whether a user is online, and how that is known. The user is given as "alice", or
// as "alice#fingerprint" to name one user key exactly; it may be this node's own. Status answers
// within 5 s, and without a round trip for a connected user who was heard from in the last 5 s. A
// user is online by being logged in, not by being in a room.
//
// [presence.Offline] always rests on evidence; without any the answer is [presence.Unreachable]. In
// a split network, the directory on this side counts as evidence too. For 10 min after the split,
// nodes remember the users that they have lost, and report one on the other side as unreachable;
// after that as offline. A node that started after the split has lost nobody. Status needs a log-in
// here ([presence.ErrNotLoggedIn]). Other errors are those of [Node.Find] for a bad or ambiguous
// name, [ErrClosed], and the error of ctx.
func (n *Node) Status(ctx context.Context, user string) (presence.Status, error) {
	call, done, err := n.enter(ctx)
	if err != nil {
		return presence.Status{}, err
	}
	defer done()
	addr, err := identity.ParseAddress(user)
	if err != nil {
		return presence.Status{}, err
	}
	s, err := n.presence.Status(call, addr)
	return s, ended(call, err)
}

// Watch ranges over the status of a user: first the current one, then every change. Like
// [Node.Events] it ends silently when the node is closed; if ctx ends or [Node.Status] fails, the
// last pair has an error. An online user's device pushes its changes: a log-out shows at once, a
// crash within 10 s. See [presence.Directory.Watch].
func (n *Node) Watch(ctx context.Context, user string) iter.Seq2[presence.Status, error] {
	return func(yield func(presence.Status, error) bool) {
		call, done, err := n.enter(ctx)
		if err != nil {
			return // closed
		}
		defer done()
		addr, err := identity.ParseAddress(user)
		if err != nil {
			yield(presence.Status{}, err)
			return
		}
		for s, err := range n.presence.Watch(call, addr) {
			err = ended(call, err)
			if err != nil && n.tasks.Closing() || !yield(s, err) { // it logs out before it ends calls
				return
			}
		}
	}
}
