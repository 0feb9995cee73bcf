package mesh

import (
	"context"
	"encoding/binary"
	"testing"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// written is a stream that keeps what is written.
type written struct {
	network.Stream
	got [][]byte
}

// opener is a host that opens one stream.
type opener struct {
	host.Host
	stream *written
}

func (o opener) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return o.stream, nil
}

func (w *written) Write(b []byte) (int, error) {
	w.got = append(w.got, b)
	return len(b), nil
}

func rpcBytes(t *testing.T, rpc *pb.RPC) []byte {
	t.Helper()
	body, err := proto.Marshal(rpc)
	require.NoError(t, err)
	return append(binary.AppendUvarint(nil, uint64(len(body))), body...)
}

func TestTheGateTakesATopicOutOfWhatIsWrittenToOnePeer(t *testing.T) {
	var g gate
	w := new(written)
	s, err := gatedHost{opener{stream: w}, &g}.NewStream(t.Context(), "out")
	require.NoError(t, err)
	other, err := gatedHost{opener{stream: w}, &g}.NewStream(t.Context(), "in")
	require.NoError(t, err)
	message := func(topic string) *pb.Message { return &pb.Message{Topic: &topic, Data: []byte(topic)} }
	ops, lobby := "ops", "lobby"
	full := &pb.RPC{
		Subscriptions: []*pb.RPC_SubOpts{{Subscribe: proto.Bool(true), Topicid: &ops}},
		Publish:       []*pb.Message{message(ops), message(lobby), message(ops)},
		Control: &pb.ControlMessage{
			Ihave: []*pb.ControlIHave{{TopicID: &ops}, {TopicID: &lobby}},
			Graft: []*pb.ControlGraft{{TopicID: &ops}, {TopicID: &lobby}},
			Prune: []*pb.ControlPrune{{TopicID: &ops}},
		},
	}
	want := &pb.RPC{
		Subscriptions: full.Subscriptions,
		Publish:       []*pb.Message{message(lobby)},
		Control: &pb.ControlMessage{
			Ihave: []*pb.ControlIHave{{TopicID: &lobby}}, Graft: []*pb.ControlGraft{{TopicID: &lobby}}, Prune: full.Control.Prune,
		},
	}
	raw := rpcBytes(t, full)
	write := func(s network.Stream, raw []byte) [][]byte {
		w.got = nil
		n, err := s.Write(raw)
		require.NoError(t, err)
		require.Equal(t, len(raw), n)
		return w.got
	}
	require.Equal(t, [][]byte{raw}, write(s, raw))
	g.bar("out", ops, true)
	require.Equal(t, [][]byte{raw}, write(other, raw))
	got := write(s, raw)
	require.Len(t, got, 1)
	require.Equal(t, rpcBytes(t, want), got[0])
	require.Empty(t, write(s, rpcBytes(t, &pb.RPC{Publish: []*pb.Message{message(ops)}})), "nothing is left of it")
	untouched := rpcBytes(t, &pb.RPC{Publish: []*pb.Message{message(lobby)}})
	require.Equal(t, [][]byte{untouched}, write(s, untouched))
	for _, bad := range [][]byte{{}, {5, 1}, append(rpcBytes(t, full), 0), {2, 0xff, 0xff}} {
		w.got = nil
		_, err := s.Write(bad)
		require.ErrorIs(t, err, errGate)
		require.Empty(t, w.got)
	}

	require.False(t, g.admits("out", ops))
	require.True(t, g.admits("out", lobby))
	require.True(t, g.admits("in", ops))
	rpc := &pubsub.RPC{}
	g.evict("in", rpc)
	require.Nil(t, rpc.Control)
	g.evict("out", rpc)
	require.Equal(t, ops, rpc.Control.Prune[0].GetTopicID())
	rpc = &pubsub.RPC{}
	g.evict("out", rpc)
	require.Nil(t, rpc.Control, "once")

	g.bar("out", lobby, true)
	g.bar("out", ops, false)
	require.True(t, g.admits("out", ops))
	require.False(t, g.admits("out", lobby))
	g.open(lobby)
	require.Equal(t, [][]byte{raw}, write(s, raw))
	require.Zero(t, g.count.Load())
	require.Empty(t, g.barred)
	require.Empty(t, g.prune)
}

func TestAPeerThatIsNotPutOutCostsTheGateNothing(t *testing.T) {
	var g gate
	w := &written{got: make([][]byte, 0, 1000)}
	s, err := gatedHost{opener{stream: w}, &g}.NewStream(t.Context(), "in")
	require.NoError(t, err)
	raw := make([]byte, 1000)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = s.Write(raw) }))
}
