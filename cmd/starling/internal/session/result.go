package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/presence"
)

// The codes of results that are shown in ways of their own.
const (
	CodeConflict  = "conflict"
	CodeAmbiguous = "ambiguous"
	CodeRefused   = "refused"
	CodeUnknown   = "unknown"
)

// outcomes maps every way in which a send can fail to its code, for programs, and its words. The
// first match counts: what is certain comes before what caused it. Empty words: the error's own.
var outcomes = []struct {
	is          func(error) bool
	code, words string
}{
	{as[*mesh.SizeError], "too_long", ""},
	{is(mesh.ErrEmpty), "empty", "an empty message is not sent"},
	{is(mesh.ErrSelf), "self", "that is you"},
	{is(mesh.ErrNotText), "not_text", "not valid UTF-8"},
	{as[*identity.IDError], "bad_id", ""},
	{as[*identity.AddressError], "bad_id", ""},
	{is(mesh.ErrAmbiguous), CodeAmbiguous, ""},
	{as[*identity.ConflictError], CodeConflict, ""},
	{as[*timeError], "bad_time", ""},
	{is(mesh.ErrNotModerator), "not_moderator", "you are no moderator of this room"},
	{is(mesh.ErrOutranked), "outranked", ""},
	{is(mesh.ErrOpenMode), "open_mode", "there are no moderators in open mode, where anybody may take any name"},
	{is(mesh.ErrNotMember), "not_member", "no such member in this room (outside rooms: /msg)"},
	{is(mesh.ErrRefused), CodeRefused, ""},
	{is(presence.ErrNotFound), "not_found", "nobody of that name is logged in within reach"},
	{is(identity.ErrNotLoggedIn), "not_logged_in", "not logged in"},
	{is(mesh.ErrLeft), "not_joined", "the room has been left"},
	{is(ErrNoRoom), "not_joined", ""},
	{is(mesh.ErrUnreachable), "not_sent", ""},
	{is(mesh.ErrUnconfirmed), CodeUnknown, "no answer in time: it may have arrived"},
	{is(net.ErrClosed), "closed", "closing"},
	{is(context.Canceled), "closed", "closing"},
}

// ErrNoRoom is the answer to a text for the current room when there is none.
var ErrNoRoom = errors.New("you are in no room: /join ROOM")

// outcome returns the code and the words of a failed send.
func outcome(err error) (code, words string) {
	for _, o := range outcomes {
		if o.is(err) {
			return o.code, cmp.Or(whoElse(err), o.words, err.Error())
		}
	}
	return "failed", err.Error()
}

// whoElse says which other users a name may mean, if that is why a send failed, and how to write to
// them. Otherwise it returns "".
func whoElse(err error) string {
	if conflict, ok := errors.AsType[*identity.ConflictError](err); ok {
		return conflict.Error()
	}
	if absent, ok := errors.AsType[*presence.NotFoundError](err); ok && len(absent.Others) > 0 {
		return fmt.Sprintf("%s is not logged in within reach, and %s is somebody else", absent.Address, identity.Addresses(absent.Others))
	}
	return ""
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// Result fills in how a send ended.
func (s Sent) Result(err error) Sent {
	s.OK = err == nil
	if err != nil {
		s.Error, s.Detail = outcome(err)
	}
	if refused, ok := errors.AsType[*mesh.RefusedError](err); ok {
		s.Reason = refused.Reason
	}
	return s
}

// Took says how long a delivery took, and whether it went by a relay.
func (s Sent) Took() string {
	if s.Relayed {
		return fmt.Sprintf("%v ms, by a relay", s.RTT)
	}
	return fmt.Sprintf("%v ms", s.RTT)
}

// Said returns the result in words, for a message that is not shown.
func (s Sent) Said() Line {
	if s.OK {
		return Note("%s", s)
	}
	return Alarm("%s", s)
}

// String returns the result in words.
func (s Sent) String() string {
	to := s.To
	if to == "" {
		to = s.Room
	}
	switch {
	case s.OK && s.Neighbours != nil && *s.Neighbours == 0:
		return "sent to " + to + ", where nobody else is connected yet"
	case s.OK && s.To == "":
		return "sent to " + to
	case s.OK:
		return fmt.Sprintf("delivered to %s in %s", to, s.Took())
	case s.Error == CodeUnknown:
		return fmt.Sprintf("UNKNOWN whether %s got line %d: %s", to, s.Line, s.Detail)
	case s.Error == CodeRefused:
		return fmt.Sprintf("REFUSED by %s, line %d: %s", to, s.Line, s.Detail)
	case to == "":
		return "NOT SENT: " + s.Detail
	}
	return fmt.Sprintf("NOT SENT to %s, line %d: %s", to, s.Line, s.Detail)
}
