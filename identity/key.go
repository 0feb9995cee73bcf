package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
)

// FingerprintSize is the length of a fingerprint in characters: 80 bits.
const FingerprintSize = 16

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// PublicKey is an Ed25519 public key, of a user or of a device. It is comparable. The zero value is
// no key.
type PublicKey [32]byte

// Fingerprint returns the short form that people compare and that an [Address] contains: the first
// 16 characters of SHA-256 of the key in lower-case base32. That is 80 bits: enough to keep anyone
// from finding another key that matches a given one, but not to keep anyone from finding two keys
// that match each other.
func (k PublicKey) Fingerprint() string {
	sum := sha256.Sum256(k[:])
	return encoding.EncodeToString(sum[:FingerprintSize*5/8])
}

// String returns the whole key in lower-case base32, 52 characters. [ParsePublicKey] reads it back.
func (k PublicKey) String() string { return encoding.EncodeToString(k[:]) }

// IsZero reports whether k is no key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// MarshalText returns the fingerprint, and nothing for the zero value: in JSON and in logs, people
// and programs compare keys.
func (k PublicKey) MarshalText() ([]byte, error) {
	if k.IsZero() {
		return []byte{}, nil
	}
	return []byte(k.Fingerprint()), nil
}

// ParsePublicKey reads what [PublicKey.String] wrote.
func ParsePublicKey(s string) (PublicKey, error) {
	raw, err := encoding.DecodeString(strings.ToLower(s))
	if err != nil || len(raw) != len(PublicKey{}) {
		return PublicKey{}, fmt.Errorf("%q is not a public key (52 characters of base32)", s)
	}
	return PublicKey(raw), nil
}

func publicKey(key ed25519.PrivateKey) PublicKey {
	return PublicKey(key.Public().(ed25519.PublicKey))
}
