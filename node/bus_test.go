package node

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/stretchr/testify/require"
)

// A closing host does not wait for the goroutines that identify peers. They may still report peers
// that they had begun with.
func TestANodeClosesWhilePeersAreStillIdentified(t *testing.T) {
	alice, bob := onLoopback(t), onLoopback(t)
	require.NoError(t, alice.SetUser("alice"))
	require.NoError(t, bob.SetUser("bob"))
	require.NoError(t, alice.Connect(t.Context(), bob.Addrs()[0].String()))
	conn := alice.host.Network().ConnsToPeer(bob.ID())[0]
	reports, err := alice.host.EventBus().Emitter(new(event.EvtPeerIdentificationCompleted))
	require.NoError(t, err)
	var stop atomic.Bool
	stopped, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		for !stop.Load() {
			_ = reports.Emit(event.EvtPeerIdentificationCompleted{Peer: bob.ID(), Conn: conn, ObservedAddr: conn.LocalMultiaddr()})
		}
		stopped <- reports.Close()
	}()
	go func() { closed <- alice.Close() }()
	for _, done := range []chan error{closed, stopped} {
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			t.Fatal("the node does not close")
		}
		stop.Store(true)
	}
}
