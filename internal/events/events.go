// Package events is the ordered stream of events that a program reads.
//
//	q := events.NewQueue("ops", events.Limits{})
//	q.PushNotice(&Joined{User: "bob"})
//	ev, err := q.Recv(ctx) // ev.Head().Seq == 1
//
// # Order and bounds
//
// A queue has one reader at a time and any number of writers, none of which ever waits. It is
// bounded in events and in bytes. When it is full, the oldest broadcast is dropped and the reader
// finds a [Lagged] in its place. A direct message is refused instead, so that its sender learns of
// it. Notices (membership, state) are kept. Every event takes the next sequence number when it is
// queued, so a dropped one leaves a gap.
package events

import (
	"time"
)

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
}

// Head returns the header itself, so that a struct that embeds a Header is an Event.
func (h *Header) Head() *Header { return h }

// Event is a pointer to a struct that embeds a [Header].
type Event interface{ Head() *Header }

// Lagged reports that Missed broadcasts were dropped just before the event that follows it, because
// the stream was read too slowly.
type Lagged struct {
	Header
	Missed int `json:"missed"`
}
