package node_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/node"
)

// giveUp makes host i dial host j and close the connection after some time, as a host does that has
// another one by then.
func (s *sim) giveUp(i, j int, after time.Duration) {
	s.t.Helper()
	dialler, ok := s.Host(i).Network().(*swarm.Swarm)
	require.True(s.t, ok)
	conn, err := dialler.TransportForDialing(s.Addr(j)).Dial(within(s.t), s.Addr(j), s.ID(j))
	require.NoError(s.t, err)
	for s.Host(j).Network().Connectedness(s.ID(i)) != network.Connected {
		time.Sleep(time.Millisecond)
	}
	time.AfterFunc(after, func() { conn.Close() })
}

func TestConnectDoesNotFailBecauseTheOtherSideGivesItsConnectionUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.giveUp(1, 0, 100*time.Millisecond)
		require.NoError(t, s.nodes[0].Connect(within(t), s.PeerAddr(1)))
		await[*node.PeerUp](t, s.nodes[0], nil)
		s.settle()
		none[*node.PeerDown](t, drained(s.nodes[0]))
	})
}

func TestConnectTriesUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Isolate(1)
		time.AfterFunc(30*time.Second, s.Heal)
		start := time.Now()
		require.NoError(t, s.nodes[0].Connect(within(t), s.PeerAddr(1)))
		require.Greater(t, time.Since(start), 30*time.Second)

		require.NoError(t, s.nodes[1].Close())
		s.Kill(1)
		start = time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s.Isolate(1)
		require.NoError(t, s.Host(0).Network().ClosePeer(s.ID(1)))
		err := s.nodes[0].Connect(ctx, s.PeerAddr(1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 20*time.Second, time.Since(start))

		start = time.Now() // a context without a deadline still bounds it
		require.Error(t, s.nodes[0].Connect(context.Background(), s.PeerAddr(1)))
		require.Equal(t, 30*time.Second, time.Since(start))
	})
}

// A call waits for its next attempt, in turn with others. Meanwhile the peer connects by itself.
func TestConnectSucceedsWhenThePeerConnects(t *testing.T) {
	for _, others := range []int{0, 40} { // so many calls are repeated at once, to peers that do not answer
		t.Run(strconv.Itoa(others), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, 3+others, nil)
				for i := 2; i < 3+others; i++ {
					s.Isolate(i)
				}
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
				defer cancel()
				var calls sync.WaitGroup
				for i := 3; i < 3+others; i++ {
					calls.Go(func() { _ = s.nodes[0].Connect(ctx, s.PeerAddr(i)) })
				}
				time.Sleep(20 * time.Second)
				done := make(chan error, 1)
				go func() { done <- s.nodes[0].Connect(ctx, s.Addr(2).String()+"/p2p/"+s.ID(1).String()) }()
				time.Sleep(20 * time.Second)
				start := time.Now()
				require.NoError(t, s.nodes[1].Connect(ctx, s.PeerAddr(0)))
				require.NoError(t, <-done)
				require.Less(t, time.Since(start), time.Second)
				cancel()
				calls.Wait()
			})
		})
	}
}

// A call that cannot succeed fails at once.
func TestConnectDoesNotWaitForWhatCannotWork(t *testing.T) {
	n, other := start(t), start(t)
	addr := at(t, other, "tcp")
	require.NoError(t, other.Close())
	begun := time.Now()
	require.Error(t, n.Connect(context.Background(), addr), "nobody listens there")
	require.Error(t, n.Connect(context.Background(), at(t, n, "tcp")), "it is its own address")
	require.Less(t, time.Since(begun), connectPatience)
}

// connectPatience is far below the time that Connect has for attempts that may succeed.
const connectPatience = 10 * time.Second
