package bench

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// envelopeOf returns an envelope of count items of size bytes, and the key to seal it with.
func envelopeOf(tb testing.TB, count, size int) (ed25519.PrivateKey, *wire.Envelope) {
	tb.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	e := &wire.Envelope{
		App: make([]byte, 32), Room: make([]byte, 32), Device: public, Feed: make([]byte, 16),
		First: 1000, Count: uint32(count), Previous: make([]byte, 32), SentMs: time.Now().UnixMilli(),
	}
	for range count {
		e.Content = wire.AppendItem(e.Content, wire.Kind_KIND_BINARY, make([]byte, size))
	}
	return key, e
}

// BenchmarkEnvelope is the cost of a room's envelope for its sender and each receiver, signature
// included: with one small message, and as full as it gets with small ones.
func BenchmarkEnvelope(b *testing.B) {
	for _, c := range []struct {
		name        string
		count, size int
	}{{"1x256B", 1, 256}, {"900x256B", 900, 256}} {
		key, e := envelopeOf(b, c.count, c.size)
		sealed, err := wire.SealEnvelope(key, e)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name+"/seal", func(b *testing.B) {
			b.SetBytes(int64(len(sealed)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.SealEnvelope(key, e); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/open", func(b *testing.B) {
			b.SetBytes(int64(len(sealed)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.OpenEnvelope(sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkItems packs and walks the messages of a full envelope. An op is one message.
func BenchmarkItems(b *testing.B) {
	payload := make([]byte, 256)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		content := make([]byte, 0, wire.MaxContent)
		for b.Loop() {
			if len(content)+wire.ItemSize(wire.Kind_KIND_BINARY, len(payload)) > cap(content) {
				content = content[:0]
			}
			content = wire.AppendItem(content, wire.Kind_KIND_BINARY, payload)
		}
	})
	b.Run("next", func(b *testing.B) {
		_, e := envelopeOf(b, 900, len(payload))
		b.ReportAllocs()
		var rest []byte
		for b.Loop() {
			if len(rest) == 0 {
				rest = e.Content
			}
			var err error
			if _, _, rest, err = wire.NextItem(rest); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDirectFrame encodes and decodes the frame of a direct message of 64 B.
func BenchmarkDirectFrame(b *testing.B) {
	f := wire.Direct{
		Type: wire.DirectFrame_MESSAGE, Sequence: 1 << 20, Kind: wire.Kind_KIND_BINARY, To: []byte("alice"),
		Payload: make([]byte, 64), SentMS: time.Now().UnixMilli(),
	}
	frame := f.AppendFrame(nil)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, len(frame))
		for b.Loop() {
			buf = f.AppendFrame(buf[:0])
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		many := bytes.Repeat(frame, 1000)
		src := bytes.NewReader(many)
		r := wire.NewDirectReader(src, 80<<10, func(bool) {})
		var got wire.Direct
		for i := 0; b.Loop(); i++ {
			if i%1000 == 0 {
				src.Reset(many)
			}
			if err := r.Next(&got); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkStatement signs a log-in statement, verifies it, and verifies it again with a memory.
func BenchmarkStatement(b *testing.B) {
	keys, err := identity.GenerateKeys()
	if err != nil {
		b.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	app, now := identity.NewAppID("starling bench"), time.Now()
	for _, c := range []struct {
		name string
		keys *identity.Keys
	}{{"one-key", keys}, {"user-key", keys.WithUser(other)}} {
		bare := identity.Statement{
			App: app, User: "alice", Sequence: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(24 * time.Hour), LoggedIn: true,
		}
		st, err := c.keys.Sign(bare)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name+"/sign", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.keys.Sign(bare); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/verify", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := identity.Verify(st.Sealed(), app, now); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/verify-again", func(b *testing.B) {
			b.ReportAllocs()
			v := identity.NewVerifier(app)
			for b.Loop() {
				if _, err := v.Verify(st.Sealed(), now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
