package mesh

import (
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// between is a network that looks a peer up just before a connection to it is there.
type between struct {
	network.Network
	then func()
}

func (b *between) Connectedness(peer.ID) network.Connectedness {
	go b.then()
	for range 10_000 { // no clock: a goroutine that waits for a lock would stop it
		runtime.Gosched()
	}
	return network.NotConnected
}

func TestTheEndOfAConnectionDoesNotOutrunTheBeginOfTheNext(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.Connect(0, 1)
		rooms := f.joinAll("ops")
		settle()
		here, p := f.at[0], f.net.ID(1)
		conn := here.host.Network().ConnsToPeer(p)[0]
		w := (*watcher)(here.Mesh)
		w.Disconnected(&between{here.host.Network(), func() { w.Connected(here.host.Network(), conn) }}, conn)
		time.Sleep(500 * time.Millisecond) // before anybody is accused
		r := rooms[0]
		in := r.inside()
		require.Contains(t, in.Near, p, "a connected neighbour")
		require.True(t, in.LostAt[p].IsZero())
	})
}
