package identity

import (
	"errors"
	"net"
)

// Errors that several packages return. Packages mesh, presence and node name them too, and it makes
// no difference by which name errors.Is asks for one.
var (
	// ErrClosed reports a call on something that is closed, or was closed while the call waited. It
	// is a net.ErrClosed.
	ErrClosed error = closedError{}

	// ErrNotLoggedIn reports a call that needs a logged-in node: a send outside rooms, a question
	// for a status, a log-out.
	ErrNotLoggedIn = errors.New("not logged in")

	// ErrUnreachable reports a user whose device cannot be connected to. A send that returns it has
	// certainly sent nothing: sending again is safe.
	ErrUnreachable = errors.New("unreachable")

	// ErrOpenMode reports a token in open mode: without the issuers of the app nobody can check it.
	ErrOpenMode = errors.New("a token in open mode: the issuers of the app are needed to check it")
)

// closedError keeps net's text, which speaks of network connections, out of ours.
type closedError struct{}

func (closedError) Error() string { return "closed" }

func (closedError) Unwrap() error { return net.ErrClosed }
