package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

func TestNodesWithOtherSettingsReportEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, func(i int) []node.Option {
			if i == 0 {
				return nil
			}
			return []node.Option{node.WithMesh(mesh.WithGrace(5*time.Second), mesh.WithMaxMessage(1000),
				mesh.WithRates(mesh.Rates{Broadcast: mesh.Rate{Messages: 65, Bytes: 1 << 30}, Direct: mesh.Rate{Bytes: 1 << 30}}))}
		})
		s.Connect(0, 1)
		for i, n := range s.nodes {
			other := s.nodes[1-i].ID()
			up := await[*node.PeerUp](t, n, nil)
			require.Equal(t, other, up.Peer.Peer)
			size, grace := await[*node.SettingDiffers](t, n, nil), await[*node.SettingDiffers](t, n, nil)
			rate := await[*node.SettingDiffers](t, n, nil)
			want := [][2]string{{"65536", "1000"}, {"10s", "5s"}, {"0", "65"}}
			if i == 1 {
				want = [][2]string{{"1000", "65536"}, {"5s", "10s"}, {"65", "0"}}
			}
			require.Equal(t, node.SettingDiffers{Header: rate.Header, Peer: other, Setting: "broadcast_messages", Ours: want[2][0], Theirs: want[2][1]}, *rate)
			require.Equal(t, node.SettingDiffers{Header: size.Header, Peer: other, Setting: "max_message", Ours: want[0][0], Theirs: want[0][1]}, *size)
			require.Equal(t, node.SettingDiffers{Header: grace.Header, Peer: other, Setting: "grace", Ours: want[1][0], Theirs: want[1][1]}, *grace)
		}
	})
}
