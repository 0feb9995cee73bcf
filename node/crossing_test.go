package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/node"
)

// crowd is how many nodes connect to each other at once.
var crowd = meshtest.Sized(12, 32)

// crowdRounds is how often the crowd of [TestACrowdThatConnectsAtOnceIsConnected] meets.
// STARLING_ROUNDS sets another number.
const crowdRounds = 1

// crowdTime is how long the nodes of a crowd have to meet.
const crowdTime = 2 * time.Minute

// When all nodes connect to each other at once, most dials cross: both sides have one connection,
// or two, of which one side closes one. No call may fail because of that, and no peer may seem to
// be lost.
func TestACrowdThatConnectsAtOnceIsConnected(t *testing.T) {
	for _, c := range []struct {
		name string
		at   string
		opts []node.Option
	}{
		{"tcp", tcpLoop, []node.Option{node.WithoutDHT()}},
		{"quic", quicLoop, []node.Option{node.WithoutDHT()}},
		{"tcp with the directory", tcpLoop, nil},
		{"quic with the directory", quicLoop, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for round := range meshtest.Number(t, "STARLING_ROUNDS", crowdRounds) {
				begun := time.Now()
				meetAtOnce(t, append(c.opts, node.WithListen(c.at)))
				if t.Failed() {
					t.Fatalf("in round %d", round+1)
				}
				t.Logf("round %d: %v", round+1, time.Since(begun).Round(time.Millisecond))
			}
		})
	}
}

// meetAtOnce makes a crowd of new nodes connect, each to each, and closes them.
func meetAtOnce(t *testing.T, opts []node.Option) {
	ctx, cancel := context.WithTimeout(context.Background(), crowdTime)
	defer cancel()
	nodes, log := make([]*node.Node, crowd), new(logged)
	defer func() {
		if t.Failed() {
			for line := range strings.Lines(log.String()) {
				if strings.Contains(line, "dead connection") || strings.Contains(line, "looking for peers") {
					t.Log(line)
				}
			}
		}
	}()
	debug := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for i := range nodes {
		n, err := node.New(append([]node.Option{node.WithoutMDNS(), node.WithLogger(debug.With("user", i))}, opts...)...)
		require.NoError(t, err)
		nodes[i] = n
	}
	defer func() {
		var closing sync.WaitGroup
		for _, n := range nodes {
			closing.Go(func() { _ = n.Close() })
		}
		closing.Wait()
	}()
	for i, n := range nodes {
		require.NoError(t, n.Login(ctx, fmt.Sprintf("user%d", i)))
	}
	var calls sync.WaitGroup
	begin := make(chan struct{})
	for _, a := range nodes {
		for _, b := range nodes {
			if a == b {
				continue
			}
			calls.Go(func() {
				<-begin
				if err := a.Connect(ctx, b.Addrs()[0].String()); err != nil {
					t.Errorf("connect: %v", err)
				}
			})
		}
	}
	close(begin)
	calls.Wait()
	for _, n := range nodes {
		up := make(map[peer.ID]bool)
		for len(up) < len(nodes)-1 {
			ev, err := n.Recv(ctx)
			if err != nil {
				t.Errorf("%d peers are up: %v", len(up), err)
				return
			}
			noteUp(t, up, ev)
		}
		for _, ev := range drainedNow(n) {
			noteUp(t, up, ev)
		}
	}
}

func noteUp(t *testing.T, up map[peer.ID]bool, ev node.Event) {
	switch ev := ev.(type) {
	case *node.PeerUp:
		up[ev.Peer.Peer] = true
	case *node.PeerDown:
		t.Errorf("lost: %v", ev.Peer)
	case *node.LoggedOut:
		t.Errorf("logged out: %+v", ev)
	}
}

// drainedNow returns the events that are already there.
func drainedNow(from recver) (all []node.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	for {
		ev, err := from.Recv(ctx)
		if err != nil {
			return all
		}
		all = append(all, ev)
	}
}
