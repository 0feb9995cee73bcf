package mesh

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// Cursor says how far a reader has got with the broadcasts of a room: a place in each feed. The
// zero value is the beginning. The reader moves it with Add, for each event that it has dealt with:
//
//	for ev, err := range room.Events(ctx) {
//		...
//		switch ev := ev.(type) {
//		case *mesh.Message:
//			if cursor.Add(ev) { // false: Replay has yielded it before
//				handle(ev)
//			}
//		case *mesh.Lagged:
//			for ev := range room.Replay(&cursor) { // what was missed, and what comes next
//				handle(ev)
//			}
//		}
//	}
//
// A cursor can be kept as text ([Cursor.MarshalText]): a program that joins the room again
// [WithResume] goes on where it was, as far as members retain what it missed. It remembers the 4096
// feeds that moved last. Only one goroutine at a time may use a Cursor.
type Cursor struct {
	places map[cursorKey]place
	at     time.Time // when it last moved, by the machine's clock: it belongs to no node
}

type cursorKey struct {
	peer peer.ID
	feed FeedID
}

type place struct {
	last uint64
	at   time.Time
}

// maxCursor is how many feeds a cursor remembers.
const maxCursor = stay.MaxMembers

// Add notes that an event has been dealt with, and reports whether it was new. Events other than
// [Message] and [GapLost] are always new, and do not move the cursor.
func (c *Cursor) Add(ev Event) bool {
	switch ev := ev.(type) {
	case *Message:
		return c.move(cursorKey{ev.From.Peer, ev.Feed}, ev.Number)
	case *GapLost:
		return c.move(cursorKey{ev.From.Peer, ev.Feed}, ev.Last)
	}
	return true
}

func (c *Cursor) move(key cursorKey, last uint64) bool {
	old, known := c.places[key]
	if known && last <= old.last {
		return false
	}
	if c.places == nil {
		c.places = make(map[cursorKey]place)
	}
	c.at = time.Now()
	c.places[key] = place{last, c.at}
	if !known && len(c.places) > maxCursor {
		c.trim()
	}
	return true
}

// trim forgets half of the feeds, those that moved least recently.
func (c *Cursor) trim() {
	keys := slices.SortedFunc(maps.Keys(c.places), func(a, b cursorKey) int { return c.places[a].at.Compare(c.places[b].at) })
	for _, k := range keys[:len(keys)/2] {
		delete(c.places, k)
	}
}

const cursorVersion = 1

var errCursor = errors.New("not a cursor")

// MarshalText returns the cursor as one word of base64url, of some 90 bytes for each feed.
func (c Cursor) MarshalText() ([]byte, error) {
	out := binary.AppendVarint([]byte{cursorVersion}, c.at.UnixMilli())
	keys := slices.SortedFunc(maps.Keys(c.places), func(a, b cursorKey) int {
		return cmp.Or(cmp.Compare(a.peer, b.peer), bytes.Compare(a.feed[:], b.feed[:]))
	})
	for _, k := range keys {
		out = binary.AppendUvarint(out, uint64(len(k.peer)))
		out = append(append(out, k.peer...), k.feed[:]...)
		out = binary.AppendUvarint(out, c.places[k].last)
	}
	return base64.RawURLEncoding.AppendEncode(nil, out), nil
}

// UnmarshalText reads what MarshalText returned.
func (c *Cursor) UnmarshalText(text []byte) error {
	in, err := base64.RawURLEncoding.AppendDecode(nil, text)
	if err != nil || len(in) == 0 || in[0] != cursorVersion {
		return errCursor
	}
	in = in[1:]
	ms, n := binary.Varint(in)
	if n <= 0 {
		return errCursor
	}
	out := Cursor{at: time.UnixMilli(ms), places: make(map[cursorKey]place)}
	for in = in[n:]; len(in) > 0; {
		size, n := binary.Uvarint(in)
		if n <= 0 || size > 64 || len(in) < n+int(size)+len(FeedID{}) || len(out.places) > maxCursor {
			return errCursor
		}
		in = in[n:]
		key := cursorKey{peer: peer.ID(in[:size])}
		in = in[size:]
		in = in[copy(key.feed[:], in):]
		last, n := binary.Uvarint(in)
		if n <= 0 {
			return errCursor
		}
		in = in[n:]
		out.places[key] = place{last, out.at}
	}
	*c = out
	return nil
}

// WithResume makes a stay go on where a reader's cursor was, in this or an earlier run of the
// program. Feeds that the cursor knows go on behind its place; others begin with what was published
// after the cursor last moved. What no member retains is reported by [GapLost]. WithResume replaces
// [WithHistory]. The zero Cursor has no effect.
func WithResume(c Cursor) JoinOption {
	places := maps.Clone(c.places)
	return func(j *joinConfig) {
		if c.at.IsZero() {
			return
		}
		j.resume = places
		j.past = stay.Past{Age: max(time.Since(c.at), 0)}
	}
}

// positions returns the cursor's places by the tags that feeds have among members.
func positions(places map[cursorKey]place) (map[stay.FeedTag]uint64, error) {
	out := make(map[stay.FeedTag]uint64, len(places))
	for k, p := range places {
		key, err := k.peer.ExtractPublicKey()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errCursor, err)
		}
		raw, err := key.Raw()
		if err != nil || len(raw) != len(identity.PublicKey{}) {
			return nil, errCursor
		}
		out[stay.TagFeed(identity.PublicKey(raw), stay.FeedID(k.feed))] = p.last
	}
	return out, nil
}

// replayPart is how many bytes of envelopes Replay takes from the ring at a time.
const replayPart = 1 << 20

// Replay yields what the room retains of the broadcasts after a cursor, in the order of each feed,
// and moves the cursor over them. Each event is a *[Message], or a *[GapLost] for what is no longer
// retained. It is for a reader that has [Lagged]. What it yields may still wait among the room's
// events: [Cursor.Add] reports false for it there. Replay waits for nothing. This node's own
// broadcasts are left out.
func (r *Room) Replay(c *Cursor) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for _, u := range r.unread(c) {
			for first := u.first; ; {
				events, next := r.replayFrom(u.feed, first)
				for _, ev := range events {
					if c.Add(ev) && !yield(ev) {
						return
					}
				}
				if next == first {
					break
				}
				first = next
			}
		}
	}
}

// unread is a feed whose messages the app gets, and its first item behind a cursor.
type unread struct {
	feed  *stay.Feed
	first uint64
}

func (r *Room) unread(c *Cursor) (out []unread) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.stay.Unread() {
		from, id := f.Author()
		out = append(out, unread{f, f.First(c.places[cursorKey{from.Peer, FeedID(id)}].last)})
	}
	return out
}

// replayFrom returns the next events of a feed from item first on, and the item that follows them:
// first if there are none.
func (r *Room) replayFrom(f *stay.Feed, first uint64) (out []Event, next uint64) {
	r.mu.Lock()
	from, id := f.Author()
	list, gone := r.stay.Retained(f, first, replayPart)
	r.mu.Unlock()
	head := Header{Room: r.name, Stay: r.shown, Time: r.mesh.clock.Now()}
	if gone >= first {
		head.Type = TypeGapLost
		return []Event{&GapLost{head, from, FeedID(id), first, gone}}, gone + 1
	}
	head.Type, next = TypeMessage, first
	for _, k := range list {
		next = k.Last() + 1
		e, err := wire.ParseEnvelope(k.Sealed)
		if err != nil || e.Scheme != 0 {
			continue
		}
		number := e.First
		for content := e.Content; len(content) > 0; number++ {
			kind, payload, rest, err := wire.NextItem(content)
			if err != nil {
				break // it was checked when it came
			}
			content = rest
			if number < first || kind != wire.Kind_KIND_TEXT && kind != wire.Kind_KIND_BINARY {
				continue
			}
			msg := &Message{Header: head, From: from, Data: payload, Sent: time.UnixMilli(e.SentMs), Feed: FeedID(id), Number: number}
			if kind == wire.Kind_KIND_TEXT {
				msg.Kind = Text
			}
			out = append(out, msg)
		}
	}
	return out, next
}
