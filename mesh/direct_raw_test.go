package mesh

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/starling-mesh/starling/internal/wire"
)

// raw is one end of a direct stream, played by the test.
type raw struct {
	network.Stream
	t testing.TB
	r *wire.DirectReader
}

func newRaw(t testing.TB, s network.Stream) *raw {
	return &raw{s, t, wire.NewDirectReader(s, maxDirectFrame, func(bool) {})}
}

// dialRaw opens a direct stream to a station and writes nothing yet.
func dialRaw(t testing.TB, from host.Host, to *station) *raw {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := from.NewStream(ctx, to.host.ID(), DirectProtocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Reset() })
	return newRaw(t, s)
}

// openRaw opens a direct stream to a station, as a process with that incarnation.
func openRaw(t testing.TB, from host.Host, to *station, mode Mode, incarnation uint64) *raw {
	t.Helper()
	r := dialRaw(t, from, to)
	r.send(wire.Direct{
		Type: wire.DirectFrame_OPEN, Class: wire.DirectFrame_Class(mode), Sender: incarnation, Receiver: to.who.incarnation,
	})
	return r
}

func (r *raw) write(b []byte) {
	r.t.Helper()
	if _, err := r.Write(b); err != nil {
		r.t.Errorf("raw stream: %v", err)
	}
}

func (r *raw) send(f wire.Direct) {
	r.t.Helper()
	r.write(f.AppendFrame(nil))
}

// message sends a binary message for bob, outside rooms.
func (r *raw) message(seq uint64, text string) {
	r.t.Helper()
	r.send(wire.Direct{
		Type: wire.DirectFrame_MESSAGE, Sequence: seq, Kind: wire.Kind_KIND_BINARY, To: []byte("bob"), Payload: []byte(text),
	})
}

func (r *raw) ack(seq uint64) {
	r.Write((&wire.Direct{Type: wire.DirectFrame_ACK, Sequence: seq}).AppendFrame(nil))
}

func (r *raw) next() (wire.Direct, bool) {
	var f wire.Direct
	err := r.r.Next(&f)
	return f, err == nil
}

func (r *raw) want(typ string) wire.Direct {
	r.t.Helper()
	f, ok := r.next()
	if !ok || f.Type.String() != typ {
		r.t.Errorf("raw stream: got %v, %v, want %s", f.Type, ok, typ)
	}
	return f
}

func (r *raw) wantAnswer(want wire.Direct) {
	r.t.Helper()
	f, ok := r.next()
	say := func(f wire.Direct) string { return fmt.Sprintf("%v %d %v", f.Type, f.Sequence, f.Reason) }
	if !ok || say(f) != say(want) {
		r.t.Errorf("answer: got %s, %v, want %s", say(f), ok, say(want))
	}
}

func (r *raw) wantAck(seq uint64) {
	r.t.Helper()
	r.wantAnswer(wire.Direct{Type: wire.DirectFrame_ACK, Sequence: seq})
}

func (r *raw) wantRefusal(seq uint64, why Reason) {
	r.t.Helper()
	r.wantAnswer(wire.Direct{Type: wire.DirectFrame_REFUSE, Sequence: seq, Reason: wire.DirectFrame_Reason(why)})
}

// wantReset waits for the peer to end the stream.
func (r *raw) wantReset() {
	r.t.Helper()
	if f, ok := r.next(); ok {
		r.t.Errorf("got %v %d, want the stream reset", f.Type, f.Sequence)
	}
}
