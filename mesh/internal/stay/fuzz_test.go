package stay

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/vectors"
	"github.com/starling-mesh/starling/internal/wire"
)

// syncVectors are the frames of the vectors without their lengths.
func syncVectors(f *testing.F) (v vectors.Sync, body func(vectors.Hex) []byte) {
	vectors.Read(f, "sync", &v)
	return v, func(frame vectors.Hex) []byte {
		n := 1
		for frame[n-1] >= 0x80 {
			n++
		}
		return frame[n:]
	}
}

// unbounded returns what of a journal is beyond its bounds.
func (j *journal) unbounded(now time.Time) error {
	if len(j.feeds) > MaxFeeds {
		return fmt.Errorf("%d feeds", len(j.feeds))
	}
	for _, set := range []int{j.lacking.len(), j.waiting.len(), j.moved.len()} {
		if set > len(j.feeds) {
			return fmt.Errorf("%d of %d feeds", set, len(j.feeds))
		}
	}
	if j.ring.bytes > j.ring.limits.Bytes || j.ring.messages > j.ring.limits.Messages {
		return fmt.Errorf("%d bytes, %d messages retained", j.ring.bytes, j.ring.messages)
	}
	for _, f := range j.feeds {
		switch {
		case len(f.held) > maxHeld || f.heldBytes > maxHeldBytes && len(f.held) > 1:
			return fmt.Errorf("%d envelopes, %d bytes held", len(f.held), f.heldBytes)
		case len(f.repair.sources) > maxSources:
			return fmt.Errorf("%d sources", len(f.repair.sources))
		case f.next < f.floor && f.tip == nil && f.next != 0 && f.floor-f.next > 1<<32:
			return fmt.Errorf("next %d below the first to deliver %d", f.next, f.floor)
		}
	}
	if due := j.due(); !due.IsZero() && due.Before(now) {
		return fmt.Errorf("due %v ago", now.Sub(due))
	}
	return nil
}

// silentWorld is a world of neighbours that answer every question with nothing.
type silentWorld struct {
	deafWorld
	pulls []Pull
}

func (w *silentWorld) Pull(p Pull) { w.pulls = append(w.pulls, p) }

// tick does what is due, and answers.
func (w *silentWorld) tick(now time.Time, st *Stay) {
	st.Tick(now)
	for len(w.pulls) > 0 {
		p := w.pulls[0]
		w.pulls = w.pulls[1:]
		st.Answered(now, p, NewOutcome(p))
	}
	st.Tick(now)
}

func FuzzHeads(f *testing.F) {
	v, body := syncVectors(f)
	var frame wire.RoomFrame
	if err := proto.Unmarshal(body(v.Frame), &frame); err != nil {
		f.Fatal(err)
	}
	raw, err := proto.Marshal(frame.GetHeads())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, true, true, uint8(3))
	unsure, err := proto.Marshal(&wire.RoomFrame_Heads{Feeds: []*wire.Position{{Feed: bytes.Repeat([]byte{7}, len(FeedTag{})), Last: 5, First: 3, Unsure: true}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(unsure, true, true, uint8(0))
	f.Fuzz(func(t *testing.T, raw []byte, ready, answers bool, known uint8) {
		var h wire.RoomFrame_Heads
		if proto.Unmarshal(raw, &h) != nil || checkHeads(&h) != nil {
			return
		}
		now, w := time.Now(), new(silentWorld)
		st, _ := begunStay(t, now, w)
		j := st.journal
		for i := range 9 {
			st.Subscribed(now, peer.ID(fmt.Sprint("p", i)))
		}
		if ready {
			st.Begin(now)
		}
		for i, pos := range h.Feeds {
			if i < int(known) && j.feeds[FeedTag(pos.Feed)] == nil { // some feeds are known, and have something
				e := entry("u", fmt.Sprint(i), 1, byte(i), true)
				fd := &Feed{tag: FeedTag(pos.Feed), entry: e, next: 1, floor: 1}
				j.feeds[fd.tag] = fd
				for _, env := range chain(1, 2) {
					env.tag = fd.tag
					j.take(now, "", fd, env)
				}
			}
			one := &wire.RoomFrame_Heads{Feeds: []*wire.Position{pos}, AgeMs: h.AgeMs, Answers: h.Answers}
			if answers {
				one.Answers = j.self[:]
			}
			if err := st.HearHeads(now, peer.ID(fmt.Sprint("p", i%9)), one); err != nil {
				t.Fatal(err)
			}
		}
		if !ready {
			st.Begin(now)
		}
		for range 100 { // a node that gets no answer stops asking
			now = now.Add(time.Second)
			w.tick(now, st)
			if err := j.unbounded(now); err != nil {
				t.Fatal(err)
			}
		}
		if j.lacking.len() > 0 || j.waiting.len() > 0 {
			t.Fatalf("%d feeds lack and %d wait for what nobody has", j.lacking.len(), j.waiting.len())
		}
	})
}

func FuzzSyncRequest(f *testing.F) {
	v, body := syncVectors(f)
	f.Add(body(v.Request.Frame))
	room, _ := begunStay(f, time.Now(), new(deafWorld))
	e := entry("u", "d", 1, 1, true)
	fd := &Feed{tag: FeedTag(v.Request.Wants[0].Tag), entry: e, next: 1, floor: 1}
	room.journal.feeds[fd.tag] = fd
	for _, one := range chain(1, 7, 100, 1, 1) {
		one.tag, one.sealed = fd.tag, make([]byte, 200<<10)
		room.journal.take(epoch, "", fd, one)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var q wire.SyncRequest
		if len(raw) > 32<<10 || proto.Unmarshal(raw, &q) != nil || len(q.Wants) > MaxWants+MaxSpans {
			return
		}
		wants, budget, frames := q.Wants, SyncAnswer, 0
		for len(wants) > 0 && budget > 0 {
			var part *wire.SyncReply
			left := len(wants)
			before := budget
			if part, wants = room.Part(time.Now(), wants, SyncPart, &budget); len(wants) == left && budget == before {
				t.Fatal("no progress")
			}
			if n := proto.Size(part); n > MaxSyncReply {
				t.Fatalf("frame of %d bytes", n)
			}
			if len(part.AgesMs) != len(part.Envelopes) || len(part.Gone) > MaxWants+MaxSpans || len(part.Entries) > MaxWants {
				t.Fatal("an answer that the asker refuses")
			}
			frames++
		}
		if budget < -(SyncPart + wire.MaxEnvelope + MaxEntry) {
			t.Fatalf("%d bytes over", -budget)
		}
	})
}

// FuzzSyncReply signs the bytes that it is given, so that they are read behind the signature.
func FuzzSyncReply(f *testing.F) {
	var seed wire.SyncReply
	for first := range uint64(3) {
		e, err := proto.Marshal(&wire.Envelope{
			Feed: make([]byte, 16), First: 1 + first, Count: 1, Content: wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte("x")),
		})
		if err != nil {
			f.Fatal(err)
		}
		seed.Envelopes = append(seed.Envelopes, append(make([]byte, wire.SignatureSize), e...))
		seed.AgesMs = append(seed.AgesMs, first)
	}
	seed.Gone = []*wire.Position{{Feed: make([]byte, 16), Last: 1}}
	raw, err := proto.Marshal(&seed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, uint64(1), uint64(0))
	f.Add(raw, uint64(2), uint64(3))
	first, _ := begunStay(f, time.Now(), new(deafWorld))
	author, statement := user(f, identity.NewAppID("test"), "u1", 1)
	feedID := FeedID{2}
	authored := &Entry{Statement: statement, Feed: feedID, Sequence: 1, Joined: true}
	app, tag := first.Door.app, first.Tag
	f.Fuzz(func(t *testing.T, raw []byte, first, last uint64) {
		var reply wire.SyncReply
		if len(raw) > MaxSyncReply || proto.Unmarshal(raw, &reply) != nil {
			return
		}
		r, door := begunStay(t, time.Now(), new(deafWorld))
		r.roster.apply(time.Now(), authored)
		r.journal.ready = true
		for i, sealed := range reply.Envelopes {
			var e wire.Envelope
			if len(sealed) <= wire.SignatureSize || proto.Unmarshal(sealed[wire.SignatureSize:], &e) != nil {
				continue
			}
			e.App, e.Room, e.Device = app[:], tag[:], author.Device.Public().(ed25519.PublicKey)
			if len(e.Feed) == len(feedID) {
				e.Feed, e.SentMs = feedID[:], time.Now().UnixMilli()
			}
			if e.First == 1 {
				e.Previous = nil
			} else if e.First > 1 {
				e.Previous = make([]byte, 32)
			}
			if again, err := wire.SealEnvelope(author.Device, &e); err == nil {
				reply.Envelopes[i] = again
			}
		}
		fd := r.journal.feeds[authored.Tag()]
		fd.begin(1)
		p := Pull{From: "p", wants: []want{{fd, span{max(first, 1), last}}}}
		o := NewOutcome(p)
		entries, envelopes, err := o.Open(time.Now(), door, plenty.Age, &reply)
		for _, e := range entries {
			r.TakeEntry(time.Now(), p.From, e)
		}
		for _, e := range envelopes {
			r.Receive(time.Now(), p.From, e, Repaired)
		}
		if err := r.journal.unbounded(time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		if len(o.gone) > MaxWants+MaxSpans || len(r.parked.list) > MaxParked {
			t.Fatalf("%d gone, %d parked", len(o.gone), len(r.parked.list))
		}
		if fd.next == 0 || fd.next < fd.floor {
			t.Fatalf("the feed went back to %d", fd.next)
		}
		if err == nil && len(reply.Envelopes) != len(reply.AgesMs) {
			t.Fatal("took an answer without ages")
		}
	})
}
