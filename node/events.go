package node

import (
	"encoding/json"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/events"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/mesh"
)

// Event is one thing that happened to the node, outside rooms. It is a pointer to one of [PeerUp],
// [PeerChanged], [PeerDown], [PeerFailed], [SettingDiffers], [IdentityConflict], [LoggedOut],
// [TokenExpiring], [TokenEnded], [DuplicateDevice], [AddrsChanged], [ConnectionChanged],
// [mesh.DirectMessage] and [mesh.Lagged]. The events of a node form one ordered stream, numbered in
// [Header].Seq; rooms have streams of their own. With [WithAllEvents] there is one stream of all.
//
// Every event marshals to one JSON object, described in docs/EVENTS.md. Field names and values stay
// the same from version to version; new fields and new types may be added.
type Event = mesh.Event

// Header is the first part of every event: see [mesh.Header].
type Header = mesh.Header

// newQueue returns the empty stream of a node.
func newQueue(l mesh.QueueLimits, clock walltime.Clock) *events.Queue[Event] {
	return events.NewQueue(events.Kind[Event]{
		Clock: clock,
		Stamp: func(ev Event, seq uint64, at time.Time) {
			h := ev.Head()
			h.Seq, h.Time, h.Room = seq, at, ""
		},
		Lagged: func(seq uint64, at time.Time, missed int) Event {
			return &mesh.Lagged{Header: Header{Type: mesh.TypeLagged, Seq: seq, Time: at}, Missed: missed}
		},
	}, l.Events, l.Bytes)
}

// The Type of each event of this package.
const (
	TypePeerUp           = "peer_up"
	TypePeerChanged      = "peer_changed"
	TypePeerDown         = "peer_down"
	TypePeerFailed       = "peer_failed"
	TypeSettingDiffers   = "setting_differs"
	TypeIdentityConflict = "identity_conflict"
	TypeLoggedOut        = "logged_out"
	TypeTokenExpiring    = mesh.TypeTokenExpiring
	TypeTokenEnded       = "token_ended"
	TypeDuplicateDevice  = "duplicate_device"
	TypeAddrsChanged     = "addrs_changed"

	TypeConnectionChanged = "connection_changed"
)

// Peer is a connected node of the same app, as it has proved itself.
type Peer struct {
	identity.Login      // without a user while the node has no identity
	LoggedIn       bool // accepts messages outside rooms
}

// MarshalJSON returns {"user":…, "key":"<fingerprint>", "peer":…, "logged_in":…}, without user and
// key while the node has no identity.
func (p Peer) MarshalJSON() ([]byte, error) {
	out := struct {
		User     string `json:"user,omitempty"`
		Key      string `json:"key,omitempty"`
		Peer     string `json:"peer"`
		LoggedIn bool   `json:"logged_in"`
	}{User: p.User, Peer: p.Login.Peer.String(), LoggedIn: p.LoggedIn}
	if !p.Key.IsZero() {
		out.Key = p.Key.Fingerprint()
	}
	return json.Marshal(out)
}

// PeerUp says that a node of the same app is connected and has proved who it is.
type PeerUp struct {
	Header
	Peer Peer   `json:"node"`
	Addr string `json:"addr,omitempty"` // the remote multiaddr of the connection
}

// PeerChanged says that a connected node has another identity than before: it has logged in or out,
// or now has a user.
type PeerChanged struct {
	Header
	Peer Peer `json:"node"`
}

// PeerDown says that the last connection to a node is gone. The node is redialled for a while.
type PeerDown struct {
	Header
	Peer Peer `json:"node"` // as it was last
}

// IdentityConflict says that a name has more than one key. Either another user uses this node's own
// name or a pinned one, or two users have a name that is not pinned. The event comes once for each
// name and key, and again when the name has been pinned to another key since.
//
// A message to the name alone goes only to Pinned. While that key is not there, the message is
// refused with a [*presence.ConflictError]. The same error comes for a name that is not pinned
// while both users are there. Other.Address() and Rival.Address() name one of them exactly. An
// answer to a message from one of them pins the name to its key.
type IdentityConflict struct {
	Header
	User   string             `json:"user"`
	Pinned identity.PublicKey `json:"pinned"` // this node's own key or the pinned one; zero: the name is not pinned
	Other  identity.Login     `json:"other"`
	Rival  *identity.Login    `json:"rival,omitempty"` // the other user of the name; nil if it is pinned
}

// MarshalJSON writes the pinned key as its fingerprint, as in every login, and as "" if there is
// none.
func (c IdentityConflict) MarshalJSON() ([]byte, error) {
	out := struct {
		Header
		User   string          `json:"user"`
		Pinned string          `json:"pinned"`
		Other  identity.Login  `json:"other"`
		Rival  *identity.Login `json:"rival,omitempty"`
	}{Header: c.Header, User: c.User, Other: c.Other, Rival: c.Rival}
	if !c.Pinned.IsZero() {
		out.Pinned = c.Pinned.Fingerprint()
	}
	return json.Marshal(out)
}

// SettingDiffers says that a connected node of the same app has another value of a setting that all
// nodes of an app must have in common: [mesh.WithMaxMessage], [mesh.WithGrace], [WithLeeway], or
// one of [mesh.WithRates]. It follows the node's [PeerUp], or its restart. The two go on, but may
// judge the same thing differently.
type SettingDiffers struct {
	Header
	Peer    peer.ID `json:"peer"`
	Setting string  `json:"setting"` // "max_message", "grace", "leeway", or a rate such as "broadcast_messages"
	Ours    string  `json:"ours"`    // a decimal number, or a duration such as "10s"
	Theirs  string  `json:"theirs"`
}

// LogoutReason is why a log-in ended.
type LogoutReason string

const (
	Logout   LogoutReason = "logout"   // by the program, or because the node was closed
	Replaced LogoutReason = "replaced" // the same user has logged in on another device
)

// LoggedOut says that this node's log-in has ended. After [Replaced] the node has also left its
// rooms, and does not log in again by itself.
type LoggedOut struct {
	Header
	User   string          `json:"user"`
	Reason LogoutReason    `json:"reason"`
	By     *identity.Login `json:"by,omitempty"` // the log-in that took its place; nil for Logout
}

// TokenExpiring says that the token of this node's log-in expires soon: in 30 s, or less if the
// token came late. If [Node.UpdateLoginToken] is called with a later one by then, other nodes
// notice nothing. A room has the same event for its own token.
type TokenExpiring = mesh.TokenExpiring

// TokenEnded says that other nodes no longer count this node's log-in, since its token was revoked
// or has expired by more than the leeway. The node is not logged out: after [Node.UpdateLoginToken]
// with a good token others count the log-in again.
type TokenEnded struct {
	Header
	Revoked bool   `json:"revoked"` // by its issuer; otherwise the token has expired
	Reason  string `json:"reason"`  // for people
}

// DuplicateDevice says that two nodes use one device key, since a data directory was copied to a
// second place. The key is this node's own if Peer is its ID, otherwise another node's. Such nodes
// cut each other's connections; one of them needs keys of its own.
type DuplicateDevice struct {
	Header
	Peer peer.ID `json:"peer"`
}

// AddrsChanged reports the addresses at which the node can be dialled now. Each ends in /p2p/ and
// the peer ID.
type AddrsChanged struct {
	Header
	Addrs []string `json:"addrs"`
}
