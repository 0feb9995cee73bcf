package wire

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"sync"
)

// The domain prefixes keep a signature made for one purpose from being used for another. The zero
// byte ends the prefix, so that no prefix is the beginning of another.
const (
	DomainStatement = "starling/statement/1\x00"
	DomainDevice    = "starling/device/1\x00"
	DomainRoster    = "starling/roster/1\x00"
	DomainEnvelope  = "starling/envelope/1\x00"
	DomainHello     = "starling/hello/1\x00"
	DomainRecord    = "starling/record/1\x00"
	DomainReceipt   = "starling/receipt/1\x00"

	// DomainOrder is for the device key of a user who gives an order, or for an issuer's key.
	DomainOrder = "starling/order/1\x00"

	// DomainRevocations is for an issuer's key; the others are for devices' and users' keys.
	DomainRevocations = "starling/revocations/1\x00"
)

// SignatureSize is how many bytes sealing adds to a body.
const SignatureSize = ed25519.SignatureSize

var (
	// ErrTruncated reports a sealed object too short to hold a signature and a body.
	ErrTruncated = errors.New("sealed object is truncated")
	// ErrSignature reports a signature that the key did not make over these bytes.
	ErrSignature = errors.New("signature does not verify")
)

// scratch holds domain ‖ body while it is signed or verified, since Ed25519 takes one slice.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

func prefixed(domain string, body []byte) *[]byte {
	buf := scratch.Get().(*[]byte)
	*buf = append(append((*buf)[:0], domain...), body...)
	return buf
}

// Sign signs domain ‖ body.
func Sign(domain string, key ed25519.PrivateKey, body []byte) []byte {
	buf := prefixed(domain, body)
	defer scratch.Put(buf)
	return ed25519.Sign(key, *buf)
}

// Check reports whether sig is pub's signature over domain ‖ body. It returns false for a key or
// signature of the wrong length.
func Check(domain string, pub ed25519.PublicKey, body, sig []byte) bool {
	if len(pub) != ed25519.PublicKeySize || len(sig) != ed25519.SignatureSize {
		return false
	}
	buf := prefixed(domain, body)
	defer scratch.Put(buf)
	return ed25519.Verify(pub, *buf, sig)
}

// Seal returns sig ‖ body.
func Seal(domain string, key ed25519.PrivateKey, body []byte) []byte {
	return slices.Concat(Sign(domain, key, body), body)
}

// Split returns the two parts of a sealed object, unverified, for a body that names its own signer.
// Both share sealed's memory.
func Split(sealed []byte) (sig, body []byte, err error) {
	if len(sealed) <= SignatureSize {
		return nil, nil, ErrTruncated
	}
	return sealed[:SignatureSize], sealed[SignatureSize:], nil
}

// Open verifies a sealed object and returns its body, which shares sealed's memory.
func Open(domain string, pub ed25519.PublicKey, sealed []byte) (body []byte, err error) {
	sig, body, err := Split(sealed)
	if err != nil {
		return nil, err
	}
	if !Check(domain, pub, body, sig) {
		return nil, ErrSignature
	}
	return body, nil
}
