package wire

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

func testKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func TestFramesComeBackAsTheyWere(t *testing.T) {
	var buf bytes.Buffer
	sent := []*WhoisRequest{{User: "alice"}, {}, {User: strings.Repeat("b", 300), App: make([]byte, 32)}}
	for _, m := range sent {
		require.NoError(t, WriteFrame(&buf, m))
	}
	r := NewReader(&buf, 1<<10)
	for _, want := range sent {
		var got WhoisRequest
		require.NoError(t, r.Next(&got))
		require.True(t, proto.Equal(want, &got), "got %v, want %v", &got, want)
	}
	require.ErrorIs(t, r.Next(new(WhoisRequest)), io.EOF)
}

func TestReaderRefusesALengthOverTheLimitBeforeItAllocates(t *testing.T) {
	frame, err := AppendFrame(nil, &WhoisRequest{User: strings.Repeat("a", 97)})
	require.NoError(t, err)
	require.Len(t, frame, 100, "a length byte and 99 bytes of message")

	require.NoError(t, NewReader(bytes.NewReader(frame), 99).Next(new(WhoisRequest)))
	err = NewReader(bytes.NewReader(frame), 98).Next(new(WhoisRequest))
	require.EqualError(t, err, "frame of 99 bytes is over the limit of 98")

	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}
	r := NewReader(bytes.NewReader(huge), 1<<20)
	var size *SizeError
	require.ErrorAs(t, r.Next(new(WhoisRequest)), &size)
	require.Empty(t, r.buf)
}

func TestReaderTellsAnEndFromABrokenFrame(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"nothing":            {nil, io.EOF},
		"half a length":      {[]byte{0x80}, io.ErrUnexpectedEOF},
		"half a body":        {[]byte{5, 1, 2}, io.ErrUnexpectedEOF},
		"length, no body":    {[]byte{5}, io.ErrUnexpectedEOF},
		"length of 11 bytes": {bytes.Repeat([]byte{0x80}, 11), ErrLength},
		"length over 64 bit": {append(bytes.Repeat([]byte{0x80}, 9), 2), ErrLength},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, NewReader(bytes.NewReader(c.in), 100).Next(new(Envelope)), c.want)
		})
	}
}

func TestSealedObjectsOpenOnlyUnaltered(t *testing.T) {
	key, other := testKey(1), testKey(2)
	sealed := Seal(DomainRoster, key, []byte("body"))
	body, err := Open(DomainRoster, key.Public().(ed25519.PublicKey), sealed)
	require.NoError(t, err)
	require.Equal(t, "body", string(body))

	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		_, err := Open(DomainRoster, key.Public().(ed25519.PublicKey), bad)
		require.ErrorIs(t, err, ErrSignature, "byte %d", i)
	}
	_, err = Open(DomainStatement, key.Public().(ed25519.PublicKey), sealed)
	require.ErrorIs(t, err, ErrSignature, "another domain")
	_, err = Open(DomainRoster, other.Public().(ed25519.PublicKey), sealed)
	require.ErrorIs(t, err, ErrSignature, "another key")
	_, err = Open(DomainRoster, nil, sealed)
	require.ErrorIs(t, err, ErrSignature, "no key")
	_, err = Open(DomainRoster, key.Public().(ed25519.PublicKey), sealed[:SignatureSize])
	require.ErrorIs(t, err, ErrTruncated)
}

// testEnvelope returns a valid envelope; a case changes it before it is sealed.
func testEnvelope() *Envelope {
	content := AppendItem(nil, Kind_KIND_TEXT, []byte("hello"))
	content = AppendItem(content, Kind_KIND_BINARY, []byte{0, 0xff})
	return &Envelope{
		App:     bytes.Repeat([]byte{1}, 32),
		Room:    bytes.Repeat([]byte{2}, 32),
		Device:  testKey(1).Public().(ed25519.PublicKey),
		Feed:    bytes.Repeat([]byte{3}, 16),
		First:   1,
		Count:   2,
		SentMs:  1_700_000_000_000,
		Content: content,
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	want := testEnvelope()
	sealed, err := SealEnvelope(testKey(1), want)
	require.NoError(t, err)
	got, err := OpenEnvelope(sealed)
	require.NoError(t, err)
	require.True(t, proto.Equal(want, got))
	require.EqualValues(t, 3, got.Next())

	kind, payload, rest, err := NextItem(got.Content)
	require.NoError(t, err)
	require.Equal(t, Kind_KIND_TEXT, kind)
	require.Equal(t, "hello", string(payload))
	require.Equal(t, len(payload), cap(payload), "an append cannot reach the next item")
	kind, payload, rest, err = NextItem(rest)
	require.NoError(t, err)
	require.Equal(t, Kind_KIND_BINARY, kind)
	require.Equal(t, []byte{0, 0xff}, payload)
	require.Empty(t, rest)
}

func TestEnvelopeRefusesEveryAlteredByteAndAnExtraOne(t *testing.T) {
	sealed, err := SealEnvelope(testKey(1), testEnvelope())
	require.NoError(t, err)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x40
		_, err := OpenEnvelope(bad)
		require.Error(t, err, "byte %d", i)
	}
	for _, extra := range [][]byte{append(bytes.Clone(sealed), 0), append([]byte{0}, sealed...)} {
		_, err := OpenEnvelope(extra)
		require.Error(t, err)
	}
	for n := range sealed {
		_, err := OpenEnvelope(sealed[:n])
		require.Error(t, err, "cut to %d bytes", n)
	}
}

func TestEnvelopeRefusesWhatNoMemberMayAccept(t *testing.T) {
	item := func(kind Kind, payload []byte) func(*Envelope) {
		return func(e *Envelope) { e.Content, e.Count = AppendItem(nil, kind, payload), 1 }
	}
	for want, alter := range map[string]func(*Envelope){
		"envelope: a field has the wrong length":                func(e *Envelope) { e.Feed = e.Feed[1:] },
		"envelope: the sequence is out of range":                func(e *Envelope) { e.First = 0 },
		"envelope: the previous hash does not fit the sequence": func(e *Envelope) { e.First = 2 },
		"envelope: a wrong count of items":                      func(e *Envelope) { e.Count = 3 },
		"envelope: malformed items":                             func(e *Envelope) { e.Content = []byte{0x0a, 0x7f} },
		"envelope: an item without a kind":                      item(0, []byte("x")),
		"envelope: an item of more than 65536 bytes":            item(Kind_KIND_BINARY, make([]byte, MaxMessage+1)),
		"envelope: an empty message":                            item(Kind_KIND_TEXT, nil),
		"envelope: text that is not UTF-8":                      item(Kind_KIND_TEXT, []byte{0xff}),
		"envelope: more than 262144 bytes":                      func(e *Envelope) { e.Content = make([]byte, MaxEnvelope) },
		"envelope: content of more than 245760 bytes":           func(e *Envelope) { e.Content = make([]byte, MaxContent+1) },
		"signature does not verify":                             func(e *Envelope) { e.Device = testKey(2).Public().(ed25519.PublicKey) },
	} {
		t.Run(want, func(t *testing.T) {
			e := testEnvelope()
			alter(e)
			sealed, err := SealEnvelope(testKey(1), e)
			require.NoError(t, err)
			_, err = OpenEnvelope(sealed)
			require.EqualError(t, err, want)
		})
	}
	for name, alter := range map[string]func(*Envelope){
		"the largest message": item(Kind_KIND_BINARY, make([]byte, MaxMessage)),
		"a kind to come":      item(99, nil),
		"a scheme to come":    func(e *Envelope) { e.Scheme, e.Content = 1, []byte("sealed") },
		"a later envelope":    func(e *Envelope) { e.First, e.Previous = 9, make([]byte, 32) },
	} {
		t.Run(name, func(t *testing.T) {
			e := testEnvelope()
			alter(e)
			sealed, err := SealEnvelope(testKey(1), e)
			require.NoError(t, err)
			_, err = OpenEnvelope(sealed)
			require.NoError(t, err)
		})
	}
}

func TestItemsAgreeWithTheGeneratedCode(t *testing.T) {
	var content []byte
	want := &Items{}
	for _, size := range []int{0, 1, 127, 128, 20_000, MaxMessage} {
		payload := bytes.Repeat([]byte{7}, size)
		before := len(content)
		content = AppendItem(content, Kind_KIND_BINARY, payload)
		require.Equal(t, ItemSize(Kind_KIND_BINARY, size), len(content)-before)
		want.Items = append(want.Items, &Item{Kind: Kind_KIND_BINARY, Payload: payload})
	}
	got := &Items{}
	require.NoError(t, proto.Unmarshal(content, got))
	require.True(t, proto.Equal(want, got))
}

func FuzzEnvelope(f *testing.F) {
	sealed, _ := SealEnvelope(testKey(1), testEnvelope())
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := OpenEnvelope(in)
		if err != nil {
			return
		}
		// An accepted envelope can be read to its end.
		n := uint32(0)
		for content := e.Content; len(content) > 0; n++ {
			_, _, rest, err := NextItem(content)
			if err != nil {
				t.Fatal(err)
			}
			content = rest
		}
		if n != e.Count {
			t.Fatalf("%d items, count says %d", n, e.Count)
		}
	})
}

func FuzzItems(f *testing.F) {
	f.Add(testEnvelope().Content)
	f.Fuzz(func(t *testing.T, in []byte) {
		for content := in; len(content) > 0; {
			_, payload, rest, err := NextItem(content)
			if err != nil {
				return
			}
			if len(rest) >= len(content) || len(payload) > len(content) {
				t.Fatal("no progress")
			}
			content = rest
		}
		var items Items
		if err := proto.Unmarshal(in, &items); err != nil {
			t.Fatalf("walked to the end, but the generated code says %v", err)
		}
	})
}

// FuzzFrame reads a stream of frames as each kind of frame in turn.
func FuzzFrame(f *testing.F) {
	frame, _ := AppendFrame(nil, &RoomFrame{Room: make([]byte, 32), Body: &RoomFrame_Greeting_{Greeting: &RoomFrame_Greeting{Past: &Past{AgeMs: 4}}}})
	f.Add(frame)
	frame, _ = AppendFrame(nil, &SyncReply{Gone: []*Position{{Feed: make([]byte, 16), Last: 4}}, AgesMs: []uint64{1, 2}})
	f.Add(frame)
	frame, _ = AppendFrame(frame, &Hello{Nonce: make([]byte, 16)})
	f.Add(frame)
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, m := range []proto.Message{new(Hello), new(HelloReply), new(HelloProof), new(WhoisRequest), new(WhoisReply),
			new(Notice), new(RosterEntry), new(Statement), new(RoomFrame), new(DirectFrame), new(SyncRequest), new(SyncReply)} {
			r := NewReader(bytes.NewReader(in), 4<<10)
			for {
				err := r.Next(m)
				if cap(r.buf) > 4<<10 {
					t.Fatal("allocated over the limit")
				}
				if errors.Is(err, io.EOF) || err != nil {
					break
				}
			}
		}
	})
}

func BenchmarkSealEnvelope(b *testing.B) { benchEnvelopes(b, true) }
func BenchmarkOpenEnvelope(b *testing.B) { benchEnvelopes(b, false) }

func benchEnvelopes(b *testing.B, seal bool) {
	for name, items := range map[string]int{"1x256B": 1, "230x256B": 230, "900x256B": 900} {
		b.Run(name, func(b *testing.B) {
			e := testEnvelope()
			e.Content, e.Count = nil, uint32(items)
			for range items {
				e.Content = AppendItem(e.Content, Kind_KIND_BINARY, make([]byte, 256))
			}
			sealed, err := SealEnvelope(testKey(1), e)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(sealed)))
			for b.Loop() {
				if seal {
					_, err = SealEnvelope(testKey(1), e)
				} else {
					_, err = OpenEnvelope(sealed)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
