package node_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// clocked is a simulated network of nodes that have a clock each. All are right at first.
type clocked struct {
	*sim
	clocks []*meshtest.Clock
	// deaf says that the last node does not hear acknowledgements of what it publishes, since its
	// clock was set back so far that the others' statements are from its future.
	deaf bool
}

func newClocked(t *testing.T, hosts int, ahead time.Duration, more func(int) []node.Option) *clocked {
	t.Helper()
	c := &clocked{}
	for range hosts {
		c.clocks = append(c.clocks, new(meshtest.Clock))
	}
	c.clocks[hosts-1].Set(ahead)
	c.sim = newSim(t, hosts, func(i int) []node.Option {
		opts := []node.Option{node.WithClock(walltime.From(c.clocks[i].Now))}
		if more != nil {
			opts = append(opts, more(i)...)
		}
		return opts
	})
	return c
}

// shows checks that a time is what the clock of node i showed within the last second.
func (c *clocked) shows(i int, at time.Time, what string) {
	c.t.Helper()
	age := c.clocks[i].Now().Round(0).Sub(at.Round(0))
	require.GreaterOrEqual(c.t, age, -time.Millisecond, what)
	require.Less(c.t, age, time.Second, what)
}

// talk has each of two members say something to all and to the other one, in the room and outside,
// and checks that it arrives, and by whose clock it is dated.
func (c *clocked) talk(i, j int, rooms []*mesh.Room, what string) {
	c.t.Helper()
	for _, way := range [][2]int{{i, j}, {j, i}} {
		from, to := way[0], way[1]
		text := fmt.Sprintf("%s %d", what, from)
		p, err := rooms[from].PublishAsync(within(c.t), []byte(text), mesh.AsText())
		require.NoError(c.t, err, what)
		m := await(c.t, rooms[to], func(ev *mesh.Message) bool { return string(ev.Data) == text })
		c.shows(from, m.Sent, "a broadcast is dated by its sender's clock")
		c.shows(to, m.Time, "and its event by this node's")
		if _, err := p.Result(); !c.deaf || !errors.Is(err, mesh.ErrUnconfirmed) {
			require.NoError(c.t, err, what)
		}

		user := c.nodes[to].Self().Address().String()
		_, err = rooms[from].SendText(within(c.t), user, text)
		require.NoError(c.t, err, what)
		d := await(c.t, rooms[to], func(ev *mesh.DirectMessage) bool { return string(ev.Data) == text })
		c.shows(from, d.Sent, "a message to one member is dated by its sender's clock")
		_, err = c.nodes[from].SendText(within(c.t), user, text)
		require.NoError(c.t, err, what)
		d = await(c.t, c.nodes[to], func(ev *mesh.DirectMessage) bool { return string(ev.Data) == text })
		c.shows(from, d.Sent, "so is one outside rooms")
		c.shows(to, d.Time, "whose event is dated by this node's")
	}
}

func TestClocksMayBeTwoMinutesApart(t *testing.T) {
	for _, ahead := range []time.Duration{-119 * time.Second, -5 * time.Second, 5 * time.Second, 119 * time.Second} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClocked(t, 3, ahead, nil)
				c.Chain()
				var rooms []*mesh.Room
				for i, user := range []string{"alice", "bob", "carol"} {
					c.login(i, user)
					rooms = append(rooms, c.join(i, "ops"))
				}
				for _, r := range rooms {
					require.NoError(t, r.WaitPeers(within(t), 2))
				}
				c.shows(2, await(t, c.nodes[2], func(*node.PeerUp) bool { return true }).Time, "an event of the node")
				c.talk(1, 2, rooms, "at first")
				c.talk(0, 2, rooms, "over two hops")
				c.talk(0, 1, rooms, "between those whose clocks are right")

				require.NoError(t, rooms[2].Leave(within(t)))
				left := await(t, rooms[0], func(*mesh.MemberLeft) bool { return true })
				require.Equal(t, "carol", left.Member.User)
				rooms[2] = c.join(2, "ops")
				require.NoError(t, rooms[2].WaitPeers(within(t), 2))
				await(t, rooms[0], func(ev *mesh.MemberJoined) bool { return ev.Member.User == "carol" })
				c.talk(0, 2, rooms, "in another stay")
			})
		})
	}
}

func TestClocksThatAreHoursApartAreTheReasonOfBothSides(t *testing.T) {
	for _, ahead := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClocked(t, 2, ahead, nil)
				alice, bob := c.login(0, "alice"), c.login(1, "bob")
				for i, n := range c.nodes {
					err := n.Connect(within(t), c.nodes[1-i].Addrs()[0].String())
					require.ErrorIs(t, err, identity.ErrClock, "node %d", i)
				}
				require.Empty(t, alice.Online())
				require.Empty(t, bob.Online())

				c.clocks[1].Set(0)
				require.NoError(t, bob.Logout(within(t)))
				require.NoError(t, bob.Login(within(t), "bob"))
				time.Sleep(2 * time.Minute)
				require.NoError(t, alice.Connect(within(t), bob.Addrs()[0].String()))
				rooms := []*mesh.Room{c.join(0, "ops"), c.join(1, "ops")}
				require.NoError(t, rooms[0].WaitPeers(within(t), 1))
				c.talk(0, 1, rooms, "with right clocks")
			})
		})
	}
}

func TestAClockThatIsSetWhileMembersTalkPutsNobodyOut(t *testing.T) {
	for _, far := range []time.Duration{4 * time.Second, time.Minute, 3 * time.Hour} {
		t.Run(far.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClocked(t, 2, 0, nil)
				c.Connect(0, 1)
				c.login(0, "alice")
				c.login(1, "bob")
				rooms := []*mesh.Room{c.join(0, "ops"), c.join(1, "ops")}
				for _, r := range rooms {
					require.NoError(t, r.WaitPeers(within(t), 1))
				}
				c.talk(0, 1, rooms, "at first")
				for i, n := range c.nodes {
					drained(n)
					drained(rooms[i])
				}
				for _, ahead := range []time.Duration{far, -far, 0} {
					c.clocks[1].Set(ahead)
					c.deaf = ahead < -identity.MaxSkew
					what := fmt.Sprintf("%v ahead", ahead)
					c.talk(0, 1, rooms, what)
					time.Sleep(time.Minute)
					c.talk(0, 1, rooms, what+", a minute later")
					for i, n := range c.nodes {
						require.Len(t, rooms[i].Members(), 2, what)
						require.Len(t, n.Online(), 1, what)
						events := append(drained(n), drained(rooms[i])...)
						none[*node.PeerDown](t, events)
						none[*mesh.MemberLeft](t, events)
						none[*mesh.MemberJoined](t, events)
						none[*mesh.GapLost](t, events)
					}
				}
			})
		})
	}
}

func TestAClockEndsNoSendBeforeItsTime(t *testing.T) {
	for _, c := range []struct {
		name       string
		ahead, set time.Duration // before and from the middle of the sends on
	}{
		{"ahead", time.Minute, time.Minute},
		{"behind", -time.Minute, -time.Minute},
		{"set ahead", 0, 3 * time.Hour},
		{"set back", 0, -time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newClocked(t, 2, c.ahead, nil)
				s.Connect(0, 1)
				s.login(0, "alice")
				bob := s.login(1, "bob")
				rooms := []*mesh.Room{s.join(0, "ops"), s.join(1, "ops")}
				require.NoError(t, rooms[1].WaitPeers(within(t), 1))
				s.talk(0, 1, rooms, "at first")
				const limit = 4 * time.Second
				for _, heals := range []bool{true, false} {
					s.clocks[1].Set(c.ahead)
					s.Cut(0, 1)
					start := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					direct, err := bob.SendAsync(ctx, "alice", []byte("direct"))
					require.NoError(t, err)
					confirmed, err := rooms[1].PublishConfirmedAsync(ctx, []byte("confirmed"))
					require.NoError(t, err)
					time.Sleep(limit / 4)
					s.clocks[1].Set(c.set)
					time.Sleep(limit / 4)
					if heals {
						s.Heal()
					}
					_, err = direct.Result()
					if heals {
						require.NoError(t, err)
					} else {
						require.ErrorIs(t, err, mesh.ErrUnconfirmed)
						require.InDelta(t, limit, time.Since(start), float64(10*time.Millisecond), "it ends when its context does")
						s.Heal()
					}
					all, err := confirmed.Result()
					cancel()
					require.Len(t, all.Members, 1)
					require.Equal(t, heals, all.Members[0].Delivered, "%v: %v", c.name, err)
					require.LessOrEqual(t, time.Since(start), limit+10*time.Millisecond)
				}
			})
		})
	}
}

func TestATokenIsJudgedByTheClockOfTheNodeThatJudges(t *testing.T) {
	const life = time.Hour
	for _, c := range []struct {
		ahead      time.Duration // bob's clock
		own, peers error         // what he says of his own new token, and of alice's log-in; nil: it counts
	}{
		{5 * time.Second, nil, nil},
		{-5 * time.Second, nil, nil},
		{-119 * time.Second, nil, nil},
		{life + 119*time.Second, nil, nil},
		{life + 121*time.Second, identity.ErrTokenExpired, identity.ErrExpired},
		{3 * time.Hour, identity.ErrTokenExpired, identity.ErrExpired},
		{-121 * time.Second, identity.ErrTokenNotYetValid, identity.ErrClock},
		{-3 * time.Hour, identity.ErrTokenNotYetValid, identity.ErrClock},
	} {
		t.Run(c.ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend(t)
				s := newClocked(t, 2, c.ahead, b.options)
				bob, alice := s.nodes[1], b.enter(s.sim, 0, "alice", life)
				err := bob.Connect(within(t), alice.Addrs()[0].String())
				require.ErrorIs(t, err, c.peers)
				err = alice.Connect(within(t), bob.Addrs()[0].String())
				refused, ok := errors.AsType[*presence.HelloError](err)
				require.Equal(t, c.peers != nil, ok && refused.Remote, "she is told: %v", err)
				if c.peers == nil {
					require.Equal(t, "[alice]", users(bob.Online()))
				} else {
					require.Empty(t, bob.Online())
				}
				require.NoError(t, alice.UpdateLoginToken(b.token(alice, "alice", life)), "by her own clock a new one counts")

				err = bob.Login(within(t), "bob", node.LoginToken(b.token(bob, "bob", life)))
				require.ErrorIs(t, err, c.own)
				if clock, ok := errors.AsType[*identity.ClockError](err); ok {
					require.InDelta(t, -c.ahead, clock.Issued.Sub(clock.Now), float64(2*time.Second), "by how much")
				} else {
					require.NotErrorIs(t, c.own, identity.ErrTokenNotYetValid, "%v", err)
				}
			})
		})
	}
}
