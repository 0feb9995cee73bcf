package identity_test

import (
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// The derivations are part of the protocol: another implementation must compute the same values.
// These were computed by a program that shares no code with this one.
func TestDerivationsStayWhatTheyAre(t *testing.T) {
	app := identity.NewAppID("starling")
	require.Equal(t, "2edcf84c2fc371b59ff6501a8a92c7de69247cacadd392f78f0f01f3114548c8", app.String())
	open, closed := app.RoomTag("ops", ""), app.RoomTag("ops", "secret")
	require.Equal(t, "90f9dca2bf77aa8e7a073d9c4cd4862b97593e7c6c6e6326c8b9283814ef8a74", hex.EncodeToString(open[:]))
	require.Equal(t, "0b6c8cddc877c411ebef3dcf3bcd5687435fbf4c3b880457e2e6457544f86937", hex.EncodeToString(closed[:]))
	key := oneKey(1).UserKey() // from the seed 01 00 … 00
	require.Equal(t, "cecc1507dc1ddd7295951c290888f095adb9044d1b73d696e6df065d683bd4fc", hex.EncodeToString(key[:]))
	require.Equal(t, "7jgynq5vkgvgzv6d", key.Fingerprint())
	require.Equal(t, "z3gbkb64dxoxffmvdquqrchqsww3sbcndnz5nfxg34df22b32t6a", key.String())
	require.Equal(t, "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X", oneKey(1).PeerID().String())
}

func TestRoomTagsDifferByAppRoomAndSecret(t *testing.T) {
	a, b := identity.NewAppID("a"), identity.NewAppID("b")
	seen := map[[32]byte]string{}
	for name, tag := range map[string][32]byte{
		"a/ops":         a.RoomTag("ops", ""),
		"b/ops":         b.RoomTag("ops", ""),
		"a/ops/secret":  a.RoomTag("ops", "secret"),
		"a/ops/secret2": a.RoomTag("ops", "secret2"),
		"a/opssecret":   a.RoomTag("opssecret", ""),
	} {
		require.Empty(t, seen[tag], "%s has the tag of another", name)
		seen[tag] = name
	}
}

func TestPublicKeysHaveTextForms(t *testing.T) {
	key := oneKey(1).UserKey()
	require.Len(t, key.Fingerprint(), 16)
	require.Len(t, key.String(), 52)
	back, err := identity.ParsePublicKey(key.String())
	require.NoError(t, err)
	require.Equal(t, key, back)
	for _, bad := range []string{"", "abc", key.String()[1:], key.String() + "a", key.Fingerprint()} {
		_, err := identity.ParsePublicKey(bad)
		require.Error(t, err, bad)
	}
	require.True(t, identity.PublicKey{}.IsZero())
	require.False(t, key.IsZero())
}

func TestALoginInJSONShowsTheFingerprint(t *testing.T) {
	k := oneKey(1)
	login := identity.Login{User: "alice", Key: k.UserKey(), Peer: k.PeerID()}
	got, err := json.Marshal(login)
	require.NoError(t, err)
	require.JSONEq(t, `{"user":"alice","key":"`+k.UserKey().Fingerprint()+`","peer":"`+k.PeerID().String()+`"}`, string(got))
	// Embedded, Login contributes its three fields beside the others: it has no MarshalJSON that
	// would be promoted.
	member, err := json.Marshal(struct {
		identity.Login
		Info string `json:"info"`
	}{login, "x"})
	require.NoError(t, err)
	require.Contains(t, string(member), `"info":"x"`)
	require.Contains(t, string(member), `"user":"alice"`)
}

func TestThePeerIDIsThatOfTheLibp2pKey(t *testing.T) {
	k, err := identity.GenerateKeys()
	require.NoError(t, err)
	id, err := peer.IDFromPrivateKey(k.Libp2p())
	require.NoError(t, err)
	require.Equal(t, id, k.PeerID())
	require.True(t, k.User.Equal(k.Device), "by default one key is both")
	require.Nil(t, k.Certificate(), "which needs no certificate")
	require.Len(t, k.WithUser(seeded(9)).Certificate(), 64)
}

func TestKeysThatAreLeftOutAreAnError(t *testing.T) {
	_, err := (&identity.Keys{}).Sign(statement())
	require.EqualError(t, err, "keys without a device key")
	_, err = (&identity.Keys{Device: seeded(1)}).Sign(statement())
	require.EqualError(t, err, "keys without a user key")
}
