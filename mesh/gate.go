package mesh

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"
)

// gate keeps what is said in rooms from peers that are put out of them, also from one that stays
// subscribed. GossipSub can ban a peer only from all topics, so the gate takes the topic out of
// what GossipSub writes to that peer. It also keeps the peer out of the topic mesh, where others
// need its place. While nobody is put out, it costs one atomic load for each write.
type gate struct {
	count atomic.Int64 // of barred pairs

	mu     sync.Mutex
	barred map[peer.ID]map[string]struct{} // peer to topics
	prune  map[peer.ID]map[string]struct{} // of these, where it may still be in the topic mesh
}

// bar keeps a topic from a peer, or no longer.
func (g *gate) bar(p peer.ID, topic string, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.barred == nil {
		g.barred, g.prune = make(map[peer.ID]map[string]struct{}), make(map[peer.ID]map[string]struct{})
	}
	if on {
		for _, list := range []map[peer.ID]map[string]struct{}{g.barred, g.prune} {
			if list[p] == nil {
				list[p] = make(map[string]struct{})
			}
			list[p][topic] = struct{}{}
		}
	} else {
		for _, list := range []map[peer.ID]map[string]struct{}{g.barred, g.prune} {
			if delete(list[p], topic); len(list[p]) == 0 {
				delete(list, p)
			}
		}
	}
	n := 0
	for _, topics := range g.barred {
		n += len(topics)
	}
	g.count.Store(int64(n))
}

// open lets all peers have a topic: the room was left.
func (g *gate) open(topic string) {
	if g.count.Load() == 0 {
		return
	}
	g.mu.Lock()
	var peers []peer.ID
	for p, topics := range g.barred {
		if _, ok := topics[topic]; ok {
			peers = append(peers, p)
		}
	}
	g.mu.Unlock()
	for _, p := range peers {
		g.bar(p, topic, false)
	}
}

// closed returns the topics that are kept from a peer; nil: none.
func (g *gate) closed(p peer.ID) []string {
	if g.count.Load() == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for topic := range g.barred[p] {
		out = append(out, topic)
	}
	return out
}

// bars reports whether any peer is kept from anything.
func (g *gate) bars() bool { return g.count.Load() > 0 }

// admits is GossipSub's peer filter: a peer that it refuses is not taken into the topic mesh, and
// gets nothing that it asks for.
func (g *gate) admits(p peer.ID, topic string) bool {
	if !g.bars() {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, barred := g.barred[p][topic]
	return !barred
}

// evict makes GossipSub take a peer that was put out from the topic mesh: it adds what the peer
// would say to leave it to the peer's message.
func (g *gate) evict(p peer.ID, rpc *pubsub.RPC) {
	if g.count.Load() == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for topic := range g.prune[p] {
		if rpc.Control == nil {
			rpc.Control = new(pb.ControlMessage)
		}
		rpc.Control.Prune = append(rpc.Control.Prune, &pb.ControlPrune{TopicID: proto.String(topic), Backoff: proto.Uint64(1)})
	}
	delete(g.prune, p)
}

// gatedHost is the host that GossipSub sees: what it writes passes the gate.
type gatedHost struct {
	host.Host
	gate *gate
}

func (h gatedHost) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	s, err := h.Host.NewStream(ctx, p, ids...)
	if err != nil {
		return nil, err
	}
	return &gatedStream{s, h.gate, p}, nil
}

// gatedStream is a stream on which GossipSub writes to a peer, one RPC with its length at a time.
type gatedStream struct {
	network.Stream
	gate *gate
	peer peer.ID
}

var errGate = errors.New("GossipSub wrote something other than one RPC")

// Write writes one RPC, without what is kept from the peer.
func (s *gatedStream) Write(b []byte) (int, error) {
	topics := s.gate.closed(s.peer)
	if len(topics) == 0 {
		return s.Stream.Write(b)
	}
	size, n := binary.Uvarint(b)
	if n <= 0 || size != uint64(len(b)-n) {
		return 0, errGate
	}
	var rpc pb.RPC
	if err := proto.Unmarshal(b[n:], &rpc); err != nil {
		return 0, errors.Join(errGate, err)
	}
	if !withhold(&rpc, topics) {
		return s.Stream.Write(b)
	}
	body, err := proto.Marshal(&rpc)
	if err != nil {
		return 0, err
	}
	if len(body) > 0 {
		if _, err := s.Stream.Write(append(binary.AppendUvarint(nil, uint64(len(body))), body...)); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// withhold takes out of an RPC the messages of some topics, and what says which messages there are.
// It reports whether there was any.
func withhold(rpc *pb.RPC, topics []string) (changed bool) {
	before := len(rpc.Publish) + len(rpc.GetControl().GetIhave()) + len(rpc.GetControl().GetGraft())
	rpc.Publish = slices.DeleteFunc(rpc.Publish, func(m *pb.Message) bool { return slices.Contains(topics, m.GetTopic()) })
	if c := rpc.Control; c != nil {
		c.Ihave = slices.DeleteFunc(c.Ihave, func(m *pb.ControlIHave) bool { return slices.Contains(topics, m.GetTopicID()) })
		c.Graft = slices.DeleteFunc(c.Graft, func(m *pb.ControlGraft) bool { return slices.Contains(topics, m.GetTopicID()) })
	}
	return before != len(rpc.Publish)+len(rpc.GetControl().GetIhave())+len(rpc.GetControl().GetGraft())
}
