package vectors

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

// items serialises items.
func items(all ...Item) (content []byte) {
	for _, it := range all {
		content = wire.AppendItem(content, wire.Kind(it.Kind), it.Payload)
	}
	return content
}

func text(s string) Item { return Item{uint32(wire.Kind_KIND_TEXT), Hex(s)} }

func binaryItem(b ...byte) Item { return Item{uint32(wire.Kind_KIND_BINARY), b} }

// base returns alice's first envelope, to be changed before it is signed.
func base(all ...Item) *wire.Envelope {
	return &wire.Envelope{
		App: app[:], Room: ops[:], Device: public(alice.Device), Feed: feedA, First: 1, Count: uint32(len(all)),
		SentMs: at.UnixMilli(), Content: items(all...),
	}
}

func makeEnvelopes(t *testing.T) Envelopes {
	out := Envelopes{
		About: "Sealed envelopes. See Envelopes in PROTOCOL.md. Whoever gets one of refused rejects it; order and time play no part in that.",
		App:   app[:], Room: ops[:], Topic: topicName(ops),
	}
	describe := func(name string, sealed []byte, e *wire.Envelope, all []Item) Envelope {
		hash := sha256.Sum256(sealed)
		return Envelope{
			Sealed: part(name, wire.DomainEnvelope, alice.Device, sealed),
			Feed:   e.Feed, First: e.First, Count: e.Count, Previous: e.Previous, SentMS: e.SentMs, Scheme: e.Scheme, Epoch: e.Epoch,
			Content: e.Content, Items: all, Hash: hash[:], MessageID: messageID(topicName(ops), sealed),
		}
	}
	seal := func(e *wire.Envelope) []byte {
		sealed, err := wire.SealEnvelope(alice.Device, e)
		require.NoError(t, err)
		require.Equal(t, sealed, wire.Seal(wire.DomainEnvelope, alice.Device, marshal(t, e)))
		return sealed
	}
	joined := wire.Seal(wire.DomainRoster, alice.Device, marshal(t, entry(t)))
	begin := []Item{{uint32(wire.Kind_KIND_ROSTER), joined}, text("hello"), binaryItem(0, 0xff, 0)}
	first := base(begin...)
	firstSealed := seal(first)
	tip := sha256.Sum256(firstSealed)
	next := func(all ...Item) *wire.Envelope {
		e := base(all...)
		e.First, e.Previous, e.SentMs = 4, tip[:], at.Add(time.Second).UnixMilli()
		return e
	}
	second := []Item{text("grüezi")}
	out.Feed = []Envelope{
		describe("the begin of a feed: its own roster entry, then a text and a binary message", firstSealed, first, begin),
		describe("the envelope after it", seal(next(second...)), next(second...), second),
	}

	accept := func(name string, e *wire.Envelope, all []Item) {
		out.Accepted = append(out.Accepted, describe(name, seal(e), e, all))
	}
	later := []Item{text("a"), {200, Hex("of a later version")}, {199, nil}, text("b")}
	accept("items of kinds of a later version count, and are passed over", base(later...), later)
	e := base(text("x"))
	e.Scheme, e.Epoch, e.Count, e.Content = 7, 3, 2, []byte("sealed for those who know scheme 7")
	accept("a scheme of a later version: the content is not looked into", e, nil)
	e = base(text("x"))
	e.Content = unknownInItem(e.Content)
	accept("an item with a field of a later version", e, []Item{text("x")})
	body := unknown(marshal(t, base(text("x"))))
	out.Accepted = append(out.Accepted, describe("a field of a later version", wire.Seal(wire.DomainEnvelope, alice.Device, body), base(text("x")), []Item{text("x")}))
	e = base(text("x"))
	e.First, e.Count, e.Previous = math.MaxUint64-1, 1, tip[:]
	accept("the highest sequence", e, []Item{text("x")})

	out.Forks = append(out.Forks,
		describe("it names another previous envelope", seal(func() *wire.Envelope { e := next(text("no")); e.Previous = flip(tip[:], 0); return e }()),
			func() *wire.Envelope { e := next(text("no")); e.Previous = flip(tip[:], 0); return e }(), []Item{text("no")}),
		describe("it begins inside the first", seal(func() *wire.Envelope { e := next(text("no"), text("no")); e.First = 3; return e }()),
			func() *wire.Envelope { e := next(text("no"), text("no")); e.First = 3; return e }(), []Item{text("no"), text("no")}),
	)

	var bad cases
	good := seal(base(text("hello")))
	bad.tampered(t, good, wire.DomainEnvelope, wire.DomainStatement, alice.Device, carol.Device)
	refuse := func(name, why string, alter func(*wire.Envelope)) {
		e := base(text("hello"))
		alter(e)
		bad.add(name, why, seal(e))
	}
	refuse("another app", "other app", func(e *wire.Envelope) { e.App = flip(e.App, 0) })
	refuse("another room", "other room", func(e *wire.Envelope) { e.Room = flip(e.Room, 0) })
	refuse("a device that did not sign", "signature", func(e *wire.Envelope) { e.Device = public(carol.Device) })
	refuse("a device key of 31 bytes", "malformed", func(e *wire.Envelope) { e.Device = e.Device[:31] })
	refuse("no app", "malformed", func(e *wire.Envelope) { e.App = nil })
	refuse("no room", "malformed", func(e *wire.Envelope) { e.Room = nil })
	refuse("a feed of 17 bytes", "malformed", func(e *wire.Envelope) { e.Feed = append(bytes.Clone(e.Feed), 1) })
	refuse("sequence 0", "malformed", func(e *wire.Envelope) { e.First = 0 })
	refuse("a sequence that overflows", "malformed", func(e *wire.Envelope) { e.First, e.Previous = math.MaxUint64, tip[:] })
	refuse("a previous hash at the begin", "malformed", func(e *wire.Envelope) { e.Previous = tip[:] })
	refuse("no previous hash later on", "malformed", func(e *wire.Envelope) { e.First = 4 })
	refuse("a previous hash of 31 bytes", "malformed", func(e *wire.Envelope) { e.First, e.Previous = 4, tip[:31] })
	refuse("no items", "malformed", func(e *wire.Envelope) { e.Count, e.Content = 0, nil })
	refuse("a count above the items", "malformed", func(e *wire.Envelope) { e.Count = 2 })
	refuse("a count below the items", "malformed", func(e *wire.Envelope) { e.Content = items(text("a"), text("b")) })
	refuse("no items under a scheme of a later version", "malformed", func(e *wire.Envelope) { e.Scheme, e.Count = 7, 0 })
	refuse("an item without a kind", "malformed", func(e *wire.Envelope) { e.Content = items(Item{0, Hex("x")}) })
	refuse("an empty text", "malformed", func(e *wire.Envelope) { e.Content = items(text("")) })
	refuse("an empty binary", "malformed", func(e *wire.Envelope) { e.Content = items(binaryItem()) })
	refuse("a text that is not UTF-8", "malformed", func(e *wire.Envelope) { e.Content = items(text("\xff")) })
	refuse("content that is cut off", "malformed", func(e *wire.Envelope) { e.Content = e.Content[:len(e.Content)-1] })
	refuse("a field of content that is no item", "malformed", func(e *wire.Envelope) { e.Content = unknown(e.Content) })
	out.Refused = bad
	return out
}

// unknownInItem adds a field to the single item of content, which must be shorter than 100 bytes.
func unknownInItem(content []byte) []byte {
	inner := unknown(content[2:])
	return slices.Concat([]byte{content[0], byte(len(inner))}, inner)
}

func makeDirect(t *testing.T) Direct {
	out := Direct{About: "Frames of the direct protocol, each with its length in front. See Direct messages in PROTOCOL.md."}
	accept := func(name string, f *wire.DirectFrame) {
		out.Accepted = append(out.Accepted, DirectFrame{
			Name: name, Frame: frame(t, f),
			Type: uint32(f.Type), Sequence: f.Sequence, Kind: uint32(f.Kind), Room: f.Room, To: f.To, Payload: f.Payload, SentMS: f.SentMs,
			Reason: uint32(f.Reason), Sender: f.Sender, Receiver: f.Receiver, Class: uint32(f.Class),
		})
	}
	const sender, receiver = 0x0102030405060708, math.MaxUint64
	accept("OPEN of the reliable class", &wire.DirectFrame{Type: wire.DirectFrame_OPEN, Sender: sender, Receiver: receiver})
	accept("OPEN of the unreliable unordered class", &wire.DirectFrame{
		Type: wire.DirectFrame_OPEN, Sender: sender, Receiver: receiver, Class: wire.DirectFrame_UNRELIABLE_UNORDERED,
	})
	accept("MESSAGE outside rooms", &wire.DirectFrame{
		Type: wire.DirectFrame_MESSAGE, Sequence: 1, Kind: wire.Kind_KIND_TEXT, To: "bob", Payload: []byte("lunch?"), SentMs: at.UnixMilli(),
	})
	accept("MESSAGE in a room", &wire.DirectFrame{
		Type: wire.DirectFrame_MESSAGE, Sequence: 300, Kind: wire.Kind_KIND_BINARY, Room: ops[:], To: "bob",
		Payload: []byte{0, 0xff, 0}, SentMs: at.UnixMilli(),
	})
	accept("ACK", &wire.DirectFrame{Type: wire.DirectFrame_ACK, Sequence: 300})
	accept("REFUSE of a message", &wire.DirectFrame{Type: wire.DirectFrame_REFUSE, Sequence: 299, Reason: wire.DirectFrame_QUEUE_FULL})
	accept("REFUSE of a stream", &wire.DirectFrame{Type: wire.DirectFrame_REFUSE, Reason: wire.DirectFrame_INCARNATION})

	body := unknown(marshal(t, &wire.DirectFrame{Type: wire.DirectFrame_ACK, Sequence: 5}))
	out.Accepted = append(out.Accepted, DirectFrame{
		Name: "a field of a later version", Frame: append(binary.AppendUvarint(nil, uint64(len(body))), body...),
		Type: uint32(wire.DirectFrame_ACK), Sequence: 5,
	})
	for _, c := range []struct {
		name  string
		bytes Hex
	}{
		{"a length of 81921 bytes", binary.AppendUvarint(nil, 80<<10+1)},
		{"a length that is no varint", bytes.Repeat([]byte{0xff}, 11)},
		{"no protobuf message", []byte{2, 0xff, 0x07}},
		{"a field that is cut off", []byte{2, 0x32, 5}},
		{"a user that is not UTF-8", []byte{3, 0x2a, 1, 0xff}},
	} {
		out.Refused = append(out.Refused, BadFrame{c.name, c.bytes})
	}
	return out
}
