package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// steps are what the demo shows, in order. Each relies on those before it.
func (c *cast) steps() []step {
	return []step{
		{"start", c.start},
		{"log-in", c.logIn},
		{"join", c.joinRoom},
		{"broadcast-text", c.broadcastText},
		{"broadcast-binary", c.broadcastBinary},
		{"to-one-member", c.toOneMember},
		{"outside-room", c.outsideRoom},
		{"forged-refused", c.forgedRefused},
		{"duplicate-log-in", c.duplicateLogIn},
		{"leave", c.leave},
		{"status", c.status},
		{"log-out", c.logOut},
		{"tokens", c.tokens},
	}
}

func (c *cast) start(ctx context.Context) (took time.Duration, detail string, err error) {
	c.ctx, c.stop = context.WithCancel(context.Background())
	keys, err := identity.GenerateKeys()
	if err != nil {
		return 0, "", err
	}
	if c.bobKey, err = identity.MarshalKey(keys.User); err != nil {
		return 0, "", err
	}
	begin := time.Now()
	if c.alice, err = c.newPlayer("alice"); err != nil {
		return 0, "", err
	}
	if c.bob, err = c.newPlayer("bob", node.WithUserKey(c.bobKey)); err != nil {
		return 0, "", err
	}
	if c.carol, err = c.newPlayer("carol"); err != nil {
		return 0, "", err
	}
	if err := errors.Join(c.bob.connect(ctx, c.alice), c.carol.connect(ctx, c.alice, c.bob)); err != nil {
		return 0, "", err
	}
	return time.Since(begin), "three nodes listen on 127.0.0.1 and are connected", nil
}

func (c *cast) logIn(ctx context.Context) (took time.Duration, detail string, err error) {
	begin := time.Now()
	all := []*player{c.alice, c.bob, c.carol}
	for _, p := range all {
		if err := p.Login(ctx, p.name); err != nil {
			return 0, "", fmt.Errorf("%s: %w", p.name, err)
		}
	}
	took = time.Since(begin)
	for _, p := range all {
		for _, o := range all {
			if o == p {
				continue
			}
			if err := p.awaitLogin(ctx, o); err != nil {
				return 0, "", err
			}
		}
	}
	return took, "alice, bob and carol are logged in and know each other's keys; nobody asked a server", nil
}

func (c *cast) joinRoom(ctx context.Context) (took time.Duration, detail string, err error) {
	begin := time.Now()
	all := []*player{c.alice, c.bob, c.carol}
	for _, p := range all {
		if err := c.join(ctx, p); err != nil {
			return 0, "", err
		}
	}
	for _, p := range all {
		for _, o := range all {
			if o == p {
				continue
			}
			_, err := awaitFor(ctx, p.inRoom, 0, "member "+o.name,
				func(ev *mesh.MemberJoined) bool { return ev.Member.Login == o.Self() })
			if err != nil {
				return 0, "", err
			}
		}
	}
	return time.Since(begin), "all three are in a room that none of them had to create, and see each other", nil
}

func (c *cast) broadcastText(ctx context.Context) (time.Duration, string, error) {
	took, err := c.broadcast(ctx, "Grüße an alle, 世界", mesh.Text)
	return took, "alice's text reached bob and carol, and not herself", err
}

func (c *cast) broadcastBinary(ctx context.Context) (time.Duration, string, error) {
	data := []byte{0, 0xff, 0xfe, 0xc3, 0x28, 0}
	for i := range 4096 {
		data = append(data, byte(i), byte(i>>8))
	}
	took, err := c.broadcast(ctx, string(data), mesh.Binary)
	return took, fmt.Sprintf("%s with NULs and invalid UTF-8 arrived unchanged, twice", prose.Count(len(data), "byte")), err
}

// broadcast makes alice publish a message, and checks that bob and carol receive exactly that, and
// alice nothing.
func (c *cast) broadcast(ctx context.Context, data string, kind mesh.Kind) (time.Duration, error) {
	marks := map[*player]int{}
	for _, p := range []*player{c.alice, c.bob, c.carol} {
		marks[p] = p.inRoom.mark()
	}
	var opts []mesh.PublishOption
	if kind == mesh.Text {
		opts = append(opts, mesh.AsText())
	}
	begin := time.Now()
	if _, err := c.alice.room.Publish(ctx, []byte(data), opts...); err != nil {
		return 0, err
	}
	var last time.Time
	for _, p := range []*player{c.bob, c.carol} {
		got, err := awaitFor(ctx, p.inRoom, marks[p], "message of alice", func(*mesh.Message) bool { return true })
		if err != nil {
			return 0, err
		}
		last = time.Now()
		if !bytes.Equal(got.Data, []byte(data)) || got.Kind != kind || got.From != c.alice.Self() {
			return 0, fmt.Errorf("%s got another message: %s of %s from %s", p.name, got.Kind, prose.Count(len(got.Data), "byte"), got.From)
		}
	}
	if ev, ok := first[*mesh.Message](c.alice.inRoom.after(marks[c.alice])); ok {
		return 0, fmt.Errorf("alice got her own message, number %d", ev.Number)
	}
	return last.Sub(begin), nil
}

// first returns the first event of one type.
func first[T mesh.Event](events []mesh.Event) (T, bool) {
	for _, ev := range events {
		if t, ok := ev.(T); ok {
			return t, true
		}
	}
	var none T
	return none, false
}

func (c *cast) toOneMember(ctx context.Context) (took time.Duration, detail string, err error) {
	bob, carol := c.bob.inRoom.mark(), c.carol.inRoom.mark()
	begin := time.Now()
	receipt, err := c.alice.room.SendText(ctx, "bob", "psst")
	if err != nil {
		return 0, "", err
	}
	took = time.Since(begin)
	got, err := awaitFor(ctx, c.bob.inRoom, bob, "message to him alone", func(*mesh.DirectMessage) bool { return true })
	if err != nil {
		return 0, "", err
	}
	if string(got.Data) != "psst" || got.From != c.alice.Self() || got.Room != roomName {
		return 0, "", fmt.Errorf("bob got %q from %s in room %q", got.Data, got.From, got.Room)
	}
	// A message from alice to carol comes after any that she could have sent her before.
	if _, err := c.alice.room.SendText(ctx, "carol", "you did not get the last one"); err != nil {
		return 0, "", err
	}
	marker, err := awaitFor(ctx, c.carol.inRoom, carol, "message to her alone", func(*mesh.DirectMessage) bool { return true })
	if err != nil {
		return 0, "", err
	}
	if string(marker.Data) == "psst" {
		return 0, "", errors.New("carol got what was for bob")
	}
	return took, fmt.Sprintf("bob's node acknowledged it after %v ms; carol saw nothing of it", cli.ToMillis(receipt.RTT)), nil
}

func (c *cast) outsideRoom(ctx context.Context) (took time.Duration, detail string, err error) {
	// A room without carol: in it she is not a member.
	aside, err := c.alice.Join(ctx, sideRoom)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, aside.Leave(ctx)) }()
	if _, err := aside.SendText(ctx, "carol", "are you here?"); !errors.Is(err, mesh.ErrNotMember) {
		return 0, "", fmt.Errorf("a message to carol in a room that she is not in ended with: %v", err)
	}
	outer, inRoom := c.carol.outer.mark(), c.carol.inRoom.mark()
	begin := time.Now()
	if _, err := c.alice.SendText(ctx, "carol", "then outside"); err != nil {
		return 0, "", err
	}
	took = time.Since(begin)
	got, err := awaitFor(ctx, c.carol.outer, outer, "message outside rooms", func(*mesh.DirectMessage) bool { return true })
	if err != nil {
		return 0, "", err
	}
	if string(got.Data) != "then outside" || got.From != c.alice.Self() || got.Room != "" {
		return 0, "", fmt.Errorf("carol got %q from %s in room %q", got.Data, got.From, got.Room)
	}
	if ev, ok := first[*mesh.DirectMessage](c.carol.inRoom.after(inRoom)); ok {
		return 0, "", fmt.Errorf("carol got %q inside a room", ev.Data)
	}
	return took, "carol shares no room with the message, and got it; sent into a room without her it was refused at once", nil
}

func (c *cast) duplicateLogIn(ctx context.Context) (took time.Duration, detail string, err error) {
	if c.laptop, err = c.newPlayer("bob", node.WithUserKey(c.bobKey)); err != nil {
		return 0, "", err
	}
	if err := c.laptop.connect(ctx, c.alice, c.bob); err != nil {
		return 0, "", err
	}
	mark := c.bob.outer.mark()
	begin := time.Now()
	if err := c.laptop.Login(ctx, "bob"); err != nil {
		return 0, "", err
	}
	out, err := awaitFor(ctx, c.bob.outer, mark, "word that he is logged in elsewhere",
		func(ev *node.LoggedOut) bool { return ev.Reason == node.Replaced })
	if err != nil {
		return 0, "", err
	}
	took = time.Since(begin)
	if out.By == nil || out.By.Peer != c.laptop.ID() {
		return 0, "", fmt.Errorf("bob's log-in ended because of another device: %v", out.By)
	}
	if _, err := c.bob.SendText(ctx, "alice", "still here?"); !errors.Is(err, mesh.ErrNotLoggedIn) {
		return 0, "", fmt.Errorf("a send from the device that is out ended with: %v", err)
	}
	// Alice learns of both devices, in any order. Then the new one receives what is for bob, and
	// the old one nothing.
	if err := c.alice.awaitLogin(ctx, c.laptop); err != nil {
		return 0, "", err
	}
	laptop, old := c.laptop.outer.mark(), c.bob.outer.mark()
	if _, err := c.alice.SendText(ctx, "bob", "which of you?"); err != nil {
		return 0, "", err
	}
	if _, err := awaitFor(ctx, c.laptop.outer, laptop, "message for bob", func(*mesh.DirectMessage) bool { return true }); err != nil {
		return 0, "", err
	}
	if ev, ok := first[*mesh.DirectMessage](c.bob.outer.after(old)); ok {
		return 0, "", fmt.Errorf("the device that is out got %q", ev.Data)
	}
	return took, "bob's second device has taken over; the first was told, and stays out", nil
}

func (c *cast) leave(ctx context.Context) (took time.Duration, detail string, err error) {
	mark := c.alice.inRoom.mark()
	begin := time.Now()
	if err := c.carol.room.Leave(ctx); err != nil {
		return 0, "", err
	}
	left, err := awaitFor(ctx, c.alice.inRoom, mark, "goodbye of carol",
		func(ev *mesh.MemberLeft) bool { return ev.Member.Login == c.carol.Self() })
	if err != nil {
		return 0, "", err
	}
	took = time.Since(begin)
	if left.Reason != mesh.Quit {
		return 0, "", fmt.Errorf("alice was told that carol left for the reason %q", left.Reason)
	}
	if _, err := c.carol.room.PublishText(ctx, "one more thing"); !errors.Is(err, mesh.ErrLeft) {
		return 0, "", fmt.Errorf("a message to a room that was left ended with: %v", err)
	}
	return took, "carol has left; alice was told that she quit", nil
}

func (c *cast) logOut(ctx context.Context) (took time.Duration, detail string, err error) {
	mark := c.carol.outer.mark()
	begin := time.Now()
	if err := c.carol.Logout(ctx); err != nil {
		return 0, "", err
	}
	took = time.Since(begin)
	if _, err := awaitFor(ctx, c.carol.outer, mark, "word of the log-out",
		func(ev *node.LoggedOut) bool { return ev.Reason == node.Logout }); err != nil {
		return 0, "", err
	}
	if _, err := c.carol.SendText(ctx, "alice", "bye"); !errors.Is(err, mesh.ErrNotLoggedIn) {
		return 0, "", fmt.Errorf("a send after the log-out ended with: %v", err)
	}
	_, err = c.alice.SendText(ctx, "carol", "are you there?")
	var refused *mesh.RefusedError
	if !errors.Is(err, presence.ErrNotFound) && !(errors.As(err, &refused) && refused.Reason == mesh.NotLoggedIn) {
		return 0, "", fmt.Errorf("a send to a user who has logged out ended with: %v", err)
	}
	return took, "carol is logged out; messages to her are refused, not lost", nil
}
