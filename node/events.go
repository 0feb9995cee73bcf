package node

import (
	"encoding/json"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/events"
	"github.com/starling-mesh/starling/mesh"
)

// Event is one thing that happened to the node, outside rooms: a pointer to one of [PeerUp], [PeerChanged], [PeerDown], [PeerFailed],
// [IdentityConflict], [LoggedOut], [TokenExpiring], [TokenEnded], [DuplicateDevice], [AddrsChanged], [mesh.DirectMessage] and [mesh.Lagged]. The events of a node form one ordered
// stream, numbered in [Header].Seq; rooms have streams of their own.
//
// Every event marshals to one JSON object, described in docs/EVENTS.md: field names and values stay as they are from
// version to version, and new fields and new types may be added.
type Event = events.Event

// Header opens every event.
type Header = events.Header

// The Type of each event of this package.
const (
	TypePeerUp           = "peer_up"
	TypePeerChanged      = "peer_changed"
	TypePeerDown         = "peer_down"
	TypePeerFailed       = "peer_failed"
	TypeIdentityConflict = "identity_conflict"
	TypeLoggedOut        = "logged_out"
	TypeTokenExpiring    = mesh.TypeTokenExpiring
	TypeTokenEnded       = "token_ended"
	TypeDuplicateDevice  = "duplicate_device"
	TypeAddrsChanged     = "addrs_changed"
)

// Peer is a connected node of the same app, as it has proved itself.
type Peer struct {
	identity.Login      // without a user while the node has no identity
	LoggedIn       bool // takes messages outside rooms
}

// MarshalJSON gives {"user":…, "key":"<fingerprint>", "peer":…, "logged_in":…}, without user and key while the node has no
// identity.
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
	Addr string `json:"addr,omitempty"` // where the connection goes: a multiaddr
}

// PeerChanged says that a connected node shows another identity than before: it has logged in or out, or has got a user.
type PeerChanged struct {
	Header
	Peer Peer `json:"node"`
}

// PeerDown says that the last connection to a node is gone. The node is redialled for a while.
type PeerDown struct {
	Header
	Peer Peer `json:"node"` // as it was last
}

// IdentityConflict says that a name has more than one key: this node's own or a pinned name, which somebody else uses, or
// a name that is pinned to none and that two users have. It comes once for each name and key, and again when the name has
// been pinned to another key since.
//
// What is sent to the name alone goes to Pinned and to nobody else: while that key is not there it is refused with a
// [*presence.ConflictError]. So it is with a name that is pinned to none while both are there. Other.Address() and
// Rival.Address() name one of them exactly, and an answer to what one has written pins the name.
type IdentityConflict struct {
	Header
	User   string             `json:"user"`
	Pinned identity.PublicKey `json:"pinned"` // the own key or the pin; zero: the name is pinned to no key
	Other  identity.Login     `json:"other"`
	Rival  *identity.Login    `json:"rival,omitempty"` // who else has the name; nil if it is pinned
}

// MarshalJSON gives the pinned key as its fingerprint, as in every login, and as "" if there is none.
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

// LogoutReason is why a log-in ended.
type LogoutReason string

const (
	Logout    LogoutReason = "logout"    // by the program, or because the node was closed
	Duplicate LogoutReason = "duplicate" // the same user has logged in on another device
)

// LoggedOut says that this node's log-in has ended. After [Duplicate] it has also left its rooms, and does not log in again by
// itself.
type LoggedOut struct {
	Header
	User   string          `json:"user"`
	Reason LogoutReason    `json:"reason"`
	By     *identity.Login `json:"by,omitempty"` // the log-in that took its place; nil for Logout
}

// TokenExpiring says that the token of this node's log-in expires soon: in 30 s, or less if it came late. With a later one by then, given to
// [Node.UpdateLoginToken], nobody notices. A room has the same event for its own token.
type TokenExpiring = mesh.TokenExpiring

// TokenEnded says that others no longer count this node's log-in, since its token has expired, with the leeway, or was revoked. The
// node is not logged out: [Node.UpdateLoginToken] with a good token makes others count the log-in again.
type TokenEnded struct {
	Header
	Revoked bool   `json:"revoked"` // by its issuer; otherwise the token has expired
	Reason  string `json:"reason"`  // for people
}

// DuplicateDevice says that two nodes use one device key, since a data directory was copied to a second place: this node's
// own, if Peer is its ID, otherwise another's. Such nodes cut each other's connections; give one of them keys of its own.
type DuplicateDevice struct {
	Header
	Peer peer.ID `json:"peer"`
}

// AddrsChanged says at which addresses the node can be dialled now. Addrs end in /p2p/ and the peer ID.
type AddrsChanged struct {
	Header
	Addrs []string `json:"addrs"`
}
