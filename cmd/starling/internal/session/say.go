package session

import (
	"context"
	"fmt"
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
		there := func() []identity.Login {
			all := c.node.Online() // a name that one of these has is not a member's alone
			for _, m := range room.Members() {
				all = append(all, m.Login)
			}
			return all
		}
		start = c.direct(s, in, there, func(to string) (mesh.Receipt, error) { return room.Send(c.ctx, to, text, mesh.AsText()) })
	case "msg":
		target, s.To = "user "+NameAlone(in.Name), in.Name
		start = c.direct(s, in, c.node.Online, func(to string) (mesh.Receipt, error) { return c.node.Send(c.ctx, to, text, mesh.AsText()) })
	}
	return c.sends.send(ctx, target, start)
}

// meaning is whom a typed name means. That is settled when it is typed: the message may have to
// wait for others, and meanwhile another user may come who has the name.
type meaning struct {
	name  string
	user  identity.Login   // who is meant; zero: whom the node takes it for
	shown bool             // the person who typed it saw that
	all   []identity.Login // several users have the name, so it means none of them
}

// meant returns what a typed name means. It means the pinned key, or the user that it is shown for,
// or else the only one there who has it.
func (c *Session) meant(in Input, there []identity.Login) meaning {
	m := meaning{name: in.Name}
	if _, pinned := c.node.Pinned(in.Name); pinned || c.pass != nil || in.Name == c.node.Self().User {
		return m // the node knows
	}
	if m.user, m.shown = in.user, true; m.user.User == "" {
		m.user, m.shown = c.view.Shown(in.Name)
	}
	if !m.shown {
		return among(in.Name, there)
	}
	return m
}

// among returns what a name means that is shown for nobody and pinned to no key.
func among(name string, there []identity.Login) meaning {
	m := meaning{name: name}
	for _, l := range there {
		if l.User == name && !slices.ContainsFunc(m.all, func(o identity.Login) bool { return o.Key == l.Key }) {
			m.all = append(m.all, l)
		}
	}
	if len(m.all) == 1 {
		m.user, m.all = m.all[0], nil
	}
	return m
}

// address returns what to send to when the message's turn has come. While the user who is meant is
// the only one there who has the name, that is the name: the node checks it, and pins it. Otherwise
// the key goes with the name, so that it cannot reach another key. If another user is there, that
// is so only for a name that was shown for its user: the node may have refused any other.
func (m meaning) address(there []identity.Login) (string, error) {
	if len(m.all) > 0 {
		return "", &identity.ConflictError{User: m.name, Found: m.all}
	}
	if m.user.User == "" {
		return m.name, nil
	}
	now := among(m.name, there)
	switch {
	case now.user.User != "" && now.user.Key == m.user.Key:
		return m.name, nil
	case now.user.User != "" && !m.shown:
		return "", &identity.ConflictError{User: m.name, Found: []identity.Login{m.user, now.user}}
	case len(now.all) > 0 && !m.shown:
		return "", &identity.ConflictError{User: m.name, Found: now.all}
	}
	return m.user.Address().String(), nil
}

// NameAlone returns an address without its key. Messages typed for a name keep their order, with
// the key or without.
func NameAlone(address string) string {
	name, _, _ := strings.Cut(address, "#")
	return name
}

// direct sends to one user, and waits for the answer before it sends the next message to that user.
// A chat has no need to pipeline, and so a repeat of one message cannot overtake the next. there
// returns the users who may be meant.
func (c *Session) direct(s Sent, in Input, there func() []identity.Login, send func(to string) (mesh.Receipt, error)) func() func() {
	m := c.meant(in, there())
	return func() func() {
		var receipt mesh.Receipt
		to, err := m.address(there())
		if pin, pinned := c.node.Pinned(m.name); pinned && m.user.User != "" && pin != m.user.Key {
			err = &identity.ConflictError{User: m.name, Pinned: pin, Found: []identity.Login{m.user}}
		}
		switch {
		case err == nil:
			receipt, err = send(to)
		case s.Room != "":
			err = fmt.Errorf("%w: %w", mesh.ErrAmbiguous, err) // as a room says it
		}
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
