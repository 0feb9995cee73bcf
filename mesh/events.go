package mesh

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/events"
)

// Event is one thing that happened, in a room or outside rooms: a pointer to one of [Message],
// [DirectMessage], [JoinDelayed], [RoomReady], [MemberJoined], [MemberLeft], [MemberSilent],
// [MemberHeard], [RoomSize], [GapLost], [TokenExpiring], [RoomEnded] and [Lagged]. The events of
// one room form one ordered stream, numbered in [Header].Seq. [Lagged] counts a hole in these
// numbers. With [WithEvents], the events of all rooms form one stream instead.
//
// As JSON every event is one object that starts with the header's fields. 64-bit numbers are
// strings, times are RFC 3339 with nanoseconds, binary data is base64 (standard, padded) under
// "data", and text is under "text".
type Event interface{ Head() *Header }

// Header opens every event.
type Header struct {
	// Type names the event in JSON, such as "message".
	Type string `json:"type"`
	// Seq numbers the events of one stream from 1. A gap in it means that events were dropped.
	Seq uint64 `json:"seq,string"`
	// Time is when the event was queued, by this node's clock.
	Time time.Time `json:"time"`
	// Room is empty for events of the node.
	Room string `json:"room,omitempty"`
	// Stay tells the stays in one room apart: see [Room.Stay]. It is set in the stream of all
	// events alone (node.WithAllEvents), and is 0 for events of the node.
	Stay uint64 `json:"stay,string,omitempty"`
}

// Head returns the header itself, so that a struct that embeds a Header is an Event.
func (h *Header) Head() *Header { return h }

// Lagged reports that Missed broadcasts were dropped just before the event that follows it, because
// the program read this stream too slowly.
type Lagged struct {
	Header
	Missed int `json:"missed"`
}

// QueueLimits bound the events that wait for a reader. A zero field stands for its default.
type QueueLimits struct {
	// Events is how many broadcasts and direct messages may wait. The default is 8192: thousands
	// can arrive at once while the reader is briefly busy.
	Events int
	// Bytes bounds their payloads, in bytes. The default is 16 MiB: 256 messages of the largest
	// size.
	Bytes int
}

// DefaultQueue is what zero [QueueLimits] stand for.
var DefaultQueue = QueueLimits{Events: 8192, Bytes: 16 << 20}

// filled returns the limits with the defaults in place of zeros.
func (l QueueLimits) filled() QueueLimits {
	return QueueLimits{cmp.Or(l.Events, DefaultQueue.Events), cmp.Or(l.Bytes, DefaultQueue.Bytes)}
}

// openEvents makes the stream of a stay: one of its own, or a part of the mesh's.
func (r *Room) openEvents() {
	c := &r.mesh.cfg
	kind := events.Kind[Event]{
		Clock: c.clock,
		Stamp: func(ev Event, seq uint64, at time.Time) {
			h := ev.Head()
			h.Seq, h.Time, h.Room, h.Stay = seq, at, r.name, r.shown
		},
		Lagged: func(seq uint64, at time.Time, missed int) Event {
			return &Lagged{Header{TypeLagged, seq, at, r.name, r.shown}, missed}
		},
	}
	if c.events == nil {
		r.stream = events.NewQueue(kind, c.queue.Events, c.queue.Bytes)
		r.queue = r.stream.Own()
		return
	}
	r.shown = r.number
	r.queue = c.events.NewSource(kind)
}

// endEvents ends the stream of a stay, once.
func (r *Room) endEvents(why error) {
	if r.stream != nil {
		r.stream.End(why)
		return
	}
	r.queue.End(newRoomEnded(why))
}

// The Type of each event of this package.
const (
	TypeMessage       = "message"
	TypeDirectMessage = "direct_message"
	TypeJoinDelayed   = "join_delayed"
	TypeRoomReady     = "room_ready"
	TypeMemberJoined  = "member_joined"
	TypeMemberLeft    = "member_left"
	TypeMemberSilent  = "member_silent"
	TypeMemberHeard   = "member_heard"
	TypeRoomSize      = "room_size"
	TypeGapLost       = "gap_lost"
	TypeLagged        = "lagged"
	TypeRoomEnded     = "room_ended"
	TypeTokenExpiring = "token_expiring"
)

// Kind says whether a message is binary or text. Both arrive byte for byte; text is valid UTF-8.
type Kind uint8

const (
	Binary Kind = iota // the zero value
	Text
)

func (k Kind) String() string {
	switch k {
	case Binary:
		return "binary"
	case Text:
		return "text"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MarshalText returns "binary" or "text".
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// FeedID names the numbered broadcasts of one node during one stay in a room. It is random.
type FeedID [16]byte

func (f FeedID) String() string { return hex.EncodeToString(f[:]) }

// MarshalText returns 32 lower-case hex digits.
func (f FeedID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, f[:]), nil }

// Message is a broadcast in a room.
type Message struct {
	Header
	From   identity.Login // proved by the signature of the envelope that carried it
	Kind   Kind
	Data   []byte    // the reader's own; at most the room's message limit
	Sent   time.Time // by the sender's clock, in ms
	Feed   FeedID
	Number uint64 // place in the feed, rising: 2 or more, since what a member says about itself counts too
}

// MarshalJSON returns {header…, "from":{…}, "kind":"text", "text":"…" or "data":"base64", "sent":…,
// "feed":"hex", "number":"1"}.
func (m Message) MarshalJSON() ([]byte, error) {
	data, text := split(m.Kind, m.Data)
	return json.Marshal(struct {
		Header
		From   identity.Login `json:"from"`
		Kind   Kind           `json:"kind"`
		Text   *string        `json:"text,omitempty"`
		Data   []byte         `json:"data,omitempty"`
		Sent   time.Time      `json:"sent"`
		Feed   FeedID         `json:"feed"`
		Number uint64         `json:"number,string"`
	}{m.Header, m.From, m.Kind, text, data, m.Sent.UTC(), m.Feed, m.Number})
}

// DirectMessage is a message to this user alone: from a room if Room is set, otherwise from outside
// rooms.
type DirectMessage struct {
	Header
	From identity.Login // proved by the connection it came over
	Kind Kind
	Data []byte    // the reader's own; at most 65,536 bytes
	Sent time.Time // by the sender's clock, in ms
}

// MarshalJSON returns {header…, "from":{…}, "kind":"text", "text":"…" or "data":"base64",
// "sent":…}.
func (m DirectMessage) MarshalJSON() ([]byte, error) {
	data, text := split(m.Kind, m.Data)
	return json.Marshal(struct {
		Header
		From identity.Login `json:"from"`
		Kind Kind           `json:"kind"`
		Text *string        `json:"text,omitempty"`
		Data []byte         `json:"data,omitempty"`
		Sent time.Time      `json:"sent"`
	}{m.Header, m.From, m.Kind, text, data, m.Sent.UTC()})
}

// split returns the payload for the JSON field that it belongs to: data or text.
func split(k Kind, data []byte) ([]byte, *string) {
	if k == Text {
		text := string(data)
		return nil, &text
	}
	return data, nil
}

// Member is a user in a room. With this library, Info stays the same during one stay. After the
// user continues on another device, or restarts, it can be another one. If no event comes in
// between, only [Room.Members] shows the new one.
type Member struct {
	identity.Login
	Role  string    // what its room token says; empty in open mode
	Info  []byte    // what the member passed to Join; at most 200 bytes
	Since time.Time // when this node learnt of the member
}

// MarshalJSON returns {"user":…, "key":…, "peer":…, "role":…, "info":"base64", "since":…}.
func (m Member) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		User  string    `json:"user"`
		Key   string    `json:"key"`
		Peer  string    `json:"peer"`
		Role  string    `json:"role,omitempty"`
		Info  []byte    `json:"info,omitempty"`
		Since time.Time `json:"since"`
	}{m.User, m.Key.Fingerprint(), m.Peer.String(), m.Role, m.Info, m.Since.UTC()})
}

// JoinDelayed says that joining takes longer than 5 s: other members are connected, and none of
// them has answered. It goes on by itself, for up to 15 s; [RoomReady] follows.
type JoinDelayed struct {
	Header
	Members int `json:"members"` // that are connected and have not answered
}

// JoinType says why a room is ready.
type JoinType string

const (
	FirstJoin JoinType = "first"  // the program has joined
	Rejoin    JoinType = "rejoin" // the node was cut off from all other members, and is no more
)

// RoomReady says that this node is in the room and agrees with the members that it is connected to
// about who else is there. It comes before all events about members and messages.
//
// It comes again, with [Rejoin], when a node is back that had lost its connections to all other
// members. What has changed meanwhile follows: first the members that are gone, then those that are
// new, then messages. While the node is cut off, it reports as gone only members whose grace is
// over.
type RoomReady struct {
	Header
	Join JoinType
	// Elapsed is how long it took: since [Mesh.Join] was called, or since the node was cut off.
	Elapsed time.Duration
}

// MarshalJSON returns {header…, "join":"first", "elapsed_ms":12}.
func (r RoomReady) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Header
		Join    JoinType `json:"join"`
		Elapsed int64    `json:"elapsed_ms"`
	}{r.Header, r.Join, r.Elapsed.Milliseconds()})
}

// MemberSilent says that a member seems to be gone: the connection to it has ended or says nothing,
// and it has not answered. It stays a member for the grace ([WithGrace]), in which it may be heard
// again ([MemberHeard]); then it leaves ([MemberLeft], [Dropped]).
//
// The event comes about 2 s after a connection has ended without a goodbye, as when a process is
// killed, later in rooms with hundreds of members (5.5 s at most), and 7 s after a connected member
// has last said anything. Members that this node is not connected to are noticed by others, and
// after those have lost their connections.
type MemberSilent struct {
	Header
	Member Member `json:"member"`
}

// MemberHeard says that a member that had fallen silent is heard again. It has been a member all
// the time.
type MemberHeard struct {
	Header
	Member Member `json:"member"`
}

// MemberJoined says that a member is in the room. There is one for each member that was there
// before, and one for each that comes.
type MemberJoined struct {
	Header
	Member Member `json:"member"`
}

// LeaveReason is why a member is no longer in a room.
type LeaveReason string

const (
	Quit    LeaveReason = "quit"    // it said goodbye
	Dropped LeaveReason = "dropped" // it fell silent and the grace is over, or its token has ended
	Evicted LeaveReason = "evicted" // it signed broadcasts that contradict each other, or ignored the rate of broadcasts
	Kicked  LeaveReason = "kicked"  // an order has put it out: a kick, a ban or a dismissal
)

// MemberLeft says that a member is no longer in the room.
type MemberLeft struct {
	Header
	Member Member      `json:"member"`
	Reason LeaveReason `json:"reason"`
}

// RoomSize says that a room has become large, or small again. In a large room, members cause no
// events. A room is large from as many members on as [WithLargeRoom] sets, until fewer than nine
// tenths as many are left. [Room.Members] always lists the members. When a room is small again,
// call it once, since some may have come and gone without an event.
type RoomSize struct {
	Header
	Members int  `json:"members"` // now, this node included
	Large   bool `json:"large"`   // members cause no events from now on
}

// TokenExpiring says that this node's room token expires soon: 30 s from now, or less if it came
// late. The stay ends then, unless [Room.UpdateToken] is called with another token.
type TokenExpiring struct {
	Header
	Expires time.Time `json:"expires"`
}

// GapLost says that broadcasts of a member are lost: First to Last of its feed, inclusive. The feed
// also counts what members report about themselves and others, so fewer messages than that may be
// lost, or none.
type GapLost struct {
	Header
	From  identity.Login `json:"from"`
	Feed  FeedID         `json:"feed"`
	First uint64         `json:"first,string"`
	Last  uint64         `json:"last,string"`
}

// EndReason is why this node's stay in a room has ended.
type EndReason string

const (
	EndLeft      EndReason = "left"      // [ErrLeft]: the program has left, or has cut its Join short
	EndClosed    EndReason = "closed"    // [ErrClosed]
	EndReplaced  EndReason = "replaced"  // [ErrReplaced]
	EndToken     EndReason = "token"     // an [*identity.TokenError]: the room token no longer counts
	EndKicked    EndReason = "kicked"    // a [*PutOutError] with [ErrKicked]
	EndBanned    EndReason = "banned"    // a [*PutOutError] with [ErrBanned]
	EndDismissed EndReason = "dismissed" // a [*PutOutError] with [ErrDismissed]
	EndOther     EndReason = "other"     // another reason, such as one given to [Mesh.EvictAll]
)

// RoomEnded says that this node's stay in a room has ended. It is the last event of that stay, and
// comes in the stream of all events alone (node.WithAllEvents): where a room has a stream of its
// own, [Room.Recv] returns Err.
type RoomEnded struct {
	Header
	Reason EndReason `json:"reason"`
	Detail string    `json:"detail"` // for people
	Err    error     `json:"-"`      // as [Room.Recv] would return it
}

func newRoomEnded(why error) *RoomEnded {
	ev := &RoomEnded{Header: Header{Type: TypeRoomEnded}, Reason: EndOther, Detail: why.Error(), Err: why}
	_, token := errors.AsType[*identity.TokenError](why)
	switch {
	case token:
		ev.Reason = EndToken
	case errors.Is(why, ErrReplaced):
		ev.Reason = EndReplaced
	case errors.Is(why, ErrLeft):
		ev.Reason = EndLeft
	case errors.Is(why, ErrClosed):
		ev.Reason = EndClosed
	case errors.Is(why, ErrKicked):
		ev.Reason = EndKicked
	case errors.Is(why, ErrBanned):
		ev.Reason = EndBanned
	case errors.Is(why, ErrDismissed):
		ev.Reason = EndDismissed
	}
	return ev
}
