package main

import (
	"context"
	"fmt"
	"time"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// status answers /status.
type status struct {
	head
	Line   int             `json:"line"`
	OK     bool            `json:"ok"`
	User   string          `json:"user"` // as asked for
	State  string          `json:"state,omitempty"`
	Login  *identity.Login `json:"login,omitempty"`
	Source presence.Source `json:"source,omitempty"`
	AgeMS  *int64          `json:"age_ms,omitempty"`
	Error  string          `json:"error,omitempty"`
	Detail string          `json:"detail,omitempty"`
}

// status asks for the status of a user while typing goes on. It reports false if ctx ended before
// there was room for the question.
func (c *chat) status(ctx context.Context, in input) bool {
	return c.sends.send(ctx, "status "+in.name, func() func() {
		s, err := c.node.Status(c.ctx, in.name)
		c.show(statusOf(in, s, err))
		return nil
	})
}

func statusOf(in input, s presence.Status, err error) status {
	out := status{head: newHead("status", ""), Line: in.line, User: in.name}
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
	presence.Connected: "heard of %s ago",
	presence.Probed:    "asked just now",
	presence.Goodbye:   "logged out %s ago",
}

func (w *wording) status(ev status) line {
	if !ev.OK {
		return alarm("%s", prose.Safe(ev.Detail))
	}
	age := (time.Duration(*ev.AgeMS) * time.Millisecond).Round(100 * time.Millisecond)
	words, known := statusWords[ev.Source]
	switch {
	case ev.State == presence.Unreachable.String() && ev.Login != nil:
		words = fmt.Sprintf("logged in %s ago, and does not answer", age)
	case ev.State == presence.Unreachable.String():
		words = "not all who might know can be reached"
	case ev.State == presence.Offline.String() && !known:
		words = "nobody knows of a log-in"
	case ev.Source == presence.Connected, ev.Source == presence.Goodbye:
		words = fmt.Sprintf(words, age)
	}
	return note("%s is %s (%s)", ev.User, ev.State, words)
}
