package presence

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

var (
	// ErrClosed reports a call on a closed directory. It is [identity.ErrClosed].
	ErrClosed = identity.ErrClosed
	// ErrLoggedIn reports a log-in while logged in. Nothing was changed.
	ErrLoggedIn = errors.New("already logged in")
	// ErrNotLoggedIn is [identity.ErrNotLoggedIn].
	ErrNotLoggedIn = identity.ErrNotLoggedIn
	// ErrOpenMode reports a token in an app without issuers that could have signed it: see
	// [WithAuthority]. It is [identity.ErrOpenMode].
	ErrOpenMode = identity.ErrOpenMode
	// ErrOtherUser reports a user ID other than the node's own. The first join or log-in sets that
	// ID.
	ErrOtherUser = errors.New("the node has another user ID")
	// ErrNotFound reports a user who is not logged in anywhere that could be asked.
	ErrNotFound = errors.New("user not found")
	// ErrUnreachable reports a user whose log-in is known to be live, but whose device could not be
	// connected to. It is [identity.ErrUnreachable].
	ErrUnreachable = identity.ErrUnreachable
	// ErrNotConnected reports a peer that is not connected.
	ErrNotConnected = errors.New("peer not connected")
	// ErrNoHello reports a connected peer with which no hello was completed: it does not answer, or
	// is no Starling node.
	ErrNoHello = errors.New("no hello from peer")
)

// ConflictError reports that a name cannot be resolved to one key: see [identity.ConflictError].
type ConflictError = identity.ConflictError

// NotFoundError is the [ErrNotFound] of a search; errors.Is finds it.
type NotFoundError struct {
	Address identity.Address
	Others  []identity.Login // logins found under that name with a key other than the one asked for
}

func (e *NotFoundError) Error() string {
	if len(e.Others) == 0 {
		return fmt.Sprintf("%v: %s", ErrNotFound, e.Address)
	}
	return fmt.Sprintf("%v: %s; %s is somebody else", ErrNotFound, e.Address, identity.Addresses(e.Others))
}

// Unwrap returns [ErrNotFound].
func (e *NotFoundError) Unwrap() error { return ErrNotFound }

// HelloError reports a peer with which no hello is possible. The connection to it was closed. On
// both sides errors.Is finds [identity.ErrOtherApp] for a peer of another app, [identity.ErrClock]
// where clocks disagree, and the reason why a log-in token was refused, such as
// [identity.ErrTokenExpired].
type HelloError struct {
	Peer   peer.ID
	Remote bool   // the peer refused us; otherwise we refused it
	Reason string // for people; from a peer it is cut to 256 bytes and has no control characters
	Err    error  // nil for reasons without an error of their own

	code  wire.Refusal_Code
	fault wire.TokenFault // of the log-in token
}

func (e *HelloError) Error() string {
	if e.Remote {
		return fmt.Sprintf("peer %s refuses us: %s", e.Peer, e.Reason)
	}
	return fmt.Sprintf("peer %s refused: %s", e.Peer, e.Reason)
}

// Unwrap returns Err.
func (e *HelloError) Unwrap() error { return e.Err }

func otherUser(has, wanted string) error {
	return fmt.Errorf("%w: it is %q, not %q", ErrOtherUser, has, wanted)
}
