package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// AppID keeps apps apart: nodes of different apps refuse each other's hello, and everything that
// they announce or subscribe to is derived from it. The zero value is no app.
type AppID [32]byte

// NewAppID derives the ID of the app called name, in open mode: SHA-256 of a domain prefix and the
// name. It accepts any name; [CheckApp] reports whether Starling's tools accept it.
func NewAppID(name string) AppID {
	return sha256.Sum256([]byte("starling/app/1\x00" + name))
}

// NewIssuedAppID derives the ID of the app called name, in app mode: SHA-256 of a domain prefix,
// the name, a zero byte and the root key of its issuers. So an app of the same name with another
// root key is another app.
func NewIssuedAppID(name string, root PublicKey) AppID {
	return sha256.Sum256([]byte("starling/app/1\x00" + name + "\x00" + string(root[:])))
}

// RoomTag derives the tag under which a room travels: HMAC-SHA256 keyed by the app ID over a domain
// prefix, the room's name, a zero byte and its secret (empty for a room without one). A node that
// does not know the app, the name and the secret cannot tell which room a tag belongs to.
func (a AppID) RoomTag(room, secret string) [32]byte {
	mac := hmac.New(sha256.New, a[:])
	mac.Write([]byte("starling/room/1\x00" + room + "\x00" + secret))
	return [32]byte(mac.Sum(nil))
}

// String returns the ID in hexadecimal.
func (a AppID) String() string { return hex.EncodeToString(a[:]) }
