package identity

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Login identifies a user on a device: the user's name, the user key that proves it, and the peer
// ID of the device. It is comparable. In JSON it is
// {"user":"alice","key":"<fingerprint>","peer":"12D3…"}.
type Login struct {
	User string    `json:"user"`
	Key  PublicKey `json:"key"` // the user key
	Peer peer.ID   `json:"peer"`
}

// Address returns the address that names this user key exactly.
func (l Login) Address() Address { return Address{User: l.User, Fingerprint: l.Key.Fingerprint()} }

// String returns the user's name. It is not unique in open mode; Address().String() is.
func (l Login) String() string { return l.User }

// Session is what a connected peer has stated in its hello, verified.
type Session struct {
	Statement    *Statement // nil: the peer has no identity yet
	Incarnation  uint64     // random, one per process of the peer
	Capabilities uint64     // unknown bits mean nothing
	MaxEnvelope  int        // bytes that the peer accepts in an envelope; 0: not stated
	MaxMessage   int        // bytes that the peer accepts in a message; 0: not stated
	// Grace and Leeway are those of the peer's app, in whole milliseconds; negative: not stated.
	Grace  time.Duration
	Leeway time.Duration
	Rates  *Rates // those of the peer's app; nil: not stated
	Addrs  []ma.Multiaddr
	// Closing says that the peer's node closes: it has said goodbye.
	Closing bool
}

// Login returns the login that the peer has proved, and whether it has an identity at all.
func (s Session) Login() (Login, bool) {
	if s.Statement == nil {
		return Login{}, false
	}
	return s.Statement.Login(), true
}
