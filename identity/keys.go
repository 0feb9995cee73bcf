package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

// Keys are the two private keys of a node. The device key is the libp2p key of this node and stays
// on it. The user key identifies the user and may be copied to further devices; by default it is
// the device key. Keys are read only: share them, do not change them.
type Keys struct {
	Device ed25519.PrivateKey
	User   ed25519.PrivateKey // may equal Device, which is the default
}

// GenerateKeys makes the keys of a new node: one key pair that is both device and user key.
func GenerateKeys() (*Keys, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return &Keys{Device: key, User: key}, nil
}

// WithUser returns the same device under another user key.
func (k *Keys) WithUser(user ed25519.PrivateKey) *Keys { return &Keys{Device: k.Device, User: user} }

// Check reports keys of the wrong length. In untampered [Keys] the only possible fault is a missing
// field.
func (k *Keys) Check() error {
	if len(k.Device) != ed25519.PrivateKeySize {
		return errors.New("keys without a device key")
	}
	if len(k.User) != ed25519.PrivateKeySize {
		return errors.New("keys without a user key")
	}
	return nil
}

// PeerID returns the libp2p peer ID of the device. It embeds the device's public key.
func (k *Keys) PeerID() peer.ID {
	id, err := peerID(k.DeviceKey())
	if err != nil {
		panic("identity: a device key of the right length has no peer ID: " + err.Error())
	}
	return id
}

// UserKey returns the user's public key.
func (k *Keys) UserKey() PublicKey { return publicKey(k.User) }

// DeviceKey returns the device's public key.
func (k *Keys) DeviceKey() PublicKey { return publicKey(k.Device) }

// Libp2p returns the device key in the form that libp2p.Identity takes.
func (k *Keys) Libp2p() crypto.PrivKey {
	key, err := crypto.UnmarshalEd25519PrivateKey(k.Device)
	if err != nil {
		panic("identity: a device key of the right length is refused by libp2p: " + err.Error())
	}
	return key
}

// Certificate returns the user key's signature over the device key, 64 bytes. It returns nil when
// both are one key, which needs no certificate.
func (k *Keys) Certificate() []byte {
	if k.User.Equal(k.Device) {
		return nil
	}
	device := k.DeviceKey()
	return wire.Sign(wire.DomainDevice, k.User, device[:])
}

// peerID derives the peer ID of a device key.
func peerID(device PublicKey) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(device[:])
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(pub)
}
