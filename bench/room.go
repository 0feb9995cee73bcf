package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// member is one node's place in a room, of Starling or of bare GossipSub. One goroutine publishes
// and another one reads.
type member interface {
	// publish hands a message over; it may return before the message has left.
	publish(ctx context.Context, data []byte) error
	// settle returns when everything published so far has left the room's own queue, or an error
	// that says why it has not.
	settle(ctx context.Context) error
	// next returns the next message of another member.
	next(ctx context.Context) ([]byte, error)
}

// room is n members, all connected with each other.
type room struct {
	members []member
	// window is how many messages each publisher may have on their way, since bare GossipSub loses
	// messages when it is given more than the network takes; 0: the room itself makes publishers
	// wait.
	window int
	// strict: the room promises each message once, in order and without loss.
	strict bool
	stats  func() mesh.Stats // of all nodes together; nil for bare GossipSub
	close  func()
}

// maker opens a room of n members.
type maker struct {
	name string
	open func(tb testing.TB, n int) *room
}

var makers = []maker{
	{"bare", func(tb testing.TB, n int) *room { return openGossip(tb, n, bareNoSign) }},
	{"bare-signed", func(tb testing.TB, n int) *room { return openGossip(tb, n, nil) }},
	{"bare-thin", func(tb testing.TB, n int) *room { return openGossip(tb, n, bareThin) }},
	{"starling", openStarling},
}

// awaitOverlay gives GossipSub's topic mesh the time to form: bare GossipSub loses what is
// published before.
func awaitOverlay() {
	if testing.Short() {
		time.Sleep(1200 * time.Millisecond) // a heartbeat, and how late it may be
	} else {
		time.Sleep(2200 * time.Millisecond)
	}
}

// seat is a member of a room of Starling.
type seat struct {
	*mesh.Room
	last mesh.Pending[mesh.Published]
}

func (s *seat) publish(ctx context.Context, data []byte) (err error) {
	s.last, err = s.PublishAsync(ctx, data, mesh.WithWaiting())
	return err
}

func (s *seat) settle(ctx context.Context) error {
	if s.last == (mesh.Pending[mesh.Published]{}) {
		return nil
	}
	_, err := s.last.Wait(ctx)
	return err
}

func (s *seat) next(ctx context.Context) ([]byte, error) {
	for {
		ev, err := s.Recv(ctx)
		if err != nil {
			return nil, err
		}
		switch ev := ev.(type) {
		case *mesh.Message:
			return ev.Data, nil
		case *mesh.RoomReady, *mesh.MemberJoined:
		case *mesh.Lagged:
			return nil, fmt.Errorf("a reader missed %d messages", ev.Missed)
		default:
			return nil, fmt.Errorf("unexpected event: %+v", ev)
		}
	}
}

// openStarling opens a room of Starling with the default of every option but the queue.
func openStarling(tb testing.TB, n int) *room {
	tb.Helper()
	nodes := newNodes(tb, n, mesh.WithQueue(mesh.QueueLimits{Events: 1 << 16, Bytes: 16 << 20}))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := &room{members: make([]member, n), strict: true}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, node := range nodes {
		wg.Go(func() {
			joined, err := node.Join(ctx, "bench")
			if err == nil {
				err = joined.WaitPeers(ctx, n-1)
			}
			r.members[i], errs[i] = &seat{Room: joined}, err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
	r.stats = func() (sum mesh.Stats) {
		for _, node := range nodes {
			s := node.Stats()
			sum.EnvelopesPublished += s.EnvelopesPublished
			sum.MessagesPublished += s.MessagesPublished
			sum.EnvelopesTaken += s.EnvelopesTaken
			sum.EnvelopeCopies += s.EnvelopeCopies
			sum.EnvelopesDropped += s.EnvelopesDropped
		}
		return sum
	}
	r.close = func() {
		var wg sync.WaitGroup
		for _, node := range nodes {
			wg.Go(node.close)
		}
		wg.Wait()
	}
	awaitOverlay()
	return r
}

// bareQueue replaces the size of GossipSub's three queues. Their default of 32 would lose most of
// what is published here.
const bareQueue = 1 << 15

// bareWindow is the window of the bare rooms. At 8 members it gave the best throughput of 16, 64,
// 256 and 1024.
const bareWindow = 256

// gossiper is a member of a bare room.
type gossiper struct {
	self  peer.ID
	topic *pubsub.Topic
	sub   *pubsub.Subscription
}

// publish copies data, since GossipSub keeps the slice that it is given.
func (g *gossiper) publish(ctx context.Context, data []byte) error {
	return g.topic.Publish(ctx, append([]byte(nil), data...))
}

func (g *gossiper) settle(context.Context) error { return nil }

func (g *gossiper) next(ctx context.Context) ([]byte, error) {
	for {
		msg, err := g.sub.Next(ctx)
		if err != nil {
			return nil, err
		}
		if msg.ReceivedFrom != g.self {
			return msg.Data, nil
		}
	}
}

// bareNoSign is GossipSub without signatures: it proves less to each receiver than Starling. The
// message ID, made of author and sequence number, is the default one.
var bareNoSign = []pubsub.Option{pubsub.WithMessageSignaturePolicy(pubsub.LaxNoSign)}

// bareThin also uses Starling's topic mesh. What then still differs is Starling's batching,
// signature and order.
var bareThin = func() []pubsub.Option {
	p := pubsub.DefaultGossipSubParams()
	p.D, p.Dlo, p.Dhi, p.Dout, p.Dscore = 3, 2, 4, 0, 2
	return []pubsub.Option{pubsub.WithMessageSignaturePolicy(pubsub.LaxNoSign), pubsub.WithGossipSubParams(p), pubsub.WithFloodPublish(true)}
}()

// openGossip opens a room of bare GossipSub with its defaults, signatures included, except for its
// queues.
func openGossip(tb testing.TB, n int, opts []pubsub.Option) *room {
	tb.Helper()
	opts = append([]pubsub.Option{pubsub.WithPeerOutboundQueueSize(bareQueue), pubsub.WithValidateQueueSize(bareQueue)}, opts...)
	ctx, cancel := context.WithCancel(context.Background())
	r := &room{members: make([]member, n), window: bareWindow}
	hosts := make([]host.Host, n)
	topics := make([]*pubsub.Topic, n)
	for i := range hosts {
		keys, err := identity.GenerateKeys()
		if err != nil {
			tb.Fatal(err)
		}
		hosts[i] = newHost(tb, keys)
		ps, err := pubsub.NewGossipSub(ctx, hosts[i], opts...)
		if err != nil {
			tb.Fatal(err)
		}
		if topics[i], err = ps.Join("bench"); err != nil {
			tb.Fatal(err)
		}
		sub, err := topics[i].Subscribe(pubsub.WithBufferSize(bareQueue))
		if err != nil {
			tb.Fatal(err)
		}
		r.members[i] = &gossiper{hosts[i].ID(), topics[i], sub}
	}
	connectAll(tb, hosts)
	r.close = func() {
		cancel()
		for _, h := range hosts {
			h.Close()
		}
	}
	for patience := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		missing := 0
		for _, t := range topics {
			missing += n - 1 - len(t.ListPeers())
		}
		if missing == 0 {
			break
		}
		if time.Now().After(patience) {
			tb.Fatalf("%d subscriptions have not been heard of", missing)
		}
	}
	awaitOverlay()
	return r
}
