package dht

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestAWalkIsCompleteWhenAllWhoCountHaveAnswered(t *testing.T) {
	type node struct {
		state stepState
		spare bool
	}
	for name, c := range map[string]struct {
		nodes    []node
		complete bool
		nearest  int
	}{
		"nobody":                      {nil, false, 0},
		"all have answered":           {[]node{{answered, false}, {answered, false}}, true, 2},
		"one has not":                 {[]node{{answered, false}, {failed, false}}, false, 1},
		"a spare one has":             {[]node{{answered, true}}, true, 1},
		"a spare one has not":         {[]node{{answered, false}, {failed, true}}, true, 1},
		"only spare ones, and silent": {[]node{{failed, true}, {failed, true}}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newPath("key")
			for i, n := range c.nodes {
				p := peer.ID([]byte{byte(i)})
				w.hear(p)
				w.known[p].state, w.known[p].spare = n.state, n.spare
			}
			got := w.end()
			require.Equal(t, c.complete, got.complete)
			require.Len(t, got.nearest, c.nearest)
		})
	}
}

// A node that asks the directory during a cut finds that nobody answers.
func TestTheDirectoryIsThereAgainWithTheConnectionsThatOutliveACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4, nil)
		defer r.close()
		r.net.ConnectAll()
		time.Sleep(10 * time.Second)
		r.net.Isolate(0)
		require.False(t, r.nodes[0].seek(t, identity.Address{User: "nobody"}).complete)
		require.Zero(t, r.nodes[0].first().Kad.RoutingTable().Size())
		time.Sleep(14 * time.Second) // kad-dht looks for nodes, and finds none either
		r.net.Heal()
		time.Sleep(10 * time.Second)
		for i := 1; i < 4; i++ {
			require.True(t, r.net.Connected(0, i))
		}
		require.True(t, r.nodes[0].seek(t, identity.Address{User: "nobody"}).complete)
		require.NotZero(t, r.nodes[0].first().Kad.RoutingTable().Size())
	})
}
