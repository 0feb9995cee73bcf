package node

import (
	"context"
	"errors"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// LoginOption is a setting of one log-in.
type LoginOption = presence.LoginOption

// LoginToken passes the token that allows this device to log in as this user. App mode needs one;
// open mode refuses it with [presence.ErrOpenMode].
func LoginToken(token string) LoginOption { return presence.WithLoginToken(token) }

// DeviceKey returns the public key of this device, to which its tokens are bound. A backend that
// issues them needs it.
func (n *Node) DeviceKey() identity.PublicKey { return n.keys.DeviceKey() }

// UpdateLoginToken replaces the token of the log-in, before it expires (see [TokenExpiring]) or
// afterwards. After a [Node.Login] that failed because of its token, it logs that user in. It waits
// for no other node. If the token is refused, with an [*identity.TokenError], the one before stays
// in place. Other errors are [presence.ErrNotLoggedIn], [presence.ErrOpenMode] and [ErrClosed].
func (n *Node) UpdateLoginToken(token string) error {
	_, done, err := n.enter(context.Background())
	if err != nil {
		return err
	}
	defer done()
	before := n.User()
	if err := n.presence.UpdateLoginToken(token); err != nil {
		return err
	}
	if user := n.User(); user != before {
		n.keepUser(user)
	}
	return nil
}

// Revoke takes a list of revocations that an issuer has signed, and spreads it: peers that have an
// older one get it by hello, and pass it on. It reports whether the list is newer than the one that
// this node had. If no issuer of the app has signed the list, Revoke returns
// [identity.ErrRevocations]; in open mode, [presence.ErrOpenMode].
func (n *Node) Revoke(list []byte) (newer bool, err error) {
	_, done, err := n.enter(context.Background())
	if err != nil {
		return false, err
	}
	defer done()
	if n.tokens == nil {
		return false, presence.ErrOpenMode
	}
	return n.tokens.Revoke(list)
}

// tokenReason returns the text of a token error for people.
func tokenReason(err error) string {
	if bad, ok := errors.AsType[*identity.TokenError](err); ok {
		return bad.Reason
	}
	return err.Error()
}
