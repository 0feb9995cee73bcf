package identity_test

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestADeviceKeyIsReadInEachFormInWhichItIsTold(t *testing.T) {
	p := oneKey(1).PeerID()
	for _, s := range []string{p.String(), peer.ToCid(p).String(), device.String(), jwkOf(device)["x"].(string), string(device.JWK()), " " + p.String() + "\n"} {
		got, err := identity.ParseDeviceKey(s)
		require.NoError(t, err, s)
		require.Equal(t, device, got, s)
	}
	require.JSONEq(t, `{"kty":"OKP","crv":"Ed25519","x":"`+jwkOf(device)["x"].(string)+`"}`, string(device.JWK()))
}

func TestWhatIsNoDeviceKeyIsRefused(t *testing.T) {
	_, rsa, err := crypto.GenerateKeyPair(crypto.ECDSA, 256)
	require.NoError(t, err)
	ecdsa, err := peer.IDFromPublicKey(rsa)
	require.NoError(t, err)
	_, secp, err := crypto.GenerateKeyPair(crypto.Secp256k1, 0)
	require.NoError(t, err)
	other, err := peer.IDFromPublicKey(secp)
	require.NoError(t, err)
	for _, s := range []string{"", "alice", "12D3KooW", `{"kty":"OKP"}`, "{", ecdsa.String(), other.String(), device.Fingerprint(), device.String() + "a"} {
		_, err := identity.ParseDeviceKey(s)
		require.Error(t, err, s)
	}
	_, err = identity.ParseDeviceKey("alice")
	require.EqualError(t, err, `"alice" is not a device key: want a peer ID, a JSON Web Key, or the x of one`)
}
