// Package dhttest has what the tests of presence and those of its DHT need alike: an issuer with
// its tokens, and a look into what an instance of the DHT keeps.
package dhttest

import (
	"context"
	"crypto/ed25519"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
)

// App is the name of the issuer's app.
const App = "acme.ops"

// IssuerKey is the key of the app's first issuer.
var IssuerKey = Seeded(77)

// Seeded returns the key whose seed begins with b.
func Seeded(b byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	return ed25519.NewKeyFromSeed(seed)
}

// Public returns the public half of a key.
func Public(key ed25519.PrivateKey) identity.PublicKey {
	return identity.PublicKey(key.Public().(ed25519.PublicKey))
}

// Issuer returns the issuer with that key.
func Issuer(t *testing.T, key ed25519.PrivateKey) *identity.Issuer {
	t.Helper()
	i, err := identity.NewIssuer(App, key, identity.WithRoot(Public(IssuerKey)))
	require.NoError(t, err)
	return i
}

// Authority returns an authority as every node has its own: for the first issuer, and further ones.
func Authority(t *testing.T, leeway time.Duration, more ...ed25519.PrivateKey) *identity.Authority {
	t.Helper()
	var keys []identity.IssuerKey
	for _, k := range more {
		keys = append(keys, Issuer(t, k).Public())
	}
	issuers, err := identity.NewIssuers(Issuer(t, IssuerKey).Public(), keys...)
	require.NoError(t, err)
	a, err := identity.NewAuthority(App, issuers, identity.WithLeeway(leeway))
	require.NoError(t, err)
	return a
}

// Token returns a log-in token of the first issuer for a user on a device.
func Token(t *testing.T, keys *identity.Keys, user string, life time.Duration, change ...func(*identity.Claims)) string {
	t.Helper()
	return TokenBy(t, IssuerKey, keys, user, life, change...)
}

// TokenBy is [Token] by the issuer with that key.
func TokenBy(t *testing.T, key ed25519.PrivateKey, keys *identity.Keys, user string, life time.Duration, change ...func(*identity.Claims)) string {
	t.Helper()
	now := time.Now()
	c := identity.Claims{User: user, Device: keys.DeviceKey(), Issued: now, Expires: now.Add(life)}
	for _, f := range change {
		f(&c)
	}
	s, err := Issuer(t, key).Issue(c)
	require.NoError(t, err)
	return s
}

// Kept returns what the store of an instance keeps under a key; nil: nothing.
func Kept(store ds.Datastore, key string) []byte {
	all, err := store.Query(context.Background(), dsq.Query{})
	if err != nil {
		panic(err)
	}
	entries, err := all.Rest()
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		rec := new(recpb.Record)
		if proto.Unmarshal(e.Value, rec) == nil && string(rec.Key) == key {
			return rec.Value
		}
	}
	return nil
}
