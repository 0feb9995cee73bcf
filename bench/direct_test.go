package bench

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/starling-mesh/starling/internal/cputime"
	"github.com/starling-mesh/starling/mesh"
)

// sizes are the sizes of direct messages, in bytes of payload.
var sizes = []struct {
	name string
	n    int
}{{"64B", 64}, {"64KiB", 64 << 10}}

// pipelineWindow is how many messages may wait for their answer, for Starling and bare alike.
const pipelineWindow = 1024

// newPair returns two nodes, and a stream for the bare echo between the same two hosts, on the same
// connection.
func newPair(tb testing.TB) (alice, bob *node, s network.Stream) {
	tb.Helper()
	nodes := newNodes(tb, 2, mesh.WithInbox(func(*mesh.DirectMessage, int) bool { return true }))
	alice, bob = nodes[0], nodes[1]
	bob.host.SetStreamHandler(echoProtocol, serveEcho)
	s, err := alice.host.NewStream(context.Background(), bob.host.ID(), echoProtocol)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		s.Reset()
		alice.close()
		bob.close()
	})
	return alice, bob, s
}

// oneByOne measures a send that returns when it has been answered.
func oneByOne(b *testing.B, size int, send func() error) {
	if err := send(); err != nil { // opens the stream
		b.Fatal(err)
	}
	var h histogram
	b.SetBytes(int64(size))
	b.ReportAllocs()
	cpu := cputime.Now()
	for b.Loop() {
		start := time.Now()
		if err := send(); err != nil {
			b.Fatal(err)
		}
		h.add(time.Since(start))
	}
	b.ReportMetric(float64(cputime.Now()-cpu)/float64(b.N), "cpu-ns/op")
	h.report(b)
}

// BenchmarkDirect sends acknowledged messages, one after the other.
func BenchmarkDirect(b *testing.B) {
	alice, bob, s := newPair(b)
	ctx := context.Background()
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			b.Run("bare", func(b *testing.B) {
				frame := echoFrame(size.n)
				oneByOne(b, size.n, func() error { return echo(s, frame) })
			})
			b.Run("starling", func(b *testing.B) {
				data := make([]byte, size.n)
				oneByOne(b, size.n, func() error {
					_, err := alice.Send(ctx, bob.login, data)
					return err
				})
			})
		})
	}
}

// pipelined measures n messages under way together.
func pipelined(b *testing.B, size int, send func(n int) error) {
	if err := send(1); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	cpu := cputime.Now()
	b.ResetTimer()
	if err := send(b.N); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(cputime.Now()-cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// sendMany sends n messages with at most pipelineWindow of them unanswered, and waits for all
// answers.
func sendMany(alice, bob *node, data []byte, n int) error {
	ctx := context.Background()
	var window [pipelineWindow]mesh.Pending[mesh.Receipt]
	for i := range n + len(window) {
		slot := &window[i%len(window)]
		if *slot != (mesh.Pending[mesh.Receipt]{}) {
			if _, err := slot.Result(); err != nil {
				return err
			}
			*slot = mesh.Pending[mesh.Receipt]{}
		}
		if i >= n {
			continue
		}
		p, err := alice.SendAsync(ctx, bob.login, data, mesh.WithWaiting())
		if err != nil {
			return err
		}
		*slot = p
	}
	return nil
}

// BenchmarkPipelined sends acknowledged messages, many under way at once.
func BenchmarkPipelined(b *testing.B) {
	alice, bob, s := newPair(b)
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			b.Run("bare", func(b *testing.B) {
				frame := echoFrame(size.n)
				pipelined(b, size.n, func(n int) error { return echoMany(s, frame, n, pipelineWindow) })
			})
			b.Run("starling", func(b *testing.B) {
				data := make([]byte, size.n)
				pipelined(b, size.n, func(n int) error { return sendMany(alice, bob, data, n) })
			})
		})
	}
}

func TestEveryDirectMessageOfAPipelineIsAnswered(t *testing.T) {
	alice, bob, s := newPair(t)
	const n = 2*pipelineWindow + 1
	for _, size := range sizes {
		if err := echoMany(s, echoFrame(size.n), n, pipelineWindow); err != nil {
			t.Errorf("bare, %s: %v", size.name, err)
		}
		if err := sendMany(alice, bob, make([]byte, size.n), n); err != nil {
			t.Errorf("starling, %s: %v", size.name, err)
		}
	}
	if got, want := bob.Stats().DirectTaken, uint64(n*len(sizes)); got != want {
		t.Errorf("bob took %d messages, want %d", got, want)
	}
}
