package wire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"
)

// generated returns d in the form of the generated code.
func (d *Direct) generated() *DirectFrame {
	return &DirectFrame{
		Type: d.Type, Sequence: d.Sequence, Kind: d.Kind, Room: d.Room, To: string(d.To), Payload: d.Payload,
		SentMs: d.SentMS, Reason: d.Reason, Sender: d.Sender, Receiver: d.Receiver, Class: d.Class,
	}
}

func randomDirect(rng *rand.Rand) Direct {
	number := func() uint64 {
		if rng.IntN(3) == 0 {
			return 0
		}
		return rng.Uint64() >> rng.IntN(64)
	}
	raw := func(n int) []byte {
		b := make([]byte, rng.IntN(n))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	text := func(n int) []byte {
		b := raw(n)
		for i := range b {
			b[i] &= 0x7f
		}
		return b
	}
	return Direct{
		Type: DirectFrame_Type(int32(number())), Sequence: number(), Kind: Kind(rng.IntN(4)), Room: raw(40), To: text(130),
		Payload: raw(20000), SentMS: int64(number()), Reason: DirectFrame_Reason(int32(number())),
		Sender: number(), Receiver: number(), Class: DirectFrame_Class(rng.IntN(4)),
	}
}

func TestDirectAndGeneratedCodeWriteTheSameBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		d := randomDirect(rng)
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(d.generated())
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Append(nil); !bytes.Equal(got, want) {
			t.Fatalf("%+v:\ngot  %x\nwant %x", d, got, want)
		}
		frame, err := AppendFrame([]byte("before"), d.generated())
		if err != nil {
			t.Fatal(err)
		}
		if got := d.AppendFrame([]byte("before")); !bytes.Equal(got, frame) {
			t.Fatalf("%+v:\ngot frame  %x\nwant frame %x", d, got, frame)
		}
		var back Direct
		if err := back.Decode(want); err != nil {
			t.Fatalf("%+v: %v", d, err)
		}
		if !proto.Equal(back.generated(), d.generated()) {
			t.Fatalf("got  %+v\nwant %+v", back, d)
		}
	}
}

func TestAMessageFrameIsThatOfTheGeneratedCode(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		r := randomDirect(rng)
		d := Direct{Kind: r.Kind, Room: r.Room, To: r.To, Payload: r.Payload, SentMS: r.SentMS}
		content := d.AppendContent(nil)
		d.Type, d.Sequence = DirectFrame_MESSAGE, r.Sequence
		want, err := AppendFrame(nil, d.generated())
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendMessageFrame(nil, r.Sequence, content); !bytes.Equal(got, want) {
			t.Fatalf("%+v:\ngot  %x\nwant %x", d, got, want)
		}
	}
}

func TestDirectReaderReadsFramesInPiecesOfAnySize(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var (
		want   []Direct
		stream []byte
	)
	for i := range 300 {
		d := randomDirect(rng)
		if i%50 == 0 {
			d.Payload = make([]byte, 70<<10)
		}
		want = append(want, d)
		stream = d.AppendFrame(stream)
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole":     func(r io.Reader) io.Reader { return r },
		"bytes":     iotest.OneByteReader,
		"halves":    iotest.HalfReader,
		"early EOF": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			waiting := false
			r := NewDirectReader(wrap(bytes.NewReader(stream)), 80<<10, func(stalled bool) {
				if stalled == waiting {
					t.Errorf("stalled(%v) twice", stalled)
				}
				waiting = stalled
			})
			var got Direct
			for i := range want {
				if err := r.Next(&got); err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				if waiting {
					t.Fatalf("frame %d is whole and still called stalled", i)
				}
				if !proto.Equal(got.generated(), want[i].generated()) {
					t.Fatalf("frame %d: got %+v, want %+v", i, got, want[i])
				}
			}
			if err := r.Next(&got); err != io.EOF {
				t.Errorf("after the last frame: got %v, want io.EOF", err)
			}
		})
	}
}

func TestDirectReaderRefusesWhatIsNoFrame(t *testing.T) {
	over := Direct{Payload: make([]byte, 100)}
	var size *SizeError
	for _, c := range []struct {
		name   string
		stream []byte
		check  func(error) bool
	}{
		{"nothing", nil, func(err error) bool { return err == io.EOF }},
		{"half a length", []byte{0x80}, func(err error) bool { return err == io.ErrUnexpectedEOF }},
		{"half a frame", []byte{5, 1}, func(err error) bool { return err == io.ErrUnexpectedEOF }},
		{"endless length", bytes.Repeat([]byte{0x80}, 11), func(err error) bool { return err == ErrLength }},
		{"over the limit", over.AppendFrame(nil), func(err error) bool { return errors.As(err, &size) && size.Size == 102 && size.Limit == 100 }},
		{"length only, over the limit", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, func(err error) bool { return errors.As(err, &size) }},
		{"not protobuf", []byte{2, 0xff, 0xff}, func(err error) bool { return err == ErrDirect }},
		{"user not UTF-8", []byte{4, directTo<<3 | 2, 2, 0xc3, 0x28}, func(err error) bool { return err == ErrDirect }},
	} {
		r := NewDirectReader(bytes.NewReader(c.stream), 100, func(bool) {})
		var d Direct
		if err := r.Next(&d); !c.check(err) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

func TestDirectReaderTakesAFrameAtTheLimit(t *testing.T) {
	d := Direct{Payload: make([]byte, 98)} // 100 with tag and length
	r := NewDirectReader(bytes.NewReader(d.AppendFrame(nil)), 100, func(bool) {})
	var got Direct
	if err := r.Next(&got); err != nil || len(got.Payload) != 98 {
		t.Errorf("got %d bytes, %v", len(got.Payload), err)
	}
}

func FuzzDirectFrame(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 8 {
		d := randomDirect(rng)
		d.Payload = d.Payload[:min(len(d.Payload), 32)]
		f.Add(d.Append(nil))
	}
	f.Add([]byte{directTo<<3 | 2, 1, 0x80})
	f.Add([]byte{0x0b, 0x0c})                      // a group
	f.Add([]byte{0x09, 1, 2, 3, 4, 5, 6, 7, 8})    // field 1 as fixed64
	f.Add([]byte{0xf8, 0xff, 0xff, 0xff, 0x0f, 1}) // the highest field
	f.Fuzz(func(t *testing.T, b []byte) {
		var (
			hand Direct
			gen  DirectFrame
		)
		handErr, genErr := hand.Decode(b), proto.Unmarshal(b, &gen)
		if (handErr == nil) != (genErr == nil) {
			t.Fatalf("%x: by hand %v, generated %v", b, handErr, genErr)
		}
		if handErr != nil {
			return
		}
		gen.ProtoReflect().SetUnknown(nil)
		if !proto.Equal(hand.generated(), &gen) {
			t.Fatalf("%x: by hand %+v, generated %+v", b, hand.generated(), &gen)
		}
		var back Direct
		if err := back.Decode(hand.Append(nil)); err != nil || !proto.Equal(back.generated(), &gen) {
			t.Fatalf("%x: came back as %+v, %v", b, back, err)
		}
		r := NewDirectReader(bytes.NewReader(b), 1<<10, func(bool) {})
		for r.Next(&back) == nil { // must end without a panic
		}
	})
}

func BenchmarkDirectEncode64(b *testing.B) {
	d := Direct{Kind: Kind_KIND_BINARY, Room: make([]byte, 32), To: []byte("alice"), Payload: make([]byte, 64), SentMS: 1 << 40}
	content, buf := d.AppendContent(nil), make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendMessageFrame(buf[:0], 1<<20, content)
	}
}

func BenchmarkDirectDecode64(b *testing.B) {
	d := Direct{Type: DirectFrame_MESSAGE, Sequence: 1 << 20, Kind: Kind_KIND_BINARY, To: []byte("alice"), Payload: make([]byte, 64), SentMS: 1 << 40}
	raw := d.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}
