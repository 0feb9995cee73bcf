package node_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

func TestTwoNodesTalkInARoomAndOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		up := await(t, alice, func(ev *node.PeerUp) bool { return true })
		require.Equal(t, bob.ID(), up.Peer.Peer)
		require.Equal(t, s.Addr(1).String(), up.Addr)

		ar := s.join(0, "ops")
		br, err := bob.Join(within(t), "ops", mesh.WithInfo([]byte("at lunch")))
		require.NoError(t, err)
		joined := await(t, ar, func(ev *mesh.MemberJoined) bool { return ev.Member.User == "bob" })
		require.Equal(t, bob.Self(), joined.Member.Login)
		require.Equal(t, "at lunch", string(joined.Member.Info))

		_, err = ar.PublishText(within(t), "to all")
		require.NoError(t, err)
		msg := await[*mesh.Message](t, br, nil)
		require.Equal(t, "to all", string(msg.Data))
		require.Equal(t, alice.Self(), msg.From)

		receipt, err := br.Send(within(t), "alice", []byte{0, 255})
		require.NoError(t, err)
		require.GreaterOrEqual(t, receipt.RTT, 10*time.Millisecond)
		dm := await[*mesh.DirectMessage](t, ar, nil)
		require.Equal(t, []byte{0, 255}, dm.Data)
		require.Equal(t, "ops", dm.Room)

		_, err = alice.SendText(within(t), "bob", "outside")
		require.NoError(t, err)
		dm = await[*mesh.DirectMessage](t, bob, nil)
		require.Equal(t, "outside", string(dm.Data))
		require.Equal(t, mesh.Text, dm.Kind)
		require.Equal(t, alice.Self(), dm.From)
		require.Empty(t, dm.Room)
		none[*mesh.DirectMessage](t, drained(br))

		require.NoError(t, ar.Leave(within(t)))
		left := await(t, br, func(ev *mesh.MemberLeft) bool { return true })
		require.Equal(t, mesh.Quit, left.Reason)
		require.ErrorIs(t, ends(t, ar), mesh.ErrLeft)

		require.Equal(t, "[bob]", users(alice.Online()))
		require.NoError(t, bob.Logout(within(t)))
		out := await(t, bob, func(ev *node.LoggedOut) bool { return true })
		require.Equal(t, node.LoggedOut{Header: out.Header, User: "bob", Reason: node.Logout}, *out)
		changed := await(t, alice, func(ev *node.PeerChanged) bool { return !ev.Peer.LoggedIn })
		require.Equal(t, bob.Self(), changed.Peer.Login)
		require.Empty(t, alice.Online())
	})
}

func TestSendsArePipelinedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		s.settle()
		var handles []mesh.Pending[mesh.Receipt]
		for i := range 100 {
			p, err := alice.SendAsync(within(t), "bob", []byte{byte(i)})
			require.NoError(t, err)
			require.Equal(t, uint64(i+1), p.ID())
			handles = append(handles, p)
		}
		for i := range 100 {
			require.Equal(t, []byte{byte(i)}, await[*mesh.DirectMessage](t, bob, nil).Data)
		}
		for _, p := range handles {
			_, err := p.Result()
			require.NoError(t, err)
		}
	})
}

func TestAUserIsFoundThroughANeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A DHT would connect them all.
		s := newSim(t, 3, func(int) []node.Option { return []node.Option{node.WithoutDHT()} })
		s.Chain()
		alice, _, carol := s.login(0, "alice"), s.login(1, "bob"), s.login(2, "carol")
		s.settle()
		require.False(t, s.Connected(0, 2))

		found, err := alice.Find(within(t), "carol")
		require.NoError(t, err)
		require.Equal(t, carol.Self(), found.Login)
		require.Equal(t, presence.Whois, found.Source)

		_, err = alice.Send(within(t), "carol", []byte("hi"))
		require.NoError(t, err)
		require.Equal(t, alice.Self(), await[*mesh.DirectMessage](t, carol, nil).From)
	})
}

func TestAnAddressNamesOneKeyExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ConnectAll()
		alice, bob, other := s.login(0, "alice"), s.login(1, "bob"), s.login(2, "bob")
		await(t, alice, func(ev *node.PeerUp) bool { return ev.Peer.Peer == bob.ID() })
		s.settle()

		_, err := alice.Send(within(t), "bob", []byte("who?"))
		conflict, ok := errors.AsType[*presence.ConflictError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, "bob", conflict.User)
		for _, n := range []*node.Node{bob, other} {
			_, err = alice.Send(within(t), n.Self().Address().String(), []byte("you"))
			require.NoError(t, err)
			require.Equal(t, "you", string(await[*mesh.DirectMessage](t, n, nil).Data))
		}
	})
}

func TestAnotherKeyUnderOnesNameIsAConflictOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		one, two := s.login(0, "alice"), s.login(1, "alice")
		for _, c := range []struct{ here, there *node.Node }{{one, two}, {two, one}} {
			ev := await(t, c.here, func(ev *node.IdentityConflict) bool { return true })
			require.Equal(t, "alice", ev.User)
			require.Equal(t, c.here.Self().Key, ev.Pinned)
			require.Equal(t, c.there.Self(), ev.Other)
		}
		time.Sleep(time.Minute)
		for _, n := range s.nodes {
			events := drained(n)
			none[*node.IdentityConflict](t, events)
			none[*node.LoggedOut](t, events)
			require.True(t, n.LoggedIn())
		}
	})
}

// replaced checks that exactly one of two nodes is logged in, and that the other received the
// event and has left its room.
func replaced(t *testing.T, nodes []*node.Node, rooms []*mesh.Room) (winner, loser int) {
	t.Helper()
	if nodes[0].LoggedIn() == nodes[1].LoggedIn() {
		t.Fatalf("logged in: %v and %v, want one", nodes[0].LoggedIn(), nodes[1].LoggedIn())
	}
	if nodes[0].LoggedIn() {
		winner, loser = 0, 1
	} else {
		winner, loser = 1, 0
	}
	out := await(t, nodes[loser], func(ev *node.LoggedOut) bool { return true })
	self := nodes[winner].Self()
	require.Equal(t, node.LoggedOut{Header: out.Header, User: "alice", Reason: node.Replaced, By: &self}, *out)
	none[*node.LoggedOut](t, drained(nodes[winner]))
	none[*node.LoggedOut](t, drained(nodes[loser]))
	if rooms != nil {
		require.ErrorIs(t, ends(t, rooms[loser]), mesh.ErrReplaced)
		require.Empty(t, nodes[loser].Rooms())
		require.Len(t, nodes[winner].Rooms(), 1)
	}
	return winner, loser
}

func TestTheLaterLoginOfAUserWins(t *testing.T) {
	key := userKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, func(i int) []node.Option {
			if i == 2 {
				return nil
			}
			return []node.Option{node.WithUserKey(key)}
		})
		s.ConnectAll()
		watcher := s.login(2, "bob")
		wr := s.join(2, "ops")
		s.login(0, "alice")
		r0 := s.join(0, "ops")
		await(t, wr, func(ev *mesh.MemberJoined) bool { return ev.Member.User == "alice" })
		s.settle()
		s.login(1, "alice")
		r1 := s.join(1, "ops")
		time.Sleep(5 * time.Second)

		winner, loser := replaced(t, s.nodes[:2], []*mesh.Room{r0, r1})
		require.Equal(t, 1, winner, "the newcomer")
		none[*mesh.MemberLeft](t, drained(wr)) // the user has not left
		require.Equal(t, []identity.Login{s.nodes[1].Self()}, watcher.Online())

		require.ErrorIs(t, s.nodes[loser].Logout(within(t)), presence.ErrNotLoggedIn)
		_, err := s.nodes[loser].Send(within(t), "bob", []byte("x"))
		require.ErrorIs(t, err, mesh.ErrNotLoggedIn)
		time.Sleep(10 * time.Minute)
		require.False(t, s.nodes[loser].LoggedIn(), "it does not fight back")
		require.True(t, s.nodes[winner].LoggedIn())
	})
}

// both runs f for two nodes at once.
func both(f func(i int)) {
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func TestOfTwoLoginsAtOnceOneSurvives(t *testing.T) {
	key := userKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, func(int) []node.Option { return []node.Option{node.WithUserKey(key)} })
		s.Connect(0, 1)
		both(func(i int) {
			if err := s.nodes[i].Login(within(t), "alice"); err != nil {
				t.Error(err)
			}
		})
		s.settle()
		replaced(t, s.nodes, nil)
	})
}

func TestOfTwoJoinsOfAUserAtOnceOneSurvives(t *testing.T) {
	key := userKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, func(int) []node.Option { return []node.Option{node.WithUserKey(key)} })
		s.Connect(0, 1)
		both(func(i int) { _ = s.nodes[i].SetUser("alice") })
		s.settle()
		rooms, errs := make([]*mesh.Room, 2), make([]error, 2)
		both(func(i int) { rooms[i], errs[i] = s.nodes[i].Join(within(t), "ops") })
		s.settle()
		if len(s.nodes[0].Rooms())+len(s.nodes[1].Rooms()) != 1 {
			t.Fatalf("in the room: %d and %d, want one", len(s.nodes[0].Rooms()), len(s.nodes[1].Rooms()))
		}
		loser := 0
		if len(s.nodes[0].Rooms()) == 1 {
			loser = 1
		}
		if err := errs[loser]; err == nil {
			err = ends(t, rooms[loser])
			require.ErrorIs(t, err, mesh.ErrReplaced)
		} else {
			require.ErrorIs(t, err, mesh.ErrReplaced)
		}
		require.NoError(t, errs[1-loser])
		members := rooms[1-loser].Members()
		require.Len(t, members, 1)
		require.Equal(t, s.nodes[1-loser].Self(), members[0].Login)
	})
}

func TestOfTwoLoginsInASplitNetworkOneSurvivesTheHealing(t *testing.T) {
	key := userKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 4, func(i int) []node.Option {
			if i < 2 {
				return []node.Option{node.WithUserKey(key)}
			}
			return nil
		})
		s.ConnectAll()
		s.login(2, "bob")
		s.login(3, "carol")
		s.settle()
		s.Split([]int{0, 2}, []int{1, 3})
		time.Sleep(time.Minute) // the connections between the sides end
		s.login(0, "alice")
		r0 := s.join(0, "ops")
		s.settle()
		s.login(1, "alice")
		r1 := s.join(1, "ops")
		time.Sleep(time.Minute)
		require.True(t, s.nodes[0].LoggedIn())
		require.True(t, s.nodes[1].LoggedIn(), "each side has its own")
		s.Heal()
		time.Sleep(time.Minute)
		winner, _ := replaced(t, s.nodes[:2], []*mesh.Room{r0, r1})
		require.Equal(t, 1, winner, "the later one")
	})
}

func TestAppsAreIsolated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, func(i int) []node.Option {
			return []node.Option{node.WithApp([]string{"one", "other", "one"}[i])}
		})
		a, b, c := s.login(0, "alice"), s.login(1, "bob"), s.login(2, "carol")
		ar, br, cr := s.join(0, "ops"), s.join(1, "ops"), s.join(2, "ops")
		s.Connect(0, 2)
		require.Error(t, a.Connect(within(t), s.PeerAddr(1)))
		require.NoError(t, s.TryConnect(1, 2), "libp2p itself knows no apps")
		for range 5 {
			_, err := ar.PublishText(within(t), "for one")
			require.NoError(t, err)
			_, err = br.PublishText(within(t), "for the other")
			require.NoError(t, err)
			_ = s.TryConnect(0, 1)
			_ = s.TryConnect(1, 2)
			time.Sleep(5 * time.Second)
		}
		require.Equal(t, "[carol]", users(a.Online()))
		require.Empty(t, b.Online())
		require.Len(t, ar.Members(), 2)
		require.Len(t, br.Members(), 1)
		_, err := b.Send(within(t), "alice", []byte("x"))
		require.ErrorIs(t, err, presence.ErrNotFound)
		_, err = b.Send(within(t), a.Self().Address().String(), []byte("x"))
		require.ErrorIs(t, err, presence.ErrNotFound)
		for _, ev := range drained(b) {
			if c, ok := ev.(*node.ConnectionChanged); ok {
				require.NotEqual(t, node.Disconnected, c.State, "peers of other apps come and go")
				continue
			}
			t.Errorf("the other app's node saw %+v", ev)
		}
		for _, ev := range drained(br) {
			if r, ok := ev.(*mesh.RoomReady); !ok || r.Join != mesh.FirstJoin {
				t.Errorf("the other app's room saw %+v", ev)
			}
		}
		for _, r := range []*mesh.Room{ar, cr} {
			for _, ev := range drained(r) {
				if m, ok := ev.(*mesh.Message); ok && m.From.User == "bob" {
					t.Errorf("a message came from the other app: %+v", m)
				}
			}
		}
		require.NotEmpty(t, c.Online())
	})
}

func TestALostPeerIsDialledAgainAndRoomsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		ar, br := s.join(0, "ops"), s.join(1, "ops")
		await(t, ar, func(ev *mesh.MemberJoined) bool { return ev.Member.User == "bob" })
		s.Cut(0, 1)
		down := await[*node.PeerDown](t, alice, nil)
		require.Equal(t, bob.Self(), down.Peer.Login)
		time.Sleep(30 * time.Second)
		s.Heal()
		healed := time.Now()
		up := await[*node.PeerUp](t, alice, nil)
		require.Equal(t, bob.Self(), up.Peer.Login)
		t.Logf("connected again after %v", time.Since(healed))
		require.Less(t, time.Since(healed), 25*time.Second)
		await[*node.PeerUp](t, bob, nil)
		require.NoError(t, ar.WaitPeers(within(t), 1))
		require.NoError(t, br.WaitPeers(within(t), 1))
		s.settle()
		_, err := ar.PublishText(within(t), "back")
		require.NoError(t, err)
		await(t, br, func(m *mesh.Message) bool { return string(m.Data) == "back" })
	})
}

func TestAMemberThatWasCutOffForLongIsBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		s.login(0, "alice")
		s.login(1, "bob")
		ar, br := s.join(0, "ops"), s.join(1, "ops")
		await(t, ar, func(ev *mesh.MemberJoined) bool { return ev.Member.User == "bob" })
		s.Cut(0, 1)
		await(t, ar, func(ev *mesh.MemberLeft) bool { return ev.Reason == mesh.Dropped })
		time.Sleep(time.Minute) // longer than a peer that no room wants is dialled every second
		s.Heal()
		healed := time.Now()
		await(t, ar, func(ev *mesh.MemberJoined) bool { return ev.Member.User == "bob" })
		require.NoError(t, br.WaitPeers(within(t), 1))
		t.Logf("in the room again after %v", time.Since(healed))
		require.Less(t, time.Since(healed), 4*time.Second)
	})
}

func TestAKilledPeerIsTakenBackWhenItRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		ar, _ := s.join(0, "ops"), s.join(1, "ops")
		await(t, ar, func(ev *mesh.MemberJoined) bool { return ev.Member.User == "bob" })
		s.Kill(1)
		require.NoError(t, bob.Close())
		left := await[*mesh.MemberLeft](t, ar, nil)
		require.Equal(t, mesh.Dropped, left.Reason)
		_, err := alice.Send(within(t), "bob", []byte("x"))
		require.Error(t, err)

		s.Restart(1)
		bob = s.run(1)
		s.login(1, "bob")
		await[*node.PeerUp](t, bob, nil) // alice has dialled
		_, err = alice.SendText(within(t), "bob", "welcome back")
		require.NoError(t, err)
		require.Equal(t, "welcome back", string(await[*mesh.DirectMessage](t, bob, nil).Data))
	})
}

func TestGivenPeersAreDialledUntilTheyAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 1, nil)
		absent := s.NewHost(nil)
		s.nodes = append(s.nodes, nil)
		s.Pause(absent)
		n := s.run(0, node.WithPeers(s.PeerAddr(absent)))
		require.NoError(t, n.Login(within(t), "alice"))
		time.Sleep(time.Hour)
		require.Zero(t, n.Stats().Peers)
		require.Greater(t, n.Stats().DialsFailed, uint64(50))
		s.Resume(absent)
		s.run(absent)
		start := time.Now()
		await[*node.PeerUp](t, n, nil)
		require.Less(t, time.Since(start), 60*time.Second)
	})
}

func TestSendFollowsAUserToAnotherDevice(t *testing.T) {
	key := userKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 4, func(i int) []node.Option {
			if i < 2 {
				return []node.Option{node.WithUserKey(key)}
			}
			return nil
		})
		s.Connect(0, 2) // alice's first device, sender, go-between, alice's second device
		s.Connect(2, 3)
		s.Connect(3, 1)
		s.login(0, "alice")
		sender := s.login(2, "bob")
		s.login(3, "carol")
		s.settle()
		_, err := sender.SendText(within(t), "alice", "one")
		require.NoError(t, err)
		require.NoError(t, s.nodes[0].Logout(within(t)))
		s.login(1, "alice")
		s.settle()
		_, err = sender.SendText(within(t), "alice", "two")
		require.NoError(t, err)
		require.Equal(t, "two", string(await[*mesh.DirectMessage](t, s.nodes[1], nil).Data))
	})
}

func TestACancelledContextEndsOneCallOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		s.settle()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := alice.Send(ctx, "bob", []byte("x"))
		require.ErrorIs(t, err, context.Canceled)
		_, err = alice.Join(ctx, "ops")
		require.ErrorIs(t, err, context.Canceled)
		_, err = alice.Send(within(t), "bob", []byte("y"))
		require.NoError(t, err)
		require.Equal(t, "y", string(await[*mesh.DirectMessage](t, bob, nil).Data))
	})
}
