package node_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

func TestCloseIsQuickAndMayBeRepeated(t *testing.T) {
	a, b := start(t), start(t)
	require.NoError(t, a.Login(within(t), "alice"))
	require.NoError(t, b.Login(within(t), "bob"))
	require.NoError(t, a.Connect(within(t), at(t, b, "tcp")))
	ar, err := a.Join(within(t), "ops")
	require.NoError(t, err)
	br, err := b.Join(within(t), "ops")
	require.NoError(t, err)
	require.NoError(t, ar.WaitPeers(within(t), 1))

	begun := time.Now()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, a.Close())
	require.Less(t, time.Since(begun), 2*time.Second)
	left := await(t, br, func(ev *mesh.MemberLeft) bool { return true })
	require.Equal(t, mesh.Quit, left.Reason, "the others heard a good-bye")
	changed := await(t, b, func(ev *node.PeerChanged) bool { return true })
	require.False(t, changed.Peer.LoggedIn)
}

func TestCloseWaitsNoLongerForPeersThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice := s.login(0, "alice")
		s.login(1, "bob")
		ar, _ := s.join(0, "ops"), s.join(1, "ops")
		require.NoError(t, ar.WaitPeers(within(t), 1))
		s.Pause(1)
		_, err := alice.SendAsync(within(t), "bob", []byte("x"))
		require.NoError(t, err)
		begun := time.Now()
		require.NoError(t, alice.Close())
		require.LessOrEqual(t, time.Since(begun), 2*time.Second)
	})
}

func TestCloseEndsCallsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice := s.login(0, "alice")
		s.login(1, "bob")
		s.join(1, "ops")
		s.settle()
		p, err := alice.SendAsync(context.Background(), "bob", []byte("first"))
		require.NoError(t, err)
		<-p.Done()
		s.Cut(0, 1)
		pending, err := alice.SendAsync(context.Background(), "bob", []byte("unanswered"))
		require.NoError(t, err)
		calls := map[string]func() error{
			"join": func() error { _, err := alice.Join(context.Background(), "ops"); return err },
			"send": func() error { _, err := alice.Send(context.Background(), "bob", []byte("x")); return err },
			"find": func() error { _, err := alice.Find(context.Background(), "nobody"); return err },
			"recv": func() error { return ends(t, alice) },
		}
		results := make(map[string]error)
		var (
			mu sync.Mutex
			wg sync.WaitGroup
		)
		for name, call := range calls {
			wg.Go(func() {
				err := call()
				mu.Lock()
				defer mu.Unlock()
				results[name] = err
			})
		}
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, alice.Close())
		wg.Wait()
		for name, err := range results {
			if !errors.Is(err, net.ErrClosed) && !(name == "find" && err != nil) {
				t.Errorf("%s: %v", name, err)
			}
		}
		select {
		case <-pending.Done():
		default:
			t.Fatal("a send is still pending after Close")
		}
		_, err = pending.Result()
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestTheCallersHostStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		await[*node.PeerUp](t, s.nodes[0], nil)
		require.NoError(t, s.nodes[0].Close())
		require.True(t, s.Connected(0, 1))
		n := s.run(0) // a second node on the same host, after the first
		await[*node.PeerUp](t, n, nil)
	})
}

func TestAnyCallMayBeMadeWhileHandlingAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		s.settle()
		_, err := alice.SendText(within(t), "bob", "ping")
		require.NoError(t, err)
		for ev, err := range bob.Events(within(t)) {
			require.NoError(t, err)
			if msg, ok := ev.(*mesh.DirectMessage); ok {
				require.Equal(t, "ping", string(msg.Data))
				_, err := bob.SendText(within(t), msg.From.Address().String(), "pong")
				require.NoError(t, err)
				require.NoError(t, bob.Logout(within(t)))
				require.NoError(t, bob.Close())
			}
		}
		require.Equal(t, "pong", string(await[*mesh.DirectMessage](t, alice, nil).Data))
	})
}
