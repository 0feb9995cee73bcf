package node

import (
	"context"
	"fmt"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// SetUser sets the user of this node without logging in, which is enough to join rooms. The first
// call of SetUser or Login decides the name. Another name afterwards is refused with
// [presence.ErrOtherUser], and a bad one with an [*identity.IDError].
func (n *Node) SetUser(user string) error {
	_, done, err := n.enter(context.Background())
	if err != nil {
		return err
	}
	defer done()
	if err := n.presence.SetUser(user); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	n.keepUser(user)
	return nil
}

// Login logs the user in: from then on others find this node by the name and can send to it outside
// rooms. It waits for no other node: a node alone can log in. The newest log-in of a user counts;
// an earlier one on another device then ends with a [LoggedOut] event. Login returns
// [presence.ErrLoggedIn] while logged in, and the errors of [Node.SetUser].
//
// In app mode ([WithIssuers]) it needs a [LoginToken]. If the token is refused, it returns an
// [*identity.TokenError] that says why; [Node.UpdateLoginToken] with a good token then logs the
// user in.
func (n *Node) Login(ctx context.Context, user string, opts ...LoginOption) error {
	call, done, err := n.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := n.presence.Login(call, user, opts...); err != nil {
		return ended(call, fmt.Errorf("log in: %w", err))
	}
	n.keepUser(user)
	n.log.Info("logged in", "user", user)
	return nil
}

// keepUser keeps the user's name and log-in sequence for the next start.
func (n *Node) keepUser(user string) {
	if n.dir == nil {
		return
	}
	if err := n.dir.SetLastUser(user); err != nil {
		n.log.Warn("user not kept", "err", err)
	}
}

// Logout ends the log-in and informs connected peers, within 1 s. Rooms stay joined. It returns
// [presence.ErrNotLoggedIn] if the node is not logged in.
func (n *Node) Logout(ctx context.Context) error {
	call, done, err := n.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	return ended(call, n.logout(call))
}

func (n *Node) logout(ctx context.Context) error {
	user := n.User()
	if err := n.presence.Logout(ctx); err != nil {
		return fmt.Errorf("log out: %w", err)
	}
	n.loggedOut(user)
	return nil
}

// sayGoodbye tells the connected peers that this node closes, and logs out if it is logged in.
func (n *Node) sayGoodbye(ctx context.Context) {
	if user := n.User(); n.presence.Goodbye(ctx) {
		n.loggedOut(user)
	}
}

func (n *Node) loggedOut(user string) {
	n.queue.PushNotice(&LoggedOut{Header: Header{Type: TypeLoggedOut}, User: user, Reason: Logout})
	n.log.Info("logged out", "user", user)
}

// User returns the user's name; empty before [Node.SetUser] or [Node.Login].
func (n *Node) User() string { return n.Self().User }

// LastUser returns the user name last used with the data directory, for programs that ask for it
// only once. It is empty without a data directory and at the first start. LastUser does not set the
// user.
func (n *Node) LastUser() string {
	if n.dir == nil {
		return ""
	}
	return n.dir.LastUser()
}

// Self returns the node's own login. Before [Node.SetUser] or [Node.Login] its User is empty.
func (n *Node) Self() identity.Login {
	if st := n.presence.Self(); st != nil {
		return st.Login()
	}
	return identity.Login{Key: n.keys.UserKey(), Peer: n.host.ID()}
}

// LoggedIn reports whether the node is logged in. In app mode it stays true when the token has
// expired or was revoked, although other nodes then do not count the log-in and sends outside rooms
// fail with [mesh.ErrNotLoggedIn]: see [Node.UpdateLoginToken].
func (n *Node) LoggedIn() bool { return n.presence.LoggedIn() }

// Join enters a room as the user of [Node.Login] or [Node.SetUser], and returns when the room is
// ready: nothing published from then on is lost. See [mesh.Mesh.Join] for options and errors. It
// returns [mesh.ErrNoIdentity] if there is no user yet.
func (n *Node) Join(ctx context.Context, room string, opts ...mesh.JoinOption) (*mesh.Room, error) {
	call, done, err := n.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := n.mesh.Join(call, room, opts...)
	return r, ended(call, err)
}

// Enter is [Node.Join] for programs that do not wait: see [mesh.Mesh.Enter].
func (n *Node) Enter(ctx context.Context, room string, opts ...mesh.JoinOption) (*mesh.Room, error) {
	call, done, err := n.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := n.mesh.Enter(call, room, opts...)
	return r, ended(call, err)
}

// Room returns the room of that name if this node is in it.
func (n *Node) Room(name string) (*mesh.Room, bool) { return n.mesh.Room(name) }

// Rooms returns the rooms that this node is in, in no particular order.
func (n *Node) Rooms() []*mesh.Room { return n.mesh.Rooms() }
