package main

import (
	"time"

	"github.com/starling-mesh/starling/identity"
)

// What is kept of a conversation to scroll back in. Peers fill it: it is bounded in bytes, too.
const (
	maxEntries    = 2000
	maxEntryBytes = 4 << 20
	// maxDirect is how many direct conversations are kept: anybody can begin one. The one quiet for longest goes.
	maxDirect = 64
)

// mark is how far a message of our own has come.
type mark int

const (
	markNone      mark = iota // not ours
	markSending               // no result yet
	markSent                  // handed to the members that are connected
	markDelivered             // its user's node has it
	markUnknown               // it may have arrived
	markFailed                // it has not arrived
)

// entry is one thing that was said in a conversation, or told there.
type entry struct {
	at    time.Time
	from  string // who said it, as shown; "" for what the chat tells
	self  bool
	aside string // for a message to one member of a room, to whom: "you" or a name
	text  string // fit for a terminal
	table []row  // told: in place of a text
	alarm bool   // told, and something is wrong
	mark  mark
	note  string // of the mark: the time it took, or the reason

	lines []string // as drawn, for the width and the look drawnFor
	drawn drawnFor
}

// row is a term and what it means.
type row struct{ term, means string }

// talk is one conversation: a room, or one user.
type talk struct {
	room    string         // "" for a direct one
	user    string         // of a direct one: the name as shown, or as it was typed
	login   identity.Login // of a direct one, once a message has shown whose it is: the key never changes after that
	seen    identity.Login // of one opened by a name: the one of that name who was there; zero: nobody was, or the name meant several
	typed   string         // of one opened by a name: that name
	named   bool           // a message has gone to that name
	joined  bool           // of a room
	members []seat         // of a room: the others, by name
	role    string         // of a room: the user's own, in app mode

	entries []*entry
	bytes   int
	unread  int
	failed  bool // a message of ours failed here, unseen
	active  int  // grows with each thing said here or there: the larger, the later
	up      int  // lines scrolled back; 0: at the newest
	below   int  // things said below what is seen, while scrolled back
	line    editor
}

func (t *talk) direct() bool { return t.room == "" }

// name is how the conversation is called in its prompt and in the list.
func (t *talk) name() string {
	if t.direct() {
		return t.user
	}
	return "#" + t.room
}

// add puts an entry at the end, and lets the oldest go when there are too many.
func (t *talk) add(e *entry) {
	t.entries = append(t.entries, e)
	t.bytes += len(e.text)
	for len(t.entries) > maxEntries || t.bytes > maxEntryBytes && len(t.entries) > 1 {
		t.bytes -= len(t.entries[0].text)
		t.entries[0] = nil
		t.entries = t.entries[1:]
	}
}
