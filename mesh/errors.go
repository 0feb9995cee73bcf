package mesh

import (
	"errors"
	"fmt"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Errors that callers branch on, with errors.Is. Three of them say how a send ended:
// [ErrUnreachable] (the peer has seen nothing), [ErrUnconfirmed] (nobody knows) and [ErrRefused]
// (the peer said no). If a context or Close ended the send, the error is that as well: both
// errors.Is(err, context.Canceled) and errors.Is(err, ErrUnconfirmed) can be true.
var (
	// ErrClosed says that the mesh is closed, or was closed while the call waited. It is
	// [identity.ErrClosed].
	ErrClosed = identity.ErrClosed

	// ErrUnreachable says that the message was certainly not sent: no byte of it was ever written,
	// or the peer said that it took nothing from the stream it was written to. Sending it again is
	// safe. It is [identity.ErrUnreachable].
	ErrUnreachable = identity.ErrUnreachable

	// ErrUnconfirmed says that the message was written at least once and that no answer came in
	// time, or that the peer has restarted since. It may have been delivered, and if so, only once.
	ErrUnconfirmed = errors.New("delivery unconfirmed")

	// ErrDisconnected says that a send failed while this node's own link was known to be down (see
	// [WithLink]), so it says nothing about the receiver. The error is also ErrUnreachable or
	// ErrUnconfirmed. A broadcast that nobody has acknowledged is ErrUnconfirmed too.
	ErrDisconnected = errors.New("this node is disconnected")

	// ErrRefused says that the receiver got the message and refused it; [RefusedError] says why.
	ErrRefused = errors.New("refused by the receiver")

	ErrEmpty      = errors.New("empty message")
	ErrQueueFull  = errors.New("too much waits to be sent already") // here; a receiver refuses with QueueFull
	ErrSelf       = errors.New("message to oneself")
	ErrNotText    = errors.New("text is not valid UTF-8")
	ErrNotMember  = errors.New("no such member in the room")
	ErrNoIdentity = errors.New("no identity yet: set a user, or log in, first")
	ErrJoined     = errors.New("already joined")
	ErrLeft       = errors.New("room left")

	// ErrNotLoggedIn is [identity.ErrNotLoggedIn].
	ErrNotLoggedIn = identity.ErrNotLoggedIn
	// ErrOpenMode is [identity.ErrOpenMode].
	ErrOpenMode = identity.ErrOpenMode
)

// SizeError reports a message over the limit. Nothing was sent.
type SizeError struct {
	Size, Limit int // bytes; text counts in UTF-8 bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("message of %d bytes is over the limit of %d", e.Size, e.Limit)
}

// CrowdError reports a room with more members than a confirmed broadcast may have. Nothing was
// sent.
type CrowdError struct {
	Members, Limit int // including the caller
}

func (e *CrowdError) Error() string {
	return fmt.Sprintf("a room of %d members is over the limit of %d for a confirmed broadcast", e.Members, e.Limit)
}

// RefusedError is the receiver's refusal. The message is not in the receiver's queue, and a repeat
// of the call is a new message. errors.Is(err, ErrRefused) is true, and for [NotMember] also
// errors.Is(err, ErrNotMember).
type RefusedError struct {
	Reason Reason
}

func (e *RefusedError) Error() string { return "refused by the receiver: " + e.Reason.String() }

// Is makes a RefusedError match [ErrRefused], and [ErrNotMember] where that is the reason.
func (e *RefusedError) Is(target error) bool {
	return target == ErrRefused || e.Reason == NotMember && target == ErrNotMember
}

// Reason is why a receiver refused a message. Later versions may add reasons: treat an unknown one
// as a plain refusal.
type Reason uint8

const (
	QueueFull    = Reason(wire.DirectFrame_QUEUE_FULL)    // its program reads too slowly
	NotLoggedIn  = Reason(wire.DirectFrame_NOT_LOGGED_IN) // outside rooms, the receiver or the sender is not logged in
	NotMember    = Reason(wire.DirectFrame_NOT_MEMBER)    // it is not in that room, or does not know the sender in it
	WrongUser    = Reason(wire.DirectFrame_WRONG_USER)    // it is not, or no longer, that user
	TooLong      = Reason(wire.DirectFrame_TOO_LONG)      // over its limit
	Malformed    = Reason(wire.DirectFrame_MALFORMED)     // empty, of an unknown kind, or text that is not UTF-8
	NoIdentity   = Reason(wire.DirectFrame_NO_IDENTITY)   // the sender has shown it no login statement
	RateExceeded = Reason(wire.DirectFrame_RATE)          // too many, too fast
)

var reasonText = map[Reason]string{
	QueueFull:    "queue full",
	NotLoggedIn:  "not logged in",
	NotMember:    "not a member",
	WrongUser:    "another user",
	TooLong:      "too long",
	Malformed:    "malformed",
	NoIdentity:   "no identity shown",
	RateExceeded: "rate exceeded",
}

func (r Reason) String() string {
	if s, ok := reasonText[r]; ok {
		return s
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// blame returns how a send has failed, and adds that this node is disconnected if that may be why.
func blame(err error, linkDown func() bool) error {
	if err == nil || !linkDown() || !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrUnconfirmed) {
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrDisconnected)
}

// sendError is how an accepted send failed. outcome is ErrUnreachable or ErrUnconfirmed; cause, if
// any, is what ended it (a context's error, ErrClosed, the last failure to connect).
type sendError struct {
	outcome error
	cause   error
}

func (e *sendError) Error() string {
	text := e.outcome.Error()
	if e.outcome == ErrUnreachable {
		text += ", nothing was sent"
	}
	if e.cause == nil {
		return text
	}
	return text + ": " + e.cause.Error()
}

func (e *sendError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.outcome}
	}
	return []error{e.outcome, e.cause}
}
