package mesh

import (
	"context"
	"slices"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/stretchr/testify/require"
)

// withoutGossip ends GossipSub's streams between the stations, and lets them open no further one.
func (f *flock) withoutGossip() {
	for _, s := range f.at {
		for _, id := range pubsub.GossipSubDefaultProtocols {
			s.host.RemoveStreamHandler(id)
		}
	}
	for _, s := range f.at {
		for _, c := range s.host.Network().Conns() {
			for _, stream := range c.GetStreams() {
				if slices.Contains(pubsub.GossipSubDefaultProtocols, stream.Protocol()) {
					_ = stream.Reset()
				}
			}
		}
	}
}

// GossipSub does not carry every goodbye, for instance if a member leaves a moment after it was
// met. Its neighbours are told how far its feed has got, and ask for the rest.
func TestAGoodbyeArrivesThatGossipDoesNotCarry(t *testing.T) {
	for name, leave := range map[string]func(*Room) error{
		"Leave": func(r *Room) error { return r.Leave(context.Background()) },
		"Close": func(r *Room) error { return r.mesh.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				rooms := f.joinAll("ops")
				require.Equal(t, []string{"+u1"}, read(t, rooms[0], 1))
				f.withoutGossip()
				start := time.Now()
				require.NoError(t, leave(rooms[1]))
				require.Equal(t, []string{"-u1 quit"}, read(t, rooms[0], 1))
				require.Less(t, time.Since(start), goodbyeWait, "and it was known that it has arrived")
			})
		})
	}
}
