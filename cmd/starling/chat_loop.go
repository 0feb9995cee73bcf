package main

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
	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// Why a chat ended, as its last event says.
const (
	byeQuit      = "quit"
	byeEOF       = "eof"
	byeSignal    = "signal"
	byeDisplaced = "displaced"
	byeFailed    = "failed"
)

// errDisplaced ends a chat whose user has logged in elsewhere.
var errDisplaced = &cli.CodedError{Code: cli.ExitDisplaced, Err: errors.New("the same user has logged in on another device")}

// roomError says that a room could not be entered.
type roomError struct{ err error }

func (e *roomError) Error() string { return e.err.Error() } // which names the room
func (e *roomError) Unwrap() error { return e.err }

// chat is one user talking: typed lines in, events out. Its fields belong to run's goroutine.
type chat struct {
	node  *node.Node
	pass  *pass // nil: open mode
	view  view
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

func newChat(n *node.Node, v view) *chat {
	c := &chat{node: n, view: v, sends: newSends(func(f func()) { rescued(v, f) }), ended: make(chan endedRoom), failed: make(chan error, 1)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// run logs in, enters the rooms that about names, and executes the typed lines until one of them is
// /quit, the lines end, ctx ends, or the chat cannot go on. Close must follow. input begins to read
// the lines, until its context has ended.
func (c *chat) run(ctx context.Context, user string, about ready, input func(context.Context) <-chan typed) (reason string, err error) {
	if err := c.node.Login(ctx, user, c.pass.loginOptions()...); err != nil {
		return c.verdict(ctx, err)
	}
	about.head, about.Login = newHead("ready", ""), c.node.Self()
	about.Addrs = shareable(addrStrings(c.node.Addrs()))
	c.show(about)
	c.background(func() { c.pump(c.node.Recv, nil) })
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
			reason = byeQuit
			if errors.Is(err, io.EOF) {
				reason = byeEOF
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
func (c *chat) verdict(ctx context.Context, err error) (string, error) {
	switch {
	case ctx.Err() != nil:
		return byeSignal, context.Cause(ctx)
	case errors.Is(err, errDisplaced):
		return byeDisplaced, err
	}
	return byeFailed, err
}

// next waits for a typed line, and meanwhile handles rooms that end by themselves.
func (c *chat) next(ctx context.Context, lines <-chan typed) (typed, error) {
	for {
		select {
		case l := <-lines:
			return l, l.end
		case e := <-c.ended:
			if !slices.Contains(c.rooms, e.room) {
				continue // we left it ourselves
			}
			c.forget(e.room)
			c.show(trouble{newHead("error", e.room.Name()), 0, "room", endWords(e.room.Name(), e.err)})
		case err := <-c.failed:
			return typed{}, err
		case <-ctx.Done():
			return typed{}, ctx.Err()
		}
	}
}

var errQuit = errors.New("quit")

// obey executes a typed line. An error that it returns ends the chat; mistakes in the line are only
// shown.
func (c *chat) obey(ctx context.Context, l typed, n int) error {
	wrong := func(err error) {
		c.show(trouble{newHead("error", ""), n, "line", prose.Plain(err)})
	}
	if l.err != nil {
		wrong(l.err)
		return nil
	}
	in, err := parseLine(l.text)
	if err != nil {
		wrong(err)
		return nil
	}
	in.line = n
	if l.room != "" {
		c.goTo(l.room)
	}
	switch in.verb {
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
		if err := c.join(ctx, in.name); err != nil {
			if ctx.Err() != nil {
				return err
			}
			c.show(trouble{newHead("error", ""), n, "room", prose.Plain(err)})
		}
	case "leave":
		if c.here == nil {
			wrong(errNoRoom)
			return nil
		}
		c.sends.settle(ctx) // lines typed before show their results before this one
		return c.leave(ctx, c.here)
	case "token":
		if err := c.useToken(in.name, n); err != nil {
			c.show(trouble{newHead("error", ""), n, "token", prose.Plain(err)})
		}
	case "help":
		c.show(help{newHead("help", ""), chatHelp()})
	case "quit":
		return errQuit
	}
	return nil
}

// settle waits for the results of everything that was sent. If that takes a while, it shows why it
// waits.
func (c *chat) settle(ctx context.Context) bool {
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if c.sends.settle(soon) {
		return true
	}
	if ctx.Err() == nil {
		c.show(waiting{newHead("waiting", ""), c.sends.pending()})
	}
	return c.sends.settle(ctx)
}

// join enters a room, and makes it the current one.
func (c *chat) join(ctx context.Context, name string) error {
	for _, r := range c.rooms {
		if r.Name() == name {
			c.here = r
			c.show(c.enteredNow(r))
			return nil
		}
	}
	r, err := c.node.Join(ctx, name, c.pass.joinOptions()...)
	if err != nil {
		return &roomError{err}
	}
	c.rooms = append(c.rooms, r)
	c.here = r
	c.show(c.enteredNow(r))
	c.background(func() { c.pump(r.Recv, r) })
	return nil
}

// goTo makes a room the current one. If the room was not entered, there is no current room then, so
// that what is meant for it goes nowhere else.
func (c *chat) goTo(name string) {
	c.here = nil
	for _, r := range c.rooms {
		if r.Name() == name {
			c.here = r
		}
	}
}

// leave leaves a room and goes to the one entered last before it, if any.
func (c *chat) leave(ctx context.Context, r *mesh.Room) error {
	c.forget(r)
	err := r.Leave(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.show(trouble{newHead("error", r.Name()), 0, "room", prose.Plain(err)})
	}
	c.show(exited{newHead("exited", r.Name())})
	return nil
}

func (c *chat) forget(r *mesh.Room) {
	c.rooms = slices.DeleteFunc(c.rooms, func(o *mesh.Room) bool { return o == r })
	if c.here == r {
		c.here = nil
		if len(c.rooms) > 0 {
			c.here = c.rooms[len(c.rooms)-1]
		}
	}
}

// enteredNow returns an event that says that a room is ready, and who is in it.
func (c *chat) enteredNow(r *mesh.Room) entered {
	ev := entered{head: newHead("entered", r.Name()), Members: c.members(r)}
	self := c.node.Self()
	for _, m := range r.Members() {
		if m.Login == self {
			ev.Role = m.Role
		}
	}
	return ev
}

// background runs f on a goroutine of the chat. If f panics, the terminal is restored first.
func (c *chat) background(f func()) { c.pumps.Go(func() { rescued(c.view, f) }) }

// members returns the other members of a room.
func (c *chat) members(r *mesh.Room) []mesh.Member {
	self := c.node.Self()
	others := []mesh.Member{}
	for _, m := range r.Members() {
		if m.Login != self {
			others = append(others, m)
		}
	}
	return others
}

func (c *chat) who() {
	w := who{head: newHead("who", ""), Members: []mesh.Member{}, Online: []identity.Login{}}
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
func (c *chat) pump(recv func(context.Context) (mesh.Event, error), room *mesh.Room) {
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
		c.show(ev)
		if ending, ok := ev.(*mesh.TokenExpiring); ok {
			c.background(func() { c.renew(ending, room) })
		}
		if out, ok := ev.(*node.LoggedOut); ok && out.Reason == node.Duplicate {
			c.fail(errDisplaced)
		}
	}
}

// show shows an event to the user. If output fails, the chat ends.
func (c *chat) show(event any) {
	if err := c.view.show(event); err != nil {
		c.fail(fmt.Errorf("standard output: %w", err))
	}
}

func (c *chat) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

// close leaves the rooms, logs out and closes the node. It returns when all goroutines but the
// reader of lines have ended.
func (c *chat) close() error {
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
