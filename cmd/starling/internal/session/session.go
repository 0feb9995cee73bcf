package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// Why a chat ended, as its last event says.
const (
	ByeQuit     = "quit"
	ByeEOF      = "eof"
	ByeSignal   = "signal"
	ByeReplaced = "replaced"
	ByeFailed   = "failed"
)

// errReplaced ends a chat whose user has logged in elsewhere.
var errReplaced = &cli.CodedError{Code: cli.ExitReplaced, Err: errors.New("the same user has logged in on another device")}

// RoomError says that a room could not be entered.
type RoomError struct{ err error }

func (e *RoomError) Error() string { return e.err.Error() } // which names the room
func (e *RoomError) Unwrap() error { return e.err }

// Session is one user talking: typed lines in, events out. Its fields belong to Run's goroutine.
type Session struct {
	node  *node.Node
	pass  *Pass // nil: open mode
	view  View
	sends *sends
	rooms []*mesh.Room // entered, in this order
	here  *mesh.Room   // the current one; nil: none

	ended chan endedRoom // rooms whose events have ended
	// failed holds the first error after which the chat cannot go on.
	failed chan error
	pumps  sync.WaitGroup
	stop   context.CancelFunc // ends the pumps
	ctx    context.Context    // of pumps and of messages under way: it outlives the typed lines
}

type endedRoom struct {
	room *mesh.Room
	err  error
}

// New returns a session of a node, shown by v. token is nil in open mode. Close closes the node.
func New(n *node.Node, v View, token *Pass) *Session {
	c := &Session{node: n, view: v, pass: token, sends: newSends(v.Guard), ended: make(chan endedRoom), failed: make(chan error, 1)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Run logs in, enters the rooms that about names, and executes the typed lines until one of them is
// /quit, the lines end, ctx ends, or the chat cannot go on. Close must follow. input begins to read
// the lines, until its context has ended.
func (c *Session) Run(ctx context.Context, user string, about Ready, input func(context.Context) <-chan Typed) (reason string, err error) {
	if err := c.node.Login(ctx, user, c.pass.loginOptions()...); err != nil {
		return c.verdict(ctx, err)
	}
	about.Head, about.Login = NewHead("ready", ""), c.node.Self()
	about.Addrs = shareable(addrStrings(c.node.Addrs()))
	c.show(about)
	c.Background(func(context.Context) { c.pump(c.node.Recv, nil) })
	for _, name := range about.Rooms {
		if err := c.join(ctx, name); err != nil {
			return c.verdict(ctx, err)
		}
	}
	c.here = c.rooms[0]

	lines := input(c.ctx)
	for n := 1; ; n++ {
		l, err := c.next(ctx, lines)
		if err == nil {
			err = c.obey(ctx, l, n)
		}
		switch {
		case errors.Is(err, errQuit), errors.Is(err, io.EOF):
			reason = ByeQuit
			if errors.Is(err, io.EOF) {
				reason = ByeEOF
			}
			if !c.settle(ctx) {
				return c.verdict(ctx, context.Cause(ctx))
			}
			return reason, nil
		case err != nil:
			return c.verdict(ctx, err)
		}
	}
}

// verdict returns why a chat ended that ended with err.
func (c *Session) verdict(ctx context.Context, err error) (string, error) {
	switch {
	case ctx.Err() != nil:
		return ByeSignal, context.Cause(ctx)
	case errors.Is(err, errReplaced):
		return ByeReplaced, err
	}
	return ByeFailed, err
}

// next waits for a typed line, and meanwhile handles rooms that end by themselves.
func (c *Session) next(ctx context.Context, lines <-chan Typed) (Typed, error) {
	for {
		select {
		case l := <-lines:
			return l, l.End
		case e := <-c.ended:
			if !slices.Contains(c.rooms, e.room) {
				continue // we left it ourselves
			}
			c.forget(e.room)
			c.show(Trouble{NewHead("error", e.room.Name()), 0, CodeRoom, endWords(e.room.Name(), e.err)})
		case err := <-c.failed:
			return Typed{}, err
		case <-ctx.Done():
			return Typed{}, ctx.Err()
		}
	}
}

var errQuit = errors.New("quit")

// obey executes a typed line. An error that it returns ends the chat; mistakes in the line are only
// shown.
func (c *Session) obey(ctx context.Context, l Typed, n int) error {
	wrong := func(err error) {
		c.show(Trouble{NewHead("error", ""), n, CodeLine, err.Error()})
	}
	if l.err != nil {
		wrong(l.err)
		return nil
	}
	in, err := ParseLine(l.Text)
	if err != nil {
		wrong(err)
		return nil
	}
	in.line, in.user = n, l.User
	if l.Room != "" {
		c.goTo(l.Room)
	}
	switch in.Verb {
	case "say", "to", "msg":
		if !c.say(ctx, in) {
			return ctx.Err()
		}
	case "who":
		c.who()
	case "status":
		if !c.status(ctx, in) {
			return ctx.Err()
		}
	case "join":
		if err := c.join(ctx, in.Name); err != nil {
			if ctx.Err() != nil {
				return err
			}
			c.show(Trouble{NewHead("error", ""), n, CodeRoom, err.Error()})
		}
	case "leave":
		if c.here == nil {
			wrong(ErrNoRoom)
			return nil
		}
		c.sends.settle(ctx) // lines typed before show their results before this one
		return c.leave(ctx, c.here)
	case "kick", "ban", "unban", "dismiss":
		if !c.order(ctx, in) {
			return ctx.Err()
		}
	case "token":
		if err := c.useToken(in.Name, n); err != nil {
			c.show(Trouble{NewHead("error", ""), n, CodeToken, err.Error()})
		}
	case "help":
		c.show(Help{NewHead("help", ""), HelpLines()})
	case "quit":
		return errQuit
	}
	return nil
}

// settle waits for the results of everything that was sent. If that takes a while, it shows why it
// waits.
func (c *Session) settle(ctx context.Context) bool {
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if c.sends.settle(soon) {
		return true
	}
	if ctx.Err() == nil {
		c.show(Waiting{NewHead("waiting", ""), c.sends.pending()})
	}
	return c.sends.settle(ctx)
}

// join enters a room, and makes it the current one.
func (c *Session) join(ctx context.Context, name string) error {
	for _, r := range c.rooms {
		if r.Name() == name {
			c.here = r
			c.show(c.enteredNow(r))
			return nil
		}
	}
	r, err := c.node.Join(ctx, name, c.pass.joinOptions()...)
	if err != nil {
		return &RoomError{err}
	}
	c.rooms = append(c.rooms, r)
	c.here = r
	c.show(c.enteredNow(r))
	c.Background(func(context.Context) { c.pump(r.Recv, r) })
	return nil
}

// goTo makes a room the current one. If the room was not entered, there is no current room then, so
// that what is meant for it goes nowhere else.
func (c *Session) goTo(name string) {
	c.here = nil
	for _, r := range c.rooms {
		if r.Name() == name {
			c.here = r
		}
	}
}

// leave leaves a room and goes to the one entered last before it, if any.
func (c *Session) leave(ctx context.Context, r *mesh.Room) error {
	c.forget(r)
	err := r.Leave(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.show(Trouble{NewHead("error", r.Name()), 0, CodeRoom, err.Error()})
	}
	c.show(Exited{NewHead("exited", r.Name())})
	return nil
}

func (c *Session) forget(r *mesh.Room) {
	c.rooms = slices.DeleteFunc(c.rooms, func(o *mesh.Room) bool { return o == r })
	if c.here == r {
		c.here = nil
		if len(c.rooms) > 0 {
			c.here = c.rooms[len(c.rooms)-1]
		}
	}
}

// enteredNow returns an event that says that a room is ready, and who is in it.
func (c *Session) enteredNow(r *mesh.Room) Entered {
	ev := Entered{Head: NewHead("entered", r.Name()), Members: c.members(r)}
	self := c.node.Self()
	for _, m := range r.Members() {
		if m.Login == self {
			ev.Role = m.Role
		}
	}
	return ev
}

// Background runs f on a goroutine of the session, under the guard of its view. The context of f
// ends with the session.
func (c *Session) Background(f func(context.Context)) {
	c.pumps.Go(func() { c.view.Guard(func() { f(c.ctx) }) })
}

// members returns the other members of a room.
func (c *Session) members(r *mesh.Room) []mesh.Member {
	self := c.node.Self()
	others := []mesh.Member{}
	for _, m := range r.Members() {
		if m.Login != self {
			others = append(others, m)
		}
	}
	return others
}

func (c *Session) who() {
	w := Who{Head: NewHead("who", ""), Members: []mesh.Member{}, Online: []identity.Login{}}
	if c.here != nil {
		w.Room, w.Members = c.here.Name(), c.members(c.here)
	}
	for _, l := range c.node.Online() {
		if l != c.node.Self() {
			w.Online = append(w.Online, l)
		}
	}
	c.show(w)
}

// pump shows the events of one stream, until it ends. room is nil for the node's own stream.
func (c *Session) pump(recv func(context.Context) (mesh.Event, error), room *mesh.Room) {
	for {
		ev, err := recv(c.ctx)
		switch {
		case c.ctx.Err() != nil:
			return
		case err != nil && room == nil:
			c.fail(err)
			return
		case err != nil:
			select {
			case c.ended <- endedRoom{room, err}:
			case <-c.ctx.Done():
			}
			return
		}
		c.show(Heard{ev})
		if ending, ok := ev.(*mesh.TokenExpiring); ok {
			c.Background(func(context.Context) { c.renew(ending, room) })
		}
		if out, ok := ev.(*node.LoggedOut); ok && out.Reason == node.Replaced {
			c.fail(errReplaced)
		}
	}
}

// show shows an event to the user. If output fails, the chat ends.
func (c *Session) show(event Event) {
	if err := c.view.Show(event); err != nil {
		c.fail(fmt.Errorf("standard output: %w", err))
	}
}

func (c *Session) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

// Close leaves the rooms, logs out and closes the node. It returns when all goroutines but the
// reader of lines have ended.
func (c *Session) Close() error {
	err := c.node.Close()
	c.stop()
	c.sends.wait()
	c.pumps.Wait()
	return err
}

func addrStrings(addrs []ma.Multiaddr) []string {
	all := make([]string, len(addrs))
	for i, a := range addrs {
		all[i] = a.String()
	}
	return all
}
