package mesh

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/walltime"
)

const topicPrefix = "/starling/room/1/"

var topicEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// topicName is the topic that neighbours see a subscription to: it reveals nothing of the room to
// those who do not know it.
func topicName(tag [32]byte) string {
	return topicPrefix + topicEncoding.EncodeToString(tag[:])
}

const (
	// gossipQueue replaces GossipSub's three default queues of 32, each of which silently loses
	// half of a burst of 1000 small messages.
	gossipQueue = 4096
	// maxRPC must hold an envelope with room to spare: one message over it from any peer, such as
	// one with another implementation, would cut that peer off for ever.
	maxRPC = 4 << 20
	// maxSubscriptions is how many rooms one peer may be in, as far as this node counts.
	maxSubscriptions = 1024
	// seenLife is how long GossipSub remembers a message; it then forgets it within a minute.
	// Copies travel for less: a peer that takes nothing is cut off after 9 s, and what is older
	// than 5 heartbeats is handed out to nobody. Any peer can make all others remember what it
	// signs, 0.2 kB for each message: with the default of 2 min two to four times as much.
	seenLife = 30 * time.Second
	// offeredFor is for how many heartbeats a message is offered to neighbours outside the topic
	// mesh. GossipSub's 3 carry old messages into parts of the room that were apart, to members
	// that have joined since. What is missing there is repaired instead, with its age.
	offeredFor = 1
	// rejoinBackoff is how long nodes that saw us unsubscribe refuse to take us back into their
	// topic mesh. Users would notice GossipSub's 10 s when they leave a room and join it again.
	rejoinBackoff = time.Second
)

// gossipParams returns the parameters for rooms in which most members are connected to each other:
// the author itself sends to all its neighbours (flood publish), and the topic mesh, which is for
// those further away, can be thin. With D = 6 each member gets 5 to 6 copies of everything, with D
// = 3 fewer than 2. D belongs to a router, and so applies to all rooms of the node.
func (m *Mesh) gossipParams() pubsub.GossipSubParams {
	p := pubsub.DefaultGossipSubParams()
	switch d := m.cfg.degree; d {
	case MinMeshDegree:
		p.D, p.Dlo, p.Dhi, p.Dout, p.Dscore = 3, 2, 4, 0, 2
	default: // 4, 3, 6, 1 is what was measured; higher degrees are in proportion
		p.D, p.Dlo, p.Dhi, p.Dout, p.Dscore = d, d-1, 2*d-2, d/2-1, 2
	}
	p.HeartbeatInterval = m.cfg.heartbeat
	p.UnsubscribeBackoff = rejoinBackoff
	p.HistoryGossip = offeredFor
	return p
}

// startGossip creates the GossipSub router. Its goroutines end with m.ctx, since pubsub has no
// Close.
func (m *Mesh) startGossip() error {
	m.flow.init()
	m.topics.counts = make(map[peer.ID]int)
	m.topics.lost = make(map[peer.ID]map[string]struct{})
	ps, err := pubsub.NewGossipSub(m.ctx, gatedHost{m.host, &m.gate},
		pubsub.WithGossipSubParams(m.gossipParams()),
		pubsub.WithFloodPublish(true),
		// One signature, ours, inside the message. There is no author either: with one, js-libp2p
		// would refuse the unsigned messages for their sequence numbers.
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(messageID),
		pubsub.WithDefaultValidator(m.validate, pubsub.WithValidatorInline(true)),
		pubsub.WithPeerOutboundQueueSize(gossipQueue),
		pubsub.WithValidateQueueSize(gossipQueue),
		pubsub.WithMaxMessageSize(maxRPC),
		pubsub.WithSeenMessagesTTL(seenLife),
		pubsub.WithSubscriptionFilter(&m.topics),
		pubsub.WithPeerFilter(m.gate.admits),
		pubsub.WithAppSpecificRpcInspector(m.inspect),
		pubsub.WithRawTracer(&tracer{m: m}),
		pubsub.WithLogger(slog.New(debugOnly{m.log.Handler()})),
		pubsub.WithRPCLogger(slog.New(debugOnly{m.log.Handler()})),
	)
	if err != nil {
		return err
	}
	m.pubsub = ps
	m.startLinks()
	m.repairs.init()
	m.host.SetStreamHandler(SyncProtocol, m.handleSync)
	return nil
}

// debugOnly logs everything at Debug: GossipSub warns about what peers do and about what is normal
// here, such as a topic that was left a moment ago.
type debugOnly struct{ slog.Handler }

func (h debugOnly) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.Handler.Enabled(ctx, slog.LevelDebug)
}

func (h debugOnly) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, r)
}

func (h debugOnly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return debugOnly{h.Handler.WithAttrs(attrs)}
}
func (h debugOnly) WithGroup(name string) slog.Handler { return debugOnly{h.Handler.WithGroup(name)} }

// messageID must be a hash of everything that was signed and of the signature. GossipSub marks a
// message as seen before our check runs, so with an ID that a forger can choose, a forgery would
// block the genuine message.
//
// The topic is hashed as well, since GossipSub remembers the messages of all topics together.
// Otherwise the bytes of one room, sent under the topic of another, would be rejected there and
// block the genuine message here.
func messageID(msg *pb.Message) string {
	h := sha256.New()
	_, _ = io.WriteString(h, msg.GetTopic())
	_, _ = h.Write(msg.Data)
	return string(h.Sum(nil))
}

// roomTopics admits subscriptions to rooms and to nothing else, and counts those of each peer. It
// also knows which ones GossipSub has forgotten: when one of two connections to a peer ends, for
// instance after the peer has restarted, GossipSub forgets what the peer said over the other one,
// and the peer has no cause to say it again.
type roomTopics struct {
	mu     sync.Mutex
	counts map[peer.ID]int
	lost   map[peer.ID]map[string]struct{}
}

// lose notes that a peer is subscribed to a topic and that GossipSub does not know it.
func (f *roomTopics) lose(p peer.ID, topic string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost[p] == nil {
		f.lost[p] = make(map[string]struct{})
	}
	f.lost[p][topic] = struct{}{}
}

// found notes that GossipSub knows a peer's subscription.
func (f *roomTopics) found(p peer.ID, topic string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.lost[p], topic)
	if len(f.lost[p]) == 0 {
		delete(f.lost, p)
	}
}

// inspect changes what a peer has said before GossipSub reads it.
func (m *Mesh) inspect(p peer.ID, rpc *pubsub.RPC) error {
	m.gate.evict(p, rpc)
	return m.topics.restore(p, rpc)
}

// restore adds what GossipSub has forgotten to the peer's message, as if the peer had said it
// first.
func (f *roomTopics) restore(p peer.ID, rpc *pubsub.RPC) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lost) == 0 || len(f.lost[p]) == 0 {
		return nil
	}
	var subs []*pb.RPC_SubOpts
	for topic := range f.lost[p] {
		subs = append(subs, &pb.RPC_SubOpts{Subscribe: proto.Bool(true), Topicid: proto.String(topic)})
	}
	rpc.Subscriptions = append(subs, rpc.Subscriptions...)
	f.counts[p] = max(f.counts[p]-len(subs), 0) // they are about to be counted again
	delete(f.lost, p)
	return nil
}

// topicSize is the length of every room's topic name: 52 characters encode 32 bytes in base32.
const topicSize = len(topicPrefix) + 52

func (*roomTopics) CanSubscribe(topic string) bool {
	return len(topic) == topicSize && strings.HasPrefix(topic, topicPrefix)
}

func (f *roomTopics) FilterIncomingSubscriptions(p peer.ID, subs []*pb.RPC_SubOpts) ([]*pb.RPC_SubOpts, error) {
	if len(subs) > maxSubscriptions {
		return nil, pubsub.ErrTooManySubscriptions
	}
	subs = pubsub.FilterSubscriptions(subs, f.CanSubscribe)
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.counts[p]
	for _, s := range subs {
		if s.GetSubscribe() {
			n++
		} else {
			n = max(n-1, 0)
		}
	}
	if n > maxSubscriptions {
		return nil, pubsub.ErrTooManySubscriptions
	}
	f.counts[p] = n
	return subs, nil
}

func (f *roomTopics) forget(p peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.counts, p)
	delete(f.lost, p)
}

// flow counts how many bytes of envelopes wait for each peer: handed to GossipSub, and not yet
// taken by the peer's connection. A sender that outruns the network waits for flow; GossipSub would
// drop.
type flow struct {
	clock walltime.Clock

	mu    sync.Mutex
	peers map[peer.ID]*peerFlow
	moved task.Changes // bytes have gone out
}

type peerFlow struct {
	bytes int
	last  time.Time // when bytes last went out, or began to wait
}

const (
	// flowWindow is how many bytes may wait for one peer before the sender waits. It covers the 1
	// MiB that a gigabit link carries in 8 ms; much more is only delay.
	flowWindow = 1 << 20
	// flowStall is after how long a peer that takes nothing is no longer waited for. Without it one
	// frozen member would hold up all others, until its connection is given up.
	flowStall = 150 * time.Millisecond
)

func (f *flow) init() {
	f.peers = make(map[peer.ID]*peerFlow)
}

func (f *flow) queued(p peer.ID, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	pf := f.peers[p]
	if pf == nil {
		pf = new(peerFlow)
		f.peers[p] = pf
	}
	if pf.bytes == 0 {
		pf.last = f.clock.Now()
	}
	pf.bytes += n
}

func (f *flow) done(p peer.ID, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	pf := f.peers[p]
	if pf == nil {
		return
	}
	pf.bytes -= n
	pf.last = f.clock.Now()
	if pf.bytes <= 0 {
		delete(f.peers, p)
	}
	f.movedLocked()
}

// forget drops what waited for a peer whose stream has ended: none of it will be reported as sent.
func (f *flow) forget(p peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.peers, p)
	f.movedLocked()
}

func (f *flow) movedLocked() {
	f.moved.Tell()
}

// blocked reports whether a peer that still takes bytes has more than limit bytes waiting. It also
// returns a channel that is closed at the next change, and when the answer may change by itself.
func (f *flow) blocked(limit int, now time.Time) (bool, <-chan struct{}, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := time.Duration(0)
	for _, pf := range f.peers {
		if left := flowStall - now.Sub(pf.last); pf.bytes > limit && left > 0 {
			wait = max(wait, left)
		}
	}
	return wait > 0, f.moved.Next(), wait
}

// tracer reports to flow and the counters what GossipSub does with our messages.
type tracer struct{ m *Mesh }

func envelopeBytes(rpc *pubsub.RPC) (n int) {
	for _, msg := range rpc.GetPublish() {
		n += len(msg.GetData())
	}
	return n
}

func (t *tracer) SendRPC(rpc *pubsub.RPC, p peer.ID) {
	if n := envelopeBytes(rpc); n > 0 {
		t.m.flow.queued(p, n)
	}
}

func (t *tracer) SendRPCCompleted(rpc *pubsub.RPC, p peer.ID, _ time.Duration) {
	if n := envelopeBytes(rpc); n > 0 {
		t.m.flow.done(p, n)
		t.m.stats.envelopeCopies.Add(uint64(len(rpc.GetPublish())))
	}
}

func (t *tracer) DropRPC(rpc *pubsub.RPC, p peer.ID) {
	if n := len(rpc.GetPublish()); n > 0 {
		t.m.stats.envelopesDropped.Add(uint64(n))
		t.m.log.Debug("envelopes dropped: queue to peer full", "peer", p, "envelopes", n)
	}
}

func (t *tracer) OnClosedOutboundStream(p peer.ID) { t.m.flow.forget(p) }

func (t *tracer) RecvRPC(*pubsub.RPC) {}

func (t *tracer) RejectMessage(msg *pubsub.Message, reason string) {
	switch reason {
	case pubsub.RejectValidationQueueFull, pubsub.RejectValidationThrottled:
		t.m.stats.envelopesDropped.Add(1)
	case pubsub.RejectValidationIgnored:
		return // of a room that was left just now
	default:
		t.m.stats.envelopesRejected.Add(1)
	}
	t.m.log.Debug("envelope rejected", "peer", msg.ReceivedFrom, "reason", reason)
}

func (t *tracer) UndeliverableMessage(msg *pubsub.Message) {
	t.m.stats.envelopesDropped.Add(1)
	t.m.log.Debug("envelope dropped: subscription full", "peer", msg.ReceivedFrom)
}

func (t *tracer) DuplicateMessage(*pubsub.Message)         { t.m.stats.envelopeDuplicates.Add(1) }
func (t *tracer) OnNewOutboundStream(peer.ID, protocol.ID) {}
func (t *tracer) Join(string)                              {}
func (t *tracer) Leave(string)                             {}
func (t *tracer) Graft(peer.ID, string)                    {}
func (t *tracer) Prune(peer.ID, string)                    {}
func (t *tracer) ValidateMessage(*pubsub.Message)          {}
func (t *tracer) DeliverMessage(*pubsub.Message)           {}
func (t *tracer) ThrottlePeer(peer.ID)                     {}

var _ pubsub.RawTracer = (*tracer)(nil)
