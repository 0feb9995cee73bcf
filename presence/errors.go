package presence

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

var (
	// ErrClosed reports a call on a closed directory. errors.Is(err, net.ErrClosed) holds too.
	ErrClosed = fmt.Errorf("presence: %w", net.ErrClosed)
	// ErrLoggedIn reports a log-in while logged in. Nothing has changed.
	ErrLoggedIn = errors.New("presence: already logged in")
	// ErrNotLoggedIn reports a log-out while not logged in.
	ErrNotLoggedIn = errors.New("presence: not logged in")
	// ErrOpenMode reports a token where there are no issuers that could have signed it: see [WithAuthority].
	ErrOpenMode = errors.New("presence: a token in open mode: the issuers of the app are needed to judge it")
	// ErrOtherUser reports a user ID other than the one the node has: the first of join and log-in sets it.
	ErrOtherUser = errors.New("the node has another user ID")
	// ErrNotFound reports a user who is not logged in anywhere that could be asked.
	ErrNotFound = errors.New("user not found")
	// ErrUnreachable reports a user of whom a live log-in is known, to whom no connection could be made.
	ErrUnreachable = errors.New("user unreachable")
	// ErrNotConnected reports a peer without a connection.
	ErrNotConnected = errors.New("peer not connected")
	// ErrNoHello reports a connected peer with whom no hello was completed: it is silent, or no Starling node.
	ErrNoHello = errors.New("no hello from peer")
)

// ConflictError reports that a name cannot be resolved to one key. Send to one of Found exactly, by its Address.
type ConflictError struct {
	User   string
	Pinned identity.PublicKey // the key that the name is pinned to and that was not found; zero: not pinned
	Found  []identity.Login   // log-ins under that name with other keys, at least one
}

func (e *ConflictError) Error() string {
	var found []string
	for _, l := range e.Found {
		found = append(found, l.Address().String())
	}
	if e.Pinned.IsZero() {
		return fmt.Sprintf("presence: %s is the name of several users: %s", e.User, strings.Join(found, ", "))
	}
	return fmt.Sprintf("presence: %s is pinned to key %s, which is not there, but %s is",
		e.User, e.Pinned.Fingerprint(), strings.Join(found, ", "))
}

// RefusedError reports a peer with which no hello is possible. The connection to it was closed.
// errors.Is finds [identity.ErrOtherApp] for a peer of another app, [identity.ErrClock] where clocks disagree, and what is wrong
// with a log-in token, such as [identity.ErrTokenExpired]: at both sides.
type RefusedError struct {
	Peer   peer.ID
	Remote bool   // the peer refused us; otherwise we refused it
	Reason string // for people; a remote one is cut to 256 bytes and has no control characters
	Err    error  // nil for reasons that have no error of their own

	code  wire.Refusal_Code
	fault wire.TokenFault // of the log-in token
}

func (e *RefusedError) Error() string {
	if e.Remote {
		return fmt.Sprintf("presence: peer %s refuses us: %s", e.Peer, e.Reason)
	}
	return fmt.Sprintf("presence: peer %s refused: %s", e.Peer, e.Reason)
}

// Unwrap returns Err.
func (e *RefusedError) Unwrap() error { return e.Err }

func otherUser(has, wanted string) error {
	return fmt.Errorf("presence: %w: it is %q, not %q", ErrOtherUser, has, wanted)
}
