package session

import (
	"context"
	"fmt"
	"time"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// Status answers /status.
type Status struct {
	Head
	Line   int             `json:"line"`
	OK     bool            `json:"ok"`
	User   string          `json:"user"` // as asked for
	State  string          `json:"state,omitempty"`
	Login  *identity.Login `json:"login,omitempty"`
	Source presence.Source `json:"source,omitempty"`
	AgeMS  *int64          `json:"age_ms,omitempty"`
	Error  string          `json:"error,omitempty"`
	Detail string          `json:"detail,omitempty"`

	answer presence.Status
}

// status asks for the status of a user while typing goes on. It reports false if ctx ended before
// there was room for the question.
func (c *Session) status(ctx context.Context, in Input) bool {
	return c.sends.send(ctx, "status "+in.Name, func() func() {
		s, err := c.node.Status(c.ctx, in.Name)
		c.show(statusOf(in, s, err))
		return nil
	})
}

func statusOf(in Input, s presence.Status, err error) Status {
	out := Status{Head: NewHead("status", ""), Line: in.line, User: in.Name, answer: s}
	if err != nil {
		out.Error, out.Detail = outcome(err)
		return out
	}
	age := s.Age.Milliseconds()
	out.OK, out.State, out.Source, out.AgeMS = true, s.State.String(), s.Source, &age
	if s.Login.Peer != "" {
		out.Login = &s.Login
	}
	return out
}

// statusWords say how a status is known; %s is how long ago.
var statusWords = map[presence.Source]string{
	presence.Self:      "that is you",
	presence.Connected: "last heard from %s ago",
	presence.Probed:    "asked just now",
	presence.Goodbye:   "logged out %s ago",
}

func (w *Wording) status(ev Status) Line {
	if !ev.OK {
		return Alarm("%s", prose.SafeAside(ev.Detail))
	}
	s := ev.answer
	age := s.Age.Truncate(time.Millisecond).Round(100 * time.Millisecond)
	words, known := statusWords[s.Source]
	switch {
	case s.State == presence.Unreachable && ev.Login != nil:
		words = fmt.Sprintf("logged in %s ago, and does not answer", age)
	case s.State == presence.Unreachable:
		words = "not all who might know can be reached"
	case s.State == presence.Offline && !known:
		words = "nobody knows of a log-in"
	case s.Source == presence.Connected, s.Source == presence.Goodbye:
		words = fmt.Sprintf(words, age)
	}
	return Note("%s is %s (%s)", ev.User, s.State, words)
}
