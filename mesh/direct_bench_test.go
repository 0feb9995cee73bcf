package mesh

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
)

// BenchmarkBareEcho is what an acknowledged send is measured against: an open stream between the
// same two hosts that sends a payload with its length and reads one byte back.
func BenchmarkBareEcho(b *testing.B) {
	for _, size := range []int{64, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			alice, bob := tcpPair(b)
			bob.host.SetStreamHandler("/echo", func(s network.Stream) {
				defer s.Reset()
				r, buf := bufio.NewReader(s), make([]byte, 128<<10)
				for {
					n, err := binary.ReadUvarint(r)
					if err != nil {
						return
					}
					if _, err := io.ReadFull(r, buf[:n]); err != nil {
						return
					}
					if _, err := s.Write(buf[:1]); err != nil {
						return
					}
				}
			})
			s, err := alice.host.NewStream(context.Background(), bob.host.ID(), "/echo")
			if err != nil {
				b.Fatal(err)
			}
			defer s.Reset()
			frame := append(binary.AppendUvarint(nil, uint64(size)), make([]byte, size)...)
			answer := make([]byte, 1)
			echo := func() {
				if _, err := s.Write(frame); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(s, answer); err != nil {
					b.Fatal(err)
				}
			}
			echo()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				echo()
			}
		})
	}
}

// BenchmarkSend is an acknowledged send to one user, one at a time.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{64, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			alice, bob := tcpPair(b, WithInbox(func(*DirectMessage, int) bool { return true }))
			ctx, data := context.Background(), make([]byte, size)
			if _, err := alice.Send(ctx, bob.login(), data); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := alice.Send(ctx, bob.login(), data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSendAsync is acknowledged sends with up to 1024 under way.
func BenchmarkSendAsync(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			alice, bob := tcpPair(b, WithInbox(func(*DirectMessage, int) bool { return true }))
			ctx, data := context.Background(), make([]byte, size)
			var window [1024]Pending[Receipt]
			end := func(p Pending[Receipt]) {
				if p == (Pending[Receipt]{}) {
					return
				}
				if _, err := p.Result(); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			i, waiting := 0, []SendOption{WithWaiting()}
			for b.Loop() {
				end(window[i%len(window)])
				p, err := alice.SendAsync(ctx, bob.login(), data, waiting...)
				if err != nil {
					b.Fatal(err)
				}
				window[i%len(window)] = p
				i++
			}
			for _, p := range window {
				end(p)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
