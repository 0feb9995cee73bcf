package vectors

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

func tagOf(device, feed []byte) Hex {
	h := sha256.Sum256(slices.Concat(device, feed))
	return h[:16]
}

// makeHeads returns how far a member has got with three feeds, and the digest of that.
func makeHeads() (list []Position, digest Hex) {
	list = []Position{
		{Tag: tagOf(public(alice.Device), feedA), Last: 4, First: 4},
		{Tag: tagOf(public(bob.Device), feedB), Last: 41, First: 42, Unsure: true, ClockMS: uint64(at.UnixMilli()) - 61_000},
		{Tag: tagOf(public(carol.Device), feedC), Last: math.MaxUint64 - 1},
	}
	sum := sha256.Sum256(hashedHeads(list))
	return list, sum[:]
}

func hashedHeads(list []Position) (hashed []byte) {
	list = slices.SortedFunc(slices.Values(list), func(a, b Position) int { return bytes.Compare(a.Tag, b.Tag) })
	for _, p := range list {
		hashed = slices.Concat(hashed, p.Tag, binary.BigEndian.AppendUint64(nil, p.Last))
	}
	return hashed
}

func makeSync(t *testing.T) Sync {
	out := Sync{
		About: "Names of feeds, positions in them, and the frames of Heads and of sync. See Heads and Fetching in PROTOCOL.md.",
		Room:  ops[:],
	}
	for _, c := range []struct{ device, feed Hex }{
		{public(alice.Device), feedA}, {public(bob.Device), feedA}, {public(bob.Device), feedB},
	} {
		out.Tags = append(out.Tags, FeedTag{c.device, c.feed, tagOf(c.device, c.feed)})
	}
	out.Heads.Positions, out.Heads.Digest = makeHeads()
	out.Heads.Hashed = hashedHeads(out.Heads.Positions)
	positions := func(list []Position) (made []*wire.Position) {
		for _, p := range list {
			made = append(made, &wire.Position{Feed: p.Tag, Last: p.Last, First: p.First, Unsure: p.Unsure, ClockMs: p.ClockMS})
		}
		return made
	}
	tag := tagOf(public(alice.Device), feedA)
	heads := func(list []*wire.Position, answers Hex) Hex {
		return frame(t, &wire.RoomFrame{Room: ops[:], Body: &wire.RoomFrame_Heads_{Heads: &wire.RoomFrame_Heads{Feeds: list, AgeMs: out.Heads.AgeMS, Answers: answers}}})
	}
	out.Heads.AgeMS, out.Heads.Answers = 61_250, tag
	out.Frame = heads(positions(out.Heads.Positions), tag)
	out.Unasked = frame(t, &wire.RoomFrame{Room: ops[:], Body: &wire.RoomFrame_Heads_{Heads: &wire.RoomFrame_Heads{
		Feeds: []*wire.Position{{Feed: out.Heads.Positions[0].Tag, Last: out.Heads.Positions[0].Last}},
	}}})
	for _, c := range []struct {
		name string
		list []*wire.Position
	}{
		{"a feed of 15 bytes", []*wire.Position{{Feed: tag[:15], Last: 1}}},
		{"the largest number", []*wire.Position{{Feed: tag, Last: math.MaxUint64}}},
		{"a beginning beyond the next item", []*wire.Position{{Feed: tag, Last: 3, First: 5}}},
		{"1025 positions", slices.Repeat([]*wire.Position{{Feed: tag}}, 1025)},
	} {
		out.BadHeads = append(out.BadHeads, BadFrame{c.name, heads(c.list, tag)})
	}
	out.BadHeads = append(out.BadHeads, BadFrame{"an asker of 15 bytes", heads(nil, tag[:15])})

	var feed []Hex // has two envelopes
	for _, e := range makeEnvelopes(t).Feed {
		feed = append(feed, e.Sealed.Sealed)
	}
	bobs := tagOf(public(bob.Device), feedB)
	out.Request.Wants = []Position{{Tag: tag, First: 2}, {Tag: bobs, First: 7, Last: 9}, {Tag: bobs, First: 12, Last: 40}}
	request := &wire.SyncRequest{Room: ops[:]}
	for _, w := range out.Request.Wants {
		request.Wants = append(request.Wants, &wire.Want{Feed: w.Tag, First: w.First, Last: w.Last})
	}
	out.Request.Frame = frame(t, request)
	alices := wire.Seal(wire.DomainRoster, alice.Device, marshal(t, entry(t)))
	out.Reply = SyncAnswer{
		Entries: []Hex{alices}, Envelopes: feed, AgesMS: []uint64{61_000, 0}, Gone: []Position{{Tag: bobs, Last: 9}}, More: true,
	}
	reply := func(alter func(*wire.SyncReply)) Hex {
		m := &wire.SyncReply{
			Entries: [][]byte{alices}, Envelopes: [][]byte{feed[0], feed[1]}, AgesMs: out.Reply.AgesMS, Gone: positions(out.Reply.Gone), More: true,
		}
		alter(m)
		return frame(t, m)
	}
	out.Reply.Frame = reply(func(*wire.SyncReply) {})
	elsewhere := base(text("x"))
	elsewhere.Room = flip(ops[:], 0)
	unasked := base(text("x"))
	unasked.Feed = feedC
	seal := func(e *wire.Envelope) []byte {
		sealed, err := wire.SealEnvelope(alice.Device, e)
		require.NoError(t, err)
		return sealed
	}
	for _, c := range []struct {
		name  string
		alter func(*wire.SyncReply)
	}{
		{"an age too few", func(m *wire.SyncReply) { m.AgesMs = m.AgesMs[:1] }},
		{"an age too many", func(m *wire.SyncReply) { m.AgesMs = append(m.AgesMs, 1) }},
		{"an altered envelope", func(m *wire.SyncReply) { m.Envelopes[1] = flip(m.Envelopes[1], -1) }},
		{"one envelope twice", func(m *wire.SyncReply) { m.Envelopes[1] = m.Envelopes[0] }},
		{"envelopes that do not rise", func(m *wire.SyncReply) { slices.Reverse(m.Envelopes) }},
		{"an envelope of another room", func(m *wire.SyncReply) { m.Envelopes[1] = seal(elsewhere) }},
		{"an envelope that was not asked for", func(m *wire.SyncReply) { m.Envelopes[1] = seal(unasked) }},
		{"a feed of 15 bytes that is gone", func(m *wire.SyncReply) { m.Gone[0].Feed = bobs[:15] }},
		{"521 that are gone", func(m *wire.SyncReply) { m.Gone = slices.Repeat(m.Gone, 521) }},
	} {
		out.BadReplies = append(out.BadReplies, BadFrame{c.name, reply(c.alter)})
	}
	return out
}
