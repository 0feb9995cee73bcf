package node

import (
	"context"
	"iter"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// Status says whether a user is online, and how that is known. The user is given as "alice", or as "alice#fingerprint" to name one user
// key exactly; it may be this node's own. It answers within 5 s, and without a round trip for a connected user who was heard of in the last
// 5 s. Being in a room is not being online: that is who is logged in.
//
// [presence.Offline] always rests on evidence; what cannot be told is [presence.Unreachable]. The directory on this side of a network
// that is split is evidence too: a user on the other side is unreachable for 10 min, as long as nodes mourn whom they have lost, and offline
// after that; a node that started after the split mourns nobody. It needs a log-in here
// ([presence.ErrNotLoggedIn]). Other errors are those of [Node.Find] for a bad or ambiguous name, [ErrClosed], and that of ctx.
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

// Watch ranges over the status of a user: as it is now, and every change, until ctx ends or the node is closed, which the last pair says.
// An online user's device pushes its changes: a log-out shows at once, a crash within 10 s. See [presence.Directory.Watch].
func (n *Node) Watch(ctx context.Context, user string) iter.Seq2[presence.Status, error] {
	return func(yield func(presence.Status, error) bool) {
		call, done, err := n.enter(ctx)
		if err != nil {
			yield(presence.Status{}, err)
			return
		}
		defer done()
		addr, err := identity.ParseAddress(user)
		if err != nil {
			yield(presence.Status{}, err)
			return
		}
		for s, err := range n.presence.Watch(call, addr) {
			if !yield(s, ended(call, err)) {
				return
			}
		}
	}
}
