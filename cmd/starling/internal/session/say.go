package session

import (
	"context"
	"slices"
	"strings"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// say hands a message to the mesh. Its result is shown later. It returns false if ctx ended before
// there was room for the message.
func (c *Session) say(ctx context.Context, in Input) bool {
	s := Sent{Line: in.line}
	room, text := c.here, []byte(in.Text)
	if room == nil && in.Verb != "msg" {
		s.Head = NewHead("sent", "")
		c.show(s.Result(ErrNoRoom))
		return true
	}
	var target string
	var start func() func() // accepts the message and returns what waits for its result, or nil
	switch in.Verb {
	case "say":
		target, s.Room = "room "+room.Name(), room.Name()
		start = func() func() {
			p, err := room.PublishAsync(c.ctx, text, mesh.AsText(), mesh.WithWaiting())
			if err != nil {
				c.tell(s, mesh.Receipt{}, err)
				return nil
			}
			return func() {
				done, err := p.Result()
				if err == nil {
					s.Neighbours = &done.Neighbours
				}
				c.tell(s, mesh.Receipt{ID: p.ID()}, err)
			}
		}
	case "to":
		target, s.Room, s.To = "room "+room.Name()+" "+NameAlone(in.Name), room.Name(), in.Name
		var there []identity.Login
		for _, m := range room.Members() {
			there = append(there, m.Login)
		}
		to := c.meant(in.Name, there)
		start = c.direct(s, func() (mesh.Receipt, error) { return room.Send(c.ctx, to, text, mesh.AsText()) })
	case "msg":
		target, s.To = "user "+NameAlone(in.Name), in.Name
		to := c.meant(in.Name, c.node.Online())
		start = c.direct(s, func() (mesh.Receipt, error) { return c.node.Send(c.ctx, to, text, mesh.AsText()) })
	}
	return c.sends.send(ctx, target, start)
}

// meant returns what to send to for a name that was typed. A name alone means the user that it is
// shown for: unless that user is there, the key goes with it, so that it cannot reach another key.
func (c *Session) meant(name string, there []identity.Login) string {
	shown, ok := c.view.Shown(name)
	if !ok || slices.ContainsFunc(there, func(l identity.Login) bool { return l.User == name && l.Key == shown.Key }) {
		return name
	}
	return shown.Address().String()
}

// NameAlone returns an address without its key. Messages typed for a name keep their order, with
// the key or without.
func NameAlone(address string) string {
	name, _, _ := strings.Cut(address, "#")
	return name
}

// direct sends to one user, and waits for the answer before it sends the next message to that user.
// A chat has no need to pipeline, and so a repeat of one message cannot overtake the next.
func (c *Session) direct(s Sent, send func() (mesh.Receipt, error)) func() func() {
	return func() func() {
		receipt, err := send()
		c.tell(s, receipt, err)
		return nil
	}
}

// tell shows how a send ended.
func (c *Session) tell(s Sent, receipt mesh.Receipt, err error) {
	s.Head = NewHead("sent", s.Room)
	s.ID, s.RTT, s.Relayed = receipt.ID, cli.ToMillis(receipt.RTT), receipt.Relayed
	if s.Login = receipt.To; s.Login.User != "" {
		s.Key = s.Login.Key.Fingerprint()
	}
	s.Pinned, _ = c.node.Pinned(NameAlone(s.To))
	c.show(s.Result(err))
}
