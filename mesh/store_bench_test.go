package mesh

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkPublish is broadcasts to one neighbour, with up to 256 under way: what the store costs
// both of them.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{64, 4 << 10} {
		for _, stored := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dB/store=%v", size, stored), func(b *testing.B) {
				all := newHellos()
				var rooms [2]*Room
				var at [2]*station
				for i := range at {
					var opts []Option
					if stored {
						s, err := OpenStore(filepath.Join(b.TempDir(), "history.db"), 0)
						if err != nil {
							b.Fatal(err)
						}
						b.Cleanup(func() { s.Close() })
						opts = append(opts, WithStore(s))
					}
					at[i] = all.station(b, tcpHost(b), fmt.Sprintf("u%d", i), opts...)
				}
				connect(b, at[0].host, at[1].host)
				ctx := context.Background()
				for i := range at {
					var err error
					if rooms[i], err = at[i].Join(ctx, "ops"); err != nil {
						b.Fatal(err)
					}
				}
				go func() {
					for range rooms[1].Events(ctx) {
					}
				}()
				if err := rooms[0].WaitPeers(ctx, 1); err != nil {
					b.Fatal(err)
				}
				payload := make([]byte, size)
				under := make([]Pending[Published], 256)
				n := 0
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					p, err := rooms[0].PublishAsync(ctx, payload, WithWaiting())
					if err != nil {
						b.Fatal(err)
					}
					if old := under[n%len(under)]; n >= len(under) {
						if _, err := old.Result(); err != nil {
							b.Fatal(err)
						}
					}
					under[n%len(under)] = p
					n++
				}
			})
		}
	}
}
