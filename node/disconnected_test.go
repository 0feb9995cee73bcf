package node_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// outcomes are the errors by which results of sends are told apart.
var outcomes = map[string]error{
	"disconnected": mesh.ErrDisconnected,
	"unreachable":  mesh.ErrUnreachable,
	"unconfirmed":  mesh.ErrUnconfirmed,
	"not a member": mesh.ErrNotMember,
	"not found":    presence.ErrNotFound,
	"refused":      mesh.ErrRefused,
}

// is checks that an error is all of these outcomes and no other.
func is(t *testing.T, err error, want ...string) {
	t.Helper()
	require.Error(t, err)
	var got []string
	for name, outcome := range outcomes {
		if errors.Is(err, outcome) {
			got = append(got, name)
		}
	}
	require.ElementsMatch(t, want, got, "%v", err)
}

// verdict is how a call has ended, and after how long.
type verdict struct {
	err  error
	took time.Duration
}

// calls runs all of them at once.
func calls(all map[string]func() error) map[string]verdict {
	type named struct {
		name string
		verdict
	}
	ended := make(chan named)
	for name, call := range all {
		go func() {
			begun := time.Now()
			err := call()
			ended <- named{name, verdict{err, time.Since(begun)}}
		}()
	}
	out := make(map[string]verdict)
	for range all {
		r := <-ended
		out[r.name] = r.verdict
	}
	return out
}

// sendTimeout is the default of mesh.WithSendTimeout.
const sendTimeout = 12 * time.Second

func TestSendsOfADisconnectedNodeSayThatItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice := s.login(0, "alice")
		s.login(1, "bob")
		ar, br := s.join(0, "ops"), s.join(1, "ops")
		require.NoError(t, ar.WaitPeers(within(t), 1))
		require.NoError(t, br.WaitPeers(within(t), 1))
		time.Sleep(10 * time.Second) // until they beat: only then does silence mean something
		_, err := alice.SendText(within(t), "bob", "before")
		require.NoError(t, err)
		forever := context.Background()
		s.Cut(0, 1)

		// What is written before the loss is noticed.
		written := calls(map[string]func() error{
			"outside": func() error { _, err := alice.SendText(forever, "bob", "x"); return err },
			"room":    func() error { _, err := ar.SendText(forever, "bob", "x"); return err },
			"publish": func() error { _, err := ar.PublishText(forever, "x"); return err },
		})
		for name, r := range written {
			t.Log(name)
			is(t, r.err, "disconnected", "unconfirmed")
			require.Equal(t, sendTimeout, r.took, "it waits, since the link may come back")
		}
		require.NotEqual(t, node.Connected, alice.Connection())

		// With the loss known, before the others are given up and after.
		for _, state := range []node.ConnectionState{node.Reconnecting, node.Lost} {
			for alice.Connection() != state {
				time.Sleep(time.Second)
			}
			require.Len(t, ar.Members(), map[node.ConnectionState]int{node.Reconnecting: 2, node.Lost: 1}[state])
			unsent := calls(map[string]func() error{
				"outside":       func() error { _, err := alice.SendText(forever, "bob", "x"); return err },
				"room":          func() error { _, err := ar.SendText(forever, "bob", "x"); return err },
				"of no mention": func() error { _, err := alice.SendText(forever, "stranger", "x"); return err },
			})
			for name, r := range unsent {
				t.Log(state, name)
				is(t, r.err, "disconnected", "unreachable")
				require.Equal(t, sendTimeout, r.took)
			}
		}
		late := calls(map[string]func() error{
			"outside": func() error {
				_, err := alice.SendText(forever, "bob", "x", mesh.WithMode(mesh.UnreliableOrdered))
				return err
			},
			"room": func() error {
				_, err := ar.SendText(forever, "bob", "x", mesh.WithMode(mesh.UnreliableUnordered))
				return err
			},
		})
		for _, r := range late {
			is(t, r.err, "disconnected", "unreachable")
			require.Equal(t, mesh.LateAfter, r.took)
		}
		other := calls(map[string]func() error{
			"a broadcast that sees nobody": func() error { _, err := ar.PublishText(forever, "x"); return err },
			"a broadcast that is cut short": func() error {
				ctx, cancel := context.WithTimeout(forever, time.Second)
				defer cancel()
				_, err := ar.PublishText(ctx, "x")
				return err
			},
			"never a member": func() error { _, err := ar.SendText(forever, "stranger", "x"); return err },
		})
		is(t, other["a broadcast that sees nobody"].err, "disconnected", "unconfirmed")
		require.Equal(t, sendTimeout, other["a broadcast that sees nobody"].took)
		is(t, other["a broadcast that is cut short"].err, "disconnected", "unconfirmed")
		require.ErrorIs(t, other["a broadcast that is cut short"].err, context.DeadlineExceeded)
		is(t, other["never a member"].err, "not a member")
		require.Zero(t, other["never a member"].took, "that much is known without a link")
	})
}

func TestASendWaitsForTheLinkUntilItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		ar, br := s.join(0, "ops"), s.join(1, "ops")
		require.NoError(t, ar.WaitPeers(within(t), 1))
		require.NoError(t, br.WaitPeers(within(t), 1))
		s.Cut(0, 1)
		turns(t, alice, node.Lost)
		require.Len(t, ar.Members(), 1)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		time.AfterFunc(20*time.Second, s.Heal)
		for name, r := range calls(map[string]func() error{
			"outside": func() error { _, err := alice.SendText(ctx, "bob", "outside"); return err },
			"room":    func() error { _, err := ar.SendText(ctx, "bob", "room"); return err },
		}) {
			require.NoError(t, r.err, name)
			require.Greater(t, r.took, 20*time.Second)
		}
		require.Equal(t, "outside", string(await[*mesh.DirectMessage](t, bob, nil).Data))
		require.Equal(t, "room", string(await[*mesh.DirectMessage](t, br, nil).Data))
	})
}

// A broadcast of a node that sees nobody, since all were dropped, ends well if they come back.
func TestABroadcastWaitsForTheLinkToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice := s.login(0, "alice")
		s.login(1, "bob")
		ar, br := s.join(0, "ops"), s.join(1, "ops")
		require.NoError(t, ar.WaitPeers(within(t), 1))
		s.Cut(0, 1)
		turns(t, alice, node.Lost)
		p, err := ar.PublishAsync(within(t), []byte("again"))
		require.NoError(t, err)
		s.Heal()
		turns(t, alice, node.Reconnected)
		out, err := p.Result()
		require.NoError(t, err)
		require.Equal(t, 1, out.Acked)
		require.Equal(t, "again", string(await[*mesh.Message](t, br, nil).Data))
	})
}

func TestResultsOfAConnectedNodeAreToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ConnectAll()
		alice := s.login(0, "alice")
		s.login(1, "bob")
		s.login(2, "carol")
		ar := s.join(0, "ops")
		s.join(1, "ops")
		s.join(2, "ops")
		require.NoError(t, ar.WaitPeers(within(t), 2))
		forever := context.Background()
		for _, r := range calls(map[string]func() error{
			"room": func() error { _, err := ar.SendText(forever, "stranger", "x"); return err },
		}) {
			is(t, r.err, "not a member")
		}
		_, err := alice.SendText(forever, "stranger", "x")
		is(t, err, "not found")
		_, err = alice.SendText(forever, "bob", "x")
		require.NoError(t, err)
		s.Cut(0, 1)
		sent := calls(map[string]func() error{
			"outside": func() error { _, err := alice.SendText(forever, "bob", "x"); return err },
			"room":    func() error { _, err := ar.SendText(forever, "bob", "x"); return err },
		})
		for name, r := range sent {
			t.Log(name)
			is(t, r.err, "unconfirmed")
		}
		for s.Connected(0, 1) {
			time.Sleep(time.Second)
		}
		unsent := calls(map[string]func() error{
			"outside": func() error { _, err := alice.SendText(forever, "bob", "x"); return err },
			"room":    func() error { _, err := ar.SendText(forever, "bob", "x"); return err },
		})
		for name, r := range unsent {
			t.Log(name)
			is(t, r.err, "unreachable")
		}
		require.Equal(t, node.Connected, alice.Connection(), "carol is there")
	})
}
