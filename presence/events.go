package presence

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
)

// Event is one of [PeerUp], [PeerDown], [PeerChanged], [Conflict], [Displaced], [DuplicateDevice], [Refused], [TokenExpiring] and
// [TokenEnded].
type Event interface{ event() }

// PeerUp reports the first completed hello with a peer since it connected.
type PeerUp struct {
	Peer    peer.ID
	Session identity.Session
}

// PeerDown reports the end of the last connection to a peer. Every PeerUp is followed by one, unless the directory is
// closed first.
type PeerDown struct{ Peer peer.ID }

// PeerChanged reports a later hello that said something new: another statement (it logged in or out, or signed anew), or
// another incarnation (it restarted, and no end of its old connection was seen). In app mode it also comes when the token of its
// log-in ends, or counts again: see [identity.Statement.LoggedInAt].
type PeerChanged struct {
	Peer    peer.ID
	Session identity.Session
}

// Conflict reports a name with more than one key: the own name, or a pinned one, that another key uses, or a name that
// is pinned to none and that two logged-in users have, of whom at least one is connected. It comes once for each name
// and key, and again when the name has been pinned to another key since. A key that has said good-bye is no rival.
type Conflict struct {
	User   string
	Pinned identity.PublicKey // the own key or the pin: what the name means here; zero: it is pinned to no key
	Other  identity.Login     // who else uses the name
	Rival  identity.Login     // without a pin, another who does; otherwise zero
}

// Displaced reports that this node was logged out because its user logged in elsewhere, later. It does not log in
// again by itself.
type Displaced struct{ By identity.Login }

// DuplicateDevice reports that two nodes use one device key: this node's own, if Peer is its ID, otherwise that of a
// connected peer. Such nodes cut each other's connections: one data directory was copied to a second place. Not every
// such pair can be noticed.
type DuplicateDevice struct{ Peer peer.ID }

// Refused reports a peer with which no hello is possible. The connection was closed; see [Directory.Foreign]. A peer
// that comes again while it is foreign is refused again, without another event.
type Refused struct {
	Peer   peer.ID
	Reason string
	Err    *RefusedError
}

// TokenExpiring warns that the token of this node's log-in expires at that time, 30 s before; at once if less than that is left of a
// new token. [Directory.UpdateLoginToken] with a later one prevents that anybody notices. It comes once per token.
type TokenExpiring struct{ Expires time.Time }

// TokenEnded reports that peers no longer count this node's log-in, since its token has expired, with the leeway, or was
// revoked. The node stays logged in for itself: [Directory.UpdateLoginToken] with a good token makes peers count it again.
// Err is an [*identity.TokenError].
type TokenEnded struct{ Err error }

func (PeerUp) event()          {}
func (PeerDown) event()        {}
func (PeerChanged) event()     {}
func (Conflict) event()        {}
func (Displaced) event()       {}
func (DuplicateDevice) event() {}
func (Refused) event()         {}
func (TokenExpiring) event()   {}
func (TokenEnded) event()      {}

// maxEvents is how many events may wait for the observer before hellos are put off: peers cause events, and an
// observer that blocks must not let them fill the memory.
const maxEvents = 4096

// dispatcher hands events to the observer on a goroutine of its own, so that no lock is held and no order lost.
type dispatcher struct {
	observe func(Event)
	wake    task.Wake     // the queue may not be empty
	done    chan struct{} // closed when run has returned

	mu    sync.Mutex
	queue []Event
	ended bool
}

func newDispatcher(observe func(Event)) *dispatcher {
	return &dispatcher{observe: observe, wake: task.NewWake(), done: make(chan struct{})}
}

// push never blocks.
func (d *dispatcher) push(ev Event) {
	d.mu.Lock()
	if !d.ended {
		d.queue = append(d.queue, ev)
	}
	d.mu.Unlock()
	d.signal()
}

func (d *dispatcher) signal() {
	d.wake.Set()
}

// full reports whether the observer is too far behind.
func (d *dispatcher) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.queue) >= maxEvents
}

func (d *dispatcher) run() {
	defer close(d.done)
	for range d.wake {
		d.mu.Lock()
		batch, ended := d.queue, d.ended
		d.queue = nil
		d.mu.Unlock()
		for _, ev := range batch {
			d.observe(ev)
		}
		if ended {
			return
		}
	}
}

// end lets run deliver what was pushed before, and return.
func (d *dispatcher) end() {
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.signal()
	<-d.done
}
