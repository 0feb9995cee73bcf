package session

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/mesh"
)

// Ordered is the result of /kick, /ban, /unban or /dismiss, exactly one for each.
type Ordered struct {
	Head
	Line   int        `json:"line"`
	OK     bool       `json:"ok"`
	Order  string     `json:"order"` // kick, ban, unban or dismiss
	User   string     `json:"user,omitempty"`
	Until  *time.Time `json:"until,omitempty"` // of a ban; absent: it has no end
	Error  string     `json:"error,omitempty"`
	Detail string     `json:"detail,omitempty"`
}

func (Ordered) event() {}

// parseFor reads for how long a ban is: 10m, 2h, 7d; empty: for ever, which is zero.
func parseFor(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(n, 36500)) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, &timeError{text}
	}
	return d, nil
}

// timeError says that the time of a ban is none.
type timeError struct{ text string }

func (e *timeError) Error() string {
	return fmt.Sprintf("%s is no time: for example 10m, 2h or 7d", strconv.Quote(e.text))
}

// order gives an order for the current room. Its result is shown later. It returns false if ctx
// ended before.
func (c *Session) order(ctx context.Context, in Input) bool {
	room := c.here
	out := Ordered{Line: in.line, Order: in.Verb, User: NameAlone(in.Name)}
	if room == nil {
		out.Head = NewHead("order", "")
		out.Error, out.Detail = outcome(ErrNoRoom)
		c.show(out)
		return true
	}
	return c.sends.send(ctx, "orders in "+room.Name(), func() func() {
		var err error
		switch in.Verb {
		case "kick":
			err = room.Kick(c.ctx, out.User)
		case "ban":
			var until time.Time
			var d time.Duration
			if d, err = parseFor(in.Text); err != nil {
				break
			}
			if d > 0 {
				until = time.Now().Add(d).Truncate(time.Millisecond)
				out.Until = &until
			}
			err = room.Ban(c.ctx, out.User, until)
		case "unban":
			err = room.Unban(c.ctx, out.User)
		case "dismiss":
			err = room.Dismiss(c.ctx)
		}
		out.Head, out.OK = NewHead("order", room.Name()), err == nil
		if err != nil {
			out.Error, out.Detail = outcome(err)
			if words := orderWords(err); words != "" {
				out.Detail = words
			}
		}
		c.show(out)
		return nil
	})
}

// putOutWords says by whom this user was put out, how, and until when.
func putOutWords(out *mesh.PutOutError) string {
	by, until := "the issuer of the app", ""
	if out.By != "" {
		by = prose.Safe(out.By)
	}
	if !out.Until.IsZero() {
		until = " until " + out.Until.Local().Format("15:04 on 2 January 2006")
	}
	switch out.Kind {
	case mesh.ErrBanned:
		return "banned" + until + " by " + by
	case mesh.ErrDismissed:
		return "dismissed by " + by + ", you may join again"
	}
	return "kicked out by " + by + ", you may join again"
}

// orderWords says why an order failed, where a message that failed in the same way would be
// described in other words.
func orderWords(err error) string {
	switch {
	case errors.Is(err, mesh.ErrUnconfirmed):
		return "nobody has acknowledged it yet: it counts here, and reaches the others when they can be reached"
	case errors.Is(err, mesh.ErrNotMember):
		return "no such member in this room, or no such ban"
	}
	return ""
}

func (w *Wording) ordered(ev Ordered) Line {
	user := prose.Safe(ev.User)
	switch {
	case !ev.OK && ev.User == "":
		return Alarm("NOT DONE, line %d: %s", ev.Line, prose.SafeAside(ev.Detail))
	case !ev.OK:
		return Alarm("NOT DONE to %s, line %d: %s", user, ev.Line, prose.SafeAside(ev.Detail))
	case ev.Order == "kick":
		return Note("you have put %s out of %s", user, ev.Room)
	case ev.Order == "ban" && ev.Until != nil:
		return Note("you have banned %s from %s until %s", user, ev.Room, w.clock(*ev.Until))
	case ev.Order == "ban":
		return Note("you have banned %s from %s", user, ev.Room)
	case ev.Order == "unban":
		return Note("%s may join %s again", user, ev.Room)
	}
	return Note("you have dismissed %s", ev.Room)
}
