package screen

import (
	"time"

	"github.com/starling-mesh/starling/identity"
)

// What is kept of a conversation to scroll back in. Peers fill it, so it is bounded in bytes, too.
const (
	maxEntries    = 2000
	maxEntryBytes = 4 << 20
	// maxDirect is how many direct conversations are kept, since anybody can begin one. The one
	// that was quiet for longest is dropped.
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
	markRefused               // its receiver has refused it
)

// entry is one line of a conversation: said in it, or by the chat itself.
type entry struct {
	at    time.Time
	from  string // who said it, as shown; "" for the chat itself
	self  bool
	aside string // for a message to one member of a room, its receiver: "you" or a name
	text  string // fit for a terminal
	table []row  // the chat itself: in place of a text
	alarm bool   // the chat itself, and something is wrong
	mark  mark
	note  string // of the mark: the time it took, or the reason

	lines []string // as drawn, for the width and the look drawnFor
	drawn drawnFor
}

// row is a term and what it means.
type row struct{ term, means string }

// talk is one conversation: a room, or one user.
type talk struct {
	room    string         // "" if direct
	user    string         // direct: the name as shown, or as it was typed
	login   identity.Login // direct: its user, once a message has shown that; then the key never changes
	seen    identity.Login // opened by a name: the user of it who was there; zero: none, or several
	typed   string         // opened by a name: that name
	named   bool           // a message has gone to that name
	joined  bool           // room: the user is in it
	members []seat         // room: the others, by name
	role    string         // room: the user's own, in app mode

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

// add puts an entry at the end, and drops the oldest when there are too many.
func (t *talk) add(e *entry) {
	t.entries = append(t.entries, e)
	t.bytes += len(e.text)
	for len(t.entries) > maxEntries || t.bytes > maxEntryBytes && len(t.entries) > 1 {
		t.bytes -= len(t.entries[0].text)
		t.entries[0] = nil
		t.entries = t.entries[1:]
	}
}
