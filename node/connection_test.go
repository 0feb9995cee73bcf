package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// turns waits until the node's connection has that state, and returns the event.
func turns(t *testing.T, n *node.Node, to node.ConnectionState) *node.ConnectionChanged {
	t.Helper()
	return await(t, n, func(ev *node.ConnectionChanged) bool { return ev.State == to })
}

// states returns the states among events, in order.
func states(events []mesh.Event) (all []node.ConnectionState) {
	for _, ev := range events {
		if c, ok := ev.(*node.ConnectionChanged); ok {
			all = append(all, c.State)
		}
	}
	return all
}

// whole is what a node that has lost nothing has told.
var whole = []node.ConnectionState{node.Connecting, node.Connected}

func TestACutIsShownAndMendsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		ar, br := s.join(0, "ops"), s.join(1, "ops")
		require.NoError(t, ar.WaitPeers(within(t), 1))
		require.NoError(t, br.WaitPeers(within(t), 1))
		require.Equal(t, node.Connected, alice.Connection())
		s.Cut(0, 1)
		for _, n := range s.nodes {
			down := turns(t, n, node.Disconnected)
			require.Equal(t, node.Connected, down.Before)
			require.True(t, down.LoggedIn, "a cut ends no log-in")
			turns(t, n, node.Reconnecting)
			lost := turns(t, n, node.Lost)
			require.Equal(t, node.Reconnecting, lost.Before)
			require.Equal(t, node.Lost, n.Connection())
		}
		require.Len(t, ar.Members(), 1, "the others have given it up by then")
		require.Len(t, br.Members(), 1)
		s.Heal()
		for _, n := range s.nodes {
			back := turns(t, n, node.Reconnected)
			require.True(t, back.LoggedIn)
			require.Equal(t, node.Reconnected, n.Connection())
		}
		// What others see of the log-in is back with the connection. No call asks for it.
		for from, to := range map[*node.Node]string{alice: "bob", bob: "alice"} {
			_, err := from.SendText(within(t), to, "again")
			require.NoError(t, err)
			status, err := from.Status(within(t), to)
			require.NoError(t, err)
			require.Equal(t, presence.Online, status.State)
		}
		for _, n := range s.nodes {
			require.Equal(t, "again", string(await[*mesh.DirectMessage](t, n, nil).Data))
		}
		require.NoError(t, ar.WaitPeers(within(t), 1))
		_, err := ar.Send(within(t), "bob", []byte("in the room"))
		require.NoError(t, err)

		s.Cut(0, 1)
		require.Equal(t, node.Reconnected, turns(t, alice, node.Disconnected).Before, "a second loss")
	})
}

func TestAGoodbyeIsNoLossAndACrashIsOne(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *sim)
		want []node.ConnectionState
	}{
		"closed": {func(s *sim) { s.nodes[1].Close(); s.Host(1).Close() }, whole},
		"closed with others in a room": {func(s *sim) {
			s.login(0, "alice")
			s.login(1, "bob")
			r, _ := s.join(0, "ops"), s.join(1, "ops")
			require.NoError(s.t, r.WaitPeers(within(s.t), 1))
			s.nodes[1].Close()
			s.Host(1).Close()
		}, whole},
		"restarted": {func(s *sim) {
			s.nodes[1].Close()
			s.Restart(1)
			s.run(1)
			s.Connect(1, 0)
			s.settle()
			s.nodes[1].Close()
			s.Host(1).Close()
		}, whole},
		"crashed": {func(s *sim) { s.Kill(1) }, append(whole[:2:2], node.Disconnected, node.Reconnecting, node.Lost)},
		"crashed after a restart": {func(s *sim) {
			s.nodes[1].Close()
			s.Restart(1)
			s.run(1)
			s.Connect(1, 0)
			s.settle()
			s.Kill(1)
		}, append(whole[:2:2], node.Disconnected, node.Reconnecting, node.Lost)},
		"trimmed": {func(s *sim) {
			for _, c := range s.Host(1).Network().ConnsToPeer(s.ID(0)) {
				c.CloseWithError(network.ConnGarbageCollected)
			}
			s.nodes[1].Close()
		}, whole},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, 2, nil)
				s.Connect(0, 1)
				s.settle()
				c.end(s)
				time.Sleep(2 * time.Minute)
				require.Equal(t, c.want, states(drained(s.nodes[0])))
			})
		})
	}
}

// Of two connections that cross, one is given up. Neither that, nor the end of both before a third
// is there, is a loss.
func TestAConnectionThatIsReplacedIsNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		both(func(i int) { s.Connect(i, 1-i) })
		s.settle()
		for range 3 {
			for _, c := range s.Host(0).Network().ConnsToPeer(s.ID(1)) {
				require.NoError(t, c.Close())
				s.Connect(1, 0)
				s.settle()
			}
		}
		require.True(t, s.Connected(0, 1))
		for _, n := range s.nodes {
			require.Equal(t, whole, states(drained(n)))
		}
	})
}

func TestANodeAloneIsConnectedUntilItIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 1, nil)
		alice := s.login(0, "alice")
		time.Sleep(time.Hour)
		require.Equal(t, node.Connected, alice.Connection())
		require.NoError(t, alice.Close())
		require.Equal(t, node.Disconnected, alice.Connection())
		require.Equal(t, whole, states(drained(alice)))
	})
}

func TestANodeOnLoopbackAloneHasAUsableInterface(t *testing.T) {
	n, err := node.New(node.WithListen("/ip4/127.0.0.1/tcp/0"))
	require.NoError(t, err)
	require.Equal(t, node.Connected, n.Connection())
	require.NoError(t, n.Close())
}

// The host of a node that has closed may stay connected. The node is not there all the same.
func TestANodeThatHasSaidGoodbyeIsNotThereThoughItsHostIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.Connect(0, 1)
		s.Connect(0, 2)
		s.settle()
		require.NoError(t, s.nodes[1].Close())
		s.Kill(2)
		turns(t, s.nodes[0], node.Disconnected)
		require.True(t, s.Connected(0, 1))
	})
}

func TestALostNodeThatComesBackAsOneOfAnotherAppIsMissedNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		s.settle()
		s.Kill(1)
		turns(t, s.nodes[0], node.Disconnected)
		s.nodes[1].Close()
		s.Restart(1)
		s.run(1, node.WithApp("other"))
		turns(t, s.nodes[0], node.Reconnected)
		require.Empty(t, s.nodes[0].Online())
	})
}
