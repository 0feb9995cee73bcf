package node_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// failure is one wrong use and its expected error: errors.Is matches err, and text, if set, must be
// equal.
type failure struct {
	name string
	call func() error
	err  error
	text string
}

func check(t *testing.T, failures []failure) {
	t.Helper()
	for _, f := range failures {
		err := f.call()
		if f.err != nil && !errors.Is(err, f.err) {
			t.Errorf("%s: %v is not %q", f.name, err, f.err)
		}
		if err == nil || f.text != "" && err.Error() != f.text {
			t.Errorf("%s:\n got %v\nwant %s", f.name, err, f.text)
		}
	}
}

func TestWrongUseGivesTheDocumentedErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.Connect(0, 1)
		ctx := within(t)
		alice, bob := s.nodes[0], s.login(1, "bob")
		s.join(1, "ops")
		s.settle()
		max, over := strings.Repeat("m", 65_536), strings.Repeat("m", 65_537)
		send := func(n *node.Node, to, data string, opts ...mesh.SendOption) func() error {
			return func() error {
				_, err := n.Send(ctx, to, []byte(data), opts...)
				return err
			}
		}
		join := func(room string, opts ...mesh.JoinOption) func() error {
			return func() error {
				_, err := alice.Join(ctx, room, opts...)
				return err
			}
		}
		before := s.Traffic(0)
		check(t, []failure{
			{"log in without a name", func() error { return alice.Login(ctx, "") }, identity.ErrEmptyID, `log in: user ID "": empty`},
			{"log in with a bad name", func() error { return alice.Login(ctx, "al ice") }, nil, `log in: user ID "al ice": ' ' is not one of a-z A-Z 0-9 _ @ . -`},
			{"set a bad name", func() error { return alice.SetUser("é") }, nil, `set user: user ID "é": 'é' is not one of a-z A-Z 0-9 _ @ . -`},
			{"join without a user", join("ops"), mesh.ErrNoIdentity, ""},
			{"join a bad room", join("no/room"), nil, `room ID "no/room": '/' is not one of a-z A-Z 0-9 _ @ . -`},
			{"join no room", join(""), identity.ErrEmptyID, ""},
			{"join with too much info", join("ops", mesh.WithInfo(make([]byte, 201))), nil, "user info of 201 bytes is over the limit of 200"},
			{"log out before logging in", func() error { return alice.Logout(ctx) }, presence.ErrNotLoggedIn, "log out: not logged in"},
			{"send before logging in", send(alice, "bob", "x"), mesh.ErrNotLoggedIn, "not logged in"},
			{"send to a bad name", send(alice, "b b", "x"), nil, `user ID "b b": ' ' is not one of a-z A-Z 0-9 _ @ . -`},
			{"send to nobody", send(alice, "", "x"), identity.ErrEmptyID, ""},
			{"send to a bad fingerprint", send(alice, "bob#1", "x"), nil, `address "bob#1": after '#' belongs a fingerprint of 16 characters of a-z 2-7`},
			{"connect to nonsense", func() error { return alice.Connect(ctx, "nonsense") }, nil, ""},
			{"connect without a peer ID", func() error { return alice.Connect(ctx, s.Addr(1).String()) }, nil, `address "` + s.Addr(1).String() + `": it must end in /p2p/ and a peer ID`},
		})
		require.NoError(t, alice.SetUser("alice"))
		check(t, []failure{
			{"send with a user and no log-in", send(alice, "bob", "x"), mesh.ErrNotLoggedIn, ""},
			{"another user", func() error { return alice.SetUser("alicia") }, presence.ErrOtherUser, `set user: the node has another user ID: it is "alice", not "alicia"`},
			{"log in as another user", func() error { return alice.Login(ctx, "alicia") }, presence.ErrOtherUser, ""},
		})
		require.NoError(t, alice.Login(ctx, "alice"))
		s.settle()
		before = s.Traffic(0)
		check(t, []failure{
			{"log in twice", func() error { return alice.Login(ctx, "alice") }, presence.ErrLoggedIn, "log in: already logged in"},
			{"send nothing", send(alice, "bob", ""), mesh.ErrEmpty, "empty message"},
			{"send too much", send(alice, "bob", over), nil, "message of 65537 bytes is over the limit of 65536"},
			{"send bad text", send(alice, "bob", "\xff", mesh.AsText()), mesh.ErrNotText, "text is not valid UTF-8"},
			{"send to oneself", send(alice, "alice", "x"), mesh.ErrSelf, "message to oneself"},
			{"send to oneself, exactly", send(alice, alice.Self().Address().String(), "x"), mesh.ErrSelf, ""},
		})
		require.Less(t, s.Traffic(0).BytesSent-before.BytesSent, 500, "local errors send nothing")
		check(t, []failure{
			{"send to a user who is not there", send(alice, "nobody", "x"), presence.ErrNotFound, "send to nobody: user not found: nobody"},
			{"send to a key that is not there", send(alice, "bob#aaaaaaaaaaaaaaaa", "x"), presence.ErrNotFound, ""},
			{"find a user who is not there", func() error { _, err := alice.Find(ctx, "nobody"); return err }, presence.ErrNotFound, ""},
		})
		_, err := alice.Send(ctx, "bob", []byte(max))
		require.NoError(t, err)
		require.Equal(t, max, string(await[*mesh.DirectMessage](t, bob, nil).Data))

		_, ok := alice.Room("ops")
		require.False(t, ok, "a room that was not joined")
		room := s.join(0, "ops")
		inRoom := func(to, data string) func() error {
			return func() error {
				_, err := room.Send(ctx, to, []byte(data))
				return err
			}
		}
		publish := func(data string, opts ...mesh.PublishOption) func() error {
			return func() error {
				_, err := room.Publish(ctx, []byte(data), opts...)
				return err
			}
		}
		check(t, []failure{
			{"join twice", join("ops"), mesh.ErrJoined, "join ops: already joined"},
			{"publish nothing", publish(""), mesh.ErrEmpty, ""},
			{"publish too much", publish(over), nil, "message of 65537 bytes is over the limit of 65536"},
			{"publish bad text", publish("\xff", mesh.AsText()), mesh.ErrNotText, ""},
			{"send nothing in a room", inRoom("bob", ""), mesh.ErrEmpty, ""},
			{"send too much in a room", inRoom("bob", over), nil, "message of 65537 bytes is over the limit of 65536"},
			{"send to oneself in a room", inRoom("alice", "x"), mesh.ErrSelf, ""},
			{"send to one who is not in the room", inRoom("carol", "x"), mesh.ErrNotMember, "no such member in the room ops: carol"},
			{"send to a bad name in a room", inRoom("b b", "x"), nil, `user ID "b b": ' ' is not one of a-z A-Z 0-9 _ @ . -`},
		})
		_, err = room.Publish(ctx, []byte(max))
		require.NoError(t, err)
		require.NoError(t, room.Leave(ctx))
		check(t, []failure{
			{"publish after leaving", publish("x"), mesh.ErrLeft, ""},
			{"send after leaving", inRoom("bob", "x"), mesh.ErrLeft, ""},
		})
		require.NoError(t, room.Leave(ctx), "leaving twice is harmless")
		require.NoError(t, bob.Logout(ctx))
		s.settle()
		check(t, []failure{{"send to a user who has logged out", send(alice, "bob", "x"), presence.ErrNotFound, ""}})
	})
}

func TestASendThatCannotBeAnsweredIsUnknownAndOneThatCannotLeaveIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, _ := s.login(0, "alice"), s.login(1, "bob")
		s.settle()
		_, err := alice.SendText(within(t), "bob", "hello")
		require.NoError(t, err)
		s.Cut(0, 1)
		start := time.Now()
		_, err = alice.SendText(context.Background(), "bob", "into the void")
		require.ErrorIs(t, err, mesh.ErrUnconfirmed)
		require.NotErrorIs(t, err, mesh.ErrUnreachable)
		require.Equal(t, 12*time.Second, time.Since(start))
		time.Sleep(time.Minute)
		_, err = alice.SendText(within(t), "bob", "nobody there")
		require.ErrorIs(t, err, mesh.ErrUnreachable)
		require.ErrorIs(t, err, mesh.ErrDisconnected)
		require.NotErrorIs(t, err, presence.ErrNotFound, "nobody could be asked")
		require.NotErrorIs(t, err, mesh.ErrUnconfirmed)
	})
}

func TestAUserWhoIsKnownToBeThereAndCannotBeReachedIsNotSentTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.Cut(0, 2)
		s.Chain()
		alice := s.login(0, "alice")
		s.login(1, "bob")
		s.login(2, "carol")
		s.settle()
		_, err := alice.SendText(within(t), "carol", "x") // bob knows her and answers
		require.ErrorIs(t, err, mesh.ErrUnreachable)
		require.ErrorIs(t, err, presence.ErrUnreachable)
		require.EqualError(t, err, "send to carol: unreachable: carol")
	})
}

func TestAnErrorOfSeveralPackagesIsOneError(t *testing.T) {
	for _, same := range [][]error{
		{identity.ErrClosed, node.ErrClosed, mesh.ErrClosed, presence.ErrClosed},
		{identity.ErrNotLoggedIn, mesh.ErrNotLoggedIn, presence.ErrNotLoggedIn},
		{identity.ErrUnreachable, mesh.ErrUnreachable, presence.ErrUnreachable},
		{identity.ErrOpenMode, mesh.ErrOpenMode, presence.ErrOpenMode},
	} {
		for _, err := range same {
			require.Equal(t, same[0], err)
		}
	}
	require.ErrorIs(t, node.ErrClosed, net.ErrClosed)
}

func TestAReaderThatIsTooSlowRefusesMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, func(int) []node.Option {
			return []node.Option{node.WithMesh(mesh.WithQueue(mesh.QueueLimits{Events: 3, Bytes: 1 << 20}))}
		})
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		s.settle()
		for range 3 {
			_, err := alice.SendText(within(t), "bob", "x")
			require.NoError(t, err)
		}
		_, err := alice.SendText(within(t), "bob", "x")
		refused, ok := errors.AsType[*mesh.RefusedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, mesh.QueueFull, refused.Reason)
		require.EqualError(t, err, "send to bob: refused by the receiver: queue full")
		for range 3 {
			await[*mesh.DirectMessage](t, bob, nil)
		}
		_, err = alice.SendText(within(t), "bob", "x")
		require.NoError(t, err)
	})
}

func TestAClosedNodeSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		ctx := within(t)
		n := s.login(0, "alice")
		s.login(1, "bob")
		room := s.join(0, "ops")
		require.NoError(t, n.Close())
		check(t, []failure{
			{"log in", func() error { return n.Login(ctx, "alice") }, node.ErrClosed, "closed"},
			{"set user", func() error { return n.SetUser("alice") }, node.ErrClosed, ""},
			{"log out", func() error { return n.Logout(ctx) }, node.ErrClosed, ""},
			{"join", func() error { _, err := n.Join(ctx, "ops"); return err }, node.ErrClosed, ""},
			{"send", func() error { _, err := n.Send(ctx, "bob", []byte("x")); return err }, node.ErrClosed, ""},
			{"send async", func() error { _, err := n.SendAsync(ctx, "bob", []byte("x")); return err }, node.ErrClosed, ""},
			{"find", func() error { _, err := n.Find(ctx, "bob"); return err }, node.ErrClosed, ""},
			{"connect", func() error { return n.Connect(ctx, s.PeerAddr(1)) }, node.ErrClosed, ""},
			{"publish", func() error { _, err := room.Publish(ctx, []byte("x")); return err }, net.ErrClosed, ""},
			{"room events", func() error { return ends(t, room) }, mesh.ErrClosed, ""},
			{"events", func() error { return ends(t, n) }, node.ErrClosed, ""},
		})
		for _, err := range n.Events(ctx) {
			t.Errorf("the iterator yields %v after the end", err)
		}
		for s, err := range n.Watch(ctx, "bob") {
			t.Errorf("a watch yields %v, %v after the end", s, err)
		}
	})
}

func TestAWatchEndsSilentlyWithTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.Connect(0, 1)
		s.Connect(0, 2)
		n := s.login(0, "alice")
		s.login(1, "bob")
		s.login(2, "carol")
		s.settle()
		for _, user := range []string{"bob", "nobody"} { // one is followed, the other asked about again and again
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var last error
			for _, err := range n.Watch(ctx, user) {
				cancel()
				last = err
			}
			require.ErrorIs(t, last, context.Canceled, user)
			require.NotErrorIs(t, last, node.ErrClosed, user)
		}
		var watches sync.WaitGroup
		for _, user := range []string{"bob", "nobody"} {
			watches.Go(func() {
				for _, err := range n.Watch(t.Context(), user) {
					assert.NoError(t, err, user)
				}
			})
		}
		synctest.Wait()
		s.Pause(2) // so the goodbye takes its time, in which a watch asks again
		require.NoError(t, n.Close())
		watches.Wait()
	})
}

func TestSendTextLeavesTheOptionsOfItsCallerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := newSim(t, 1, nil).nodes[0]
		all := []mesh.SendOption{mesh.WithMode(mesh.Reliable), mesh.WithMode(mesh.UnreliableOrdered)}
		_, err := alice.SendText(within(t), "bob", "psst", all[:1]...)
		require.ErrorIs(t, err, mesh.ErrNotLoggedIn)
		require.Equal(t, mesh.WithMode(mesh.UnreliableOrdered), all[1], "behind what was passed")
	})
}
