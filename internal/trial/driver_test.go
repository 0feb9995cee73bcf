package trial

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// patience bounds a Publish that waits for its outcome.
const patience = 5 * time.Second

// driver runs member i on its host, links it to the given members, and returns when it is in the
// room. What the member receives goes to ear.
type driver func(t *testing.T, net *meshtest.Net, i int, links []int, ear listener) session

// listener takes what a member receives, from one goroutine.
type listener interface {
	message(from string, data []byte) // from is "" if nothing vouches for the sender
	gap(user string, missing int)     // reported as lost
	lagged(missed int)                // dropped because the trial read too slowly
}

// session is a member in the room.
type session interface {
	publish(data []byte) (outcome func() error) // outcome waits until publishing has ended
	publishAndWait(data []byte) error           // for at most patience
	stop()                                      // returns when nothing is received any more
}

// userName returns the user name of member i.
func userName(i int) string { return fmt.Sprintf("member%02d", i) }

// ours is a member of one of our rooms.
type ours struct {
	t     *testing.T
	node  *node.Node
	room  *mesh.Room
	tasks sync.WaitGroup
}

func oursDriver(t *testing.T, net *meshtest.Net, i int, links []int, ear listener) session {
	var given []string
	for _, j := range links {
		given = append(given, net.PeerAddr(j))
	}
	// Without a DHT, which would connect every node with every other.
	n, err := node.New(node.WithHost(net.Host(i)), node.WithoutMDNS(), node.WithoutDHT(), node.WithPeers(given...))
	require.NoError(t, err)
	require.NoError(t, n.SetUser(userName(i)))
	room, err := n.Join(context.Background(), "ops")
	require.NoError(t, err)
	o := &ours{t: t, node: n, room: room}
	o.tasks.Go(func() {
		for ev, err := range room.Events(context.Background()) {
			require.NoError(t, err)
			switch ev := ev.(type) {
			case *mesh.Message:
				ear.message(ev.From.User, ev.Data)
			case *mesh.GapLost:
				ear.gap(ev.From.User, int(ev.Last-ev.First+1))
			case *mesh.Lagged:
				ear.lagged(ev.Missed)
			}
		}
	})
	return o
}

func (o *ours) publish(data []byte) func() error {
	p, err := o.room.PublishAsync(context.Background(), data, mesh.WithWaiting())
	if err != nil {
		return func() error { return err }
	}
	return func() error {
		_, err := p.Result()
		return err
	}
}

func (o *ours) publishAndWait(data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := o.room.Publish(ctx, data)
	return err
}

func (o *ours) stop() {
	require.NoError(o.t, o.node.Close())
	o.tasks.Wait()
}

// bare is a member of a GossipSub topic.
type bare struct {
	topic  *pubsub.Topic
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// bareDriver connects once; with redial it connects again each second to members that it has lost.
func bareDriver(redial bool) driver {
	return func(t *testing.T, net *meshtest.Net, i int, links []int, ear listener) session {
		ctx, cancel := context.WithCancel(context.Background())
		b := &bare{cancel: cancel}
		ps, err := pubsub.NewGossipSub(ctx, net.Host(i))
		require.NoError(t, err)
		b.topic, err = ps.Join("ops")
		require.NoError(t, err)
		sub, err := b.topic.Subscribe()
		require.NoError(t, err)
		b.tasks.Go(func() {
			for {
				m, err := sub.Next(ctx)
				if err != nil {
					return
				}
				if m.ReceivedFrom != net.ID(i) {
					ear.message("", m.Data)
				}
			}
		})
		for _, j := range links {
			b.tasks.Go(func() { keep(ctx, net, i, j, redial) })
		}
		return b
	}
}

// keep connects i to j; with redial it checks again each second.
func keep(ctx context.Context, net *meshtest.Net, i, j int, redial bool) {
	h := net.Host(i)
	for {
		if !net.Connected(i, j) {
			dial, cancel := context.WithTimeout(ctx, time.Second)
			// After a failure the next round tries again.
			_ = h.Connect(dial, net.Info(j))
			cancel()
		}
		if !redial {
			return
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}

func (b *bare) publish(data []byte) func() error {
	err := b.topic.Publish(context.Background(), data)
	return func() error { return err }
}

func (b *bare) publishAndWait(data []byte) error { return b.publish(data)() }

func (b *bare) stop() {
	b.cancel()
	b.tasks.Wait()
}
