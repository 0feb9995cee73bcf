package node

import (
	"encoding/json"
	"time"
)

// ConnectionState is how a node is connected to the other nodes of its app. docs/EVENTS.md has the
// whole graph of states.
//
// No server says that a node is connected. So a node counts as connected for as long as nothing
// speaks against it: it has a usable interface, and it has not lost its connections to other nodes.
// A node that was alone from the start is connected, and so is one whose last peer has said
// goodbye.
type ConnectionState string

const (
	// Disconnected is a node whose connections to other nodes were all lost, without a goodbye, or
	// that has no usable interface left. It is also the state before [New] and after [Node.Close].
	Disconnected ConnectionState = "disconnected"
	// Connecting is a node that has started and has no usable interface yet.
	Connecting ConnectionState = "connecting"
	// Connected is a node that has lost nothing since it started.
	Connected ConnectionState = "connected"
	// Reconnecting is a disconnected node that dials the nodes that it has lost.
	Reconnecting ConnectionState = "reconnecting"
	// Reconnected is what Connected is called after a loss.
	Reconnected ConnectionState = "reconnected"
	// Lost is a node that has been disconnected for so long that the others have given it up: they
	// have dropped it from their rooms. It goes on dialling.
	Lost ConnectionState = "lost"
	// Failed is a node that has found no usable interface since it started. It recovers by itself
	// when there is one.
	Failed ConnectionState = "failed"
)

// down reports whether the node's own link is known to be down.
func (s ConnectionState) down() bool { return s != Connected && s != Reconnected }

// ConnectionChanged says that the node is connected to the others in another way than before: it is
// about this node's own connection, while a [PeerDown] is about one other node. [Node.Close] has no
// such event.
type ConnectionChanged struct {
	Header
	State   ConnectionState
	Before  ConnectionState // the state that has ended
	Elapsed time.Duration   // how long that lasted
	// LoggedIn says whether this node is logged in. A loss does not end a log-in: it counts again
	// as soon as other nodes are connected.
	LoggedIn bool
	Reason   string // for people; may be empty
}

// MarshalJSON returns {header…, "state":…, "before":…, "elapsed_ms":…, "logged_in":…, "reason":…}.
func (e ConnectionChanged) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Header
		State    ConnectionState `json:"state"`
		Before   ConnectionState `json:"before"`
		Elapsed  int64           `json:"elapsed_ms"`
		LoggedIn bool            `json:"logged_in"`
		Reason   string          `json:"reason,omitempty"`
	}{e.Header, e.State, e.Before, e.Elapsed.Milliseconds(), e.LoggedIn, e.Reason})
}

// Connection returns how this node is connected to the other nodes of its app. It does not wait. A
// [ConnectionChanged] reports each change.
func (n *Node) Connection() ConnectionState { return n.monitor.state() }
