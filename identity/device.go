package identity

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// DeviceKey returns the device key that a peer ID embeds. It returns an error if the ID embeds no
// key, or a key of another type.
func DeviceKey(p peer.ID) (PublicKey, error) {
	pub, err := p.ExtractPublicKey()
	if err != nil {
		return PublicKey{}, fmt.Errorf("peer ID %s has no key in it: %w", p, err)
	}
	if pub.Type() != crypto.Ed25519 {
		return PublicKey{}, fmt.Errorf("peer ID %s: its key is %s, want Ed25519", p, pub.Type())
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != len(PublicKey{}) {
		return PublicKey{}, fmt.Errorf("peer ID %s: its key cannot be read", p)
	}
	return PublicKey(raw), nil
}

// ParseDeviceKey reads a device key in any form in which it is passed on: the peer ID (12D3KooW…),
// the JSON Web Key or only its x, or the output of [PublicKey.String].
func ParseDeviceKey(s string) (PublicKey, error) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "{") {
		key, err := jwk(json.RawMessage(s))
		if err != nil {
			return PublicKey{}, fmt.Errorf("device key: %w", err)
		}
		return key, nil
	}
	if raw, err := segment(s); err == nil && len(raw) == len(PublicKey{}) {
		return PublicKey(raw), nil
	}
	if key, err := ParsePublicKey(s); err == nil {
		return key, nil
	}
	if p, err := peer.Decode(s); err == nil {
		return DeviceKey(p)
	}
	return PublicKey{}, fmt.Errorf("%s is not a device key: want a peer ID, a JSON Web Key, or the x of one", quote(s))
}

// JWK returns the key as a JSON Web Key (RFC 8037), the form that a token's cnf.jwk has.
func (k PublicKey) JWK() json.RawMessage {
	raw, err := json.Marshal(newJWK(k))
	if err != nil {
		panic("identity: JSON Web Key: " + err.Error()) // strings only
	}
	return raw
}
