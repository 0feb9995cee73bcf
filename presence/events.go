package presence

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
)

// Event is one of [PeerUp], [PeerDown], [PeerChanged], [SettingDiffers], [Conflict], [Replaced],
// [DuplicateDevice], [Refused], [TokenExpiring] and [TokenEnded].
type Event interface{ event() }

// PeerUp reports the first completed hello with a peer since it connected.
type PeerUp struct {
	Peer    peer.ID
	Session identity.Session
}

// PeerDown reports the end of the last connection to a peer. One follows every PeerUp, unless the
// directory is closed first.
type PeerDown struct {
	Peer   peer.ID
	Reason DownReason
}

// DownReason is why the last connection to a peer has ended.
type DownReason uint8

const (
	Lost        DownReason = iota // for no known reason: a crash, a cut, or the peer has just closed it
	SaidGoodbye                   // the peer has said that its node closes
	Trimmed                       // a connection manager, here or there, has closed it: it had too many
)

// PeerChanged reports a later hello with something new: another statement (the peer logged in or
// out, or signed it again), or another incarnation (the peer restarted before its old connection
// was seen to end). In app mode it also comes when the token of the peer's log-in ends, or counts
// again: see [identity.Statement.LoggedInAt].
type PeerChanged struct {
	Peer    peer.ID
	Session identity.Session
}

// SettingDiffers reports a peer that has another value of a setting that all nodes of an app must
// have in common. It follows the peer's PeerUp, or its restart. The two nodes go on, but may judge
// the same thing differently: who is still in a room, which token counts, or how long a message may
// be.
type SettingDiffers struct {
	Peer    peer.ID
	Setting string // "max_message", "grace" or "leeway"
	Ours    string // bytes as a decimal number, or a duration as [time.Duration] writes it
	Theirs  string
}

// Conflict reports a name with more than one key. Either another key uses this node's own name or a
// pinned one, or two logged-in users, at least one of them connected, have a name that is not
// pinned. It comes once for each name and key, and again if the name has since been pinned to
// another key. A key that has said good-bye does not count.
type Conflict struct {
	User   string
	Pinned identity.PublicKey // this node's own key or the pinned key: what the name means on this node; zero: not pinned
	Other  identity.Login     // the other login with that name
	Rival  identity.Login     // if the name is not pinned, the second login with it; otherwise zero
}

// Replaced reports that this node was logged out because its user later logged in elsewhere. The
// node does not log in again by itself.
type Replaced struct{ By identity.Login }

// DuplicateDevice reports that two nodes use one device key: this node's own if Peer is its ID,
// otherwise a connected peer's. Such nodes cut each other's connections. The cause is a data
// directory that was copied to a second place. Not every such pair can be noticed.
type DuplicateDevice struct{ Peer peer.ID }

// Refused reports a peer with which no hello is possible. The connection was closed; see
// [Directory.Foreign]. If the peer connects again while it is foreign, it is refused again without
// another event.
type Refused struct {
	Peer   peer.ID
	Reason string
	Err    *HelloError
}

// TokenExpiring warns that the token of this node's log-in expires at that time. It comes 30 s
// before, or at once if a new token has less time left. If [Directory.UpdateLoginToken] installs a
// later token in time, peers notice nothing. The event comes once per token.
type TokenExpiring struct{ Expires time.Time }

// TokenEnded reports that peers no longer count this node's log-in, because its token has expired,
// including the leeway, or was revoked. The node remains logged in for its own program: after
// [Directory.UpdateLoginToken] with a valid token, peers count the log-in again. Err is an
// [*identity.TokenError].
type TokenEnded struct{ Err error }

func (PeerUp) event()          {}
func (PeerDown) event()        {}
func (PeerChanged) event()     {}
func (SettingDiffers) event()  {}
func (Conflict) event()        {}
func (Replaced) event()        {}
func (DuplicateDevice) event() {}
func (Refused) event()         {}
func (TokenExpiring) event()   {}
func (TokenEnded) event()      {}

// maxEvents is how many events may wait for the observer before hellos are put off. Peers cause
// events, and a blocked observer must not let them fill the memory.
const maxEvents = 4096

// dispatcher passes events to the observer on its own goroutine, so that no lock is held and the
// order is kept.
type dispatcher struct {
	observe func(Event)
	wake    task.Wake     // the queue may have become non-empty
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

// end waits until run has delivered the events pushed before it, and has returned.
func (d *dispatcher) end() {
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.signal()
	<-d.done
}
