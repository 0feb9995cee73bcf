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
		bare     bool
		complete bool
		nearest  int
		alone    bool
	}{
		"nobody":              {nil, true, false, 0, true},
		"all have answered":   {[]node{{answered, false}, {answered, false}}, false, true, 2, false},
		"one has not":         {[]node{{answered, false}, {failed, false}}, false, false, 1, false},
		"a spare one has":     {[]node{{answered, true}}, true, true, 1, false},
		"a spare one has not": {[]node{{answered, false}, {failed, true}}, false, true, 1, false},
		"a spare one has not, of spare ones alone": {[]node{{answered, true}, {failed, true}}, true, false, 1, false},
		"nobody but a dead one":                    {[]node{{failed, false}}, false, false, 0, false},
		"only spare ones, and silent":              {[]node{{failed, true}, {failed, true}}, true, false, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newPath("key")
			w.bare = c.bare
			for i, n := range c.nodes {
				p := peer.ID([]byte{byte(i)})
				w.hear(p)
				w.known[p].state, w.known[p].spare = n.state, n.spare
			}
			got := w.end()
			require.Equal(t, c.complete, got.complete)
			require.Len(t, got.nearest, c.nearest)
			require.Equal(t, c.alone, got.alone)
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
