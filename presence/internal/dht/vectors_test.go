package dht

import (
	"errors"
	"fmt"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/vectors"
)

// The tests of this file compare what the DHT makes and judges with docs/vectors.

func TestANodeJudgesTheRecordsOfTheVectors(t *testing.T) {
	var v vectors.Records
	vectors.Read(t, "record", &v)
	var tokens vectors.Tokens
	vectors.Read(t, "token", &tokens)
	issuers, err := identity.ParseIssuers(tokens.Issuers)
	require.NoError(t, err)
	authority, err := identity.NewAuthority(tokens.AppName, issuers)
	require.NoError(t, err)
	require.Equal(t, lanLife.Milliseconds(), v.LifeMS)
	rules := func(p vectors.Place) *Rules {
		r := &Rules{app: identity.AppID(p.App), vouched: p.AppMode, life: lanLife}
		if r.verifier = identity.NewVerifier(r.app); p.AppMode {
			r.verifier = identity.NewVerifier(r.app, identity.WithAuthority(authority))
		}
		return r
	}
	now := time.UnixMilli(v.AtMS)
	for _, a := range v.Apps {
		id := identity.AppID(a.App)
		require.Equal(t, a.Tag, tag(id))
		for scope, proto := range map[Scope]string{LAN: a.LAN, WAN: a.WAN} {
			k := &Instance{d: &DHT{cfg: Config{App: id}}, scope: scope}
			require.EqualValues(t, proto, k.prefix()+"/kad/1.0.0")
		}
	}
	for _, k := range v.Keys {
		id := identity.AppID(k.App)
		require.Equal(t, []byte(k.Hash), appHash(id, k.Purpose, k.Of))
		require.Equal(t, string(k.Key), map[string]string{
			"user": KeyOfUser(id, k.Of), "key": KeyOfKey(id, k.Of), "name": string(keyOfName(id, k.Of)),
		}[k.Purpose])
	}
	for _, c := range v.Accepted {
		r, err := rules(c.At).check(c.At.Key, c.Sealed.Sealed, now)
		require.NoError(t, err, c.Name)
		var listen []string
		for _, a := range r.Addrs {
			listen = append(listen, a.String())
		}
		require.Equal(t, []any{[]byte(c.Statement), c.Addrs, c.IssuedMS, c.ExpiresMS, c.Tombstone},
			[]any{r.Statement.Sealed(), listen, r.Issued.UnixMilli(), r.expires.UnixMilli(), !r.Statement.LoggedIn}, c.Name)
	}
	for _, c := range v.Refused {
		_, err := rules(c.At).check(c.At.Key, c.Sealed, now)
		require.Error(t, err, "%s: accepted", c.Name)
		if c.Why != "" {
			require.Equal(t, c.Why, whyRefused(err), "%s: %v", c.Name, err)
		}
	}
	for _, p := range v.Order {
		r := rules(v.Accepted[0].At)
		n, err := r.Open(p.Newer, now)
		require.NoError(t, err)
		o, err := r.Open(p.Older, now)
		require.NoError(t, err)
		require.True(t, n.newer(o), p.Name)
		require.False(t, o.newer(n), p.Name)
	}
}

// whyRefused returns the reason in the words of the vectors.
func whyRefused(err error) string {
	for _, c := range []struct {
		err error
		why string
	}{
		{ErrSize, "size"}, {ErrKey, "key"}, {ErrTime, "time"}, {ErrForm, "malformed"}, {ErrMark, "token"},
		{identity.ErrOtherApp, "other app"}, {identity.ErrClock, "clock"}, {identity.ErrExpired, "expired"},
	} {
		if errors.Is(err, c.err) {
			return c.why
		}
	}
	if bad := (*identity.TokenError)(nil); errors.As(err, &bad) {
		return "token"
	}
	if errors.Is(err, identity.ErrSignature) {
		return "signature"
	}
	return "malformed"
}

func TestTheProtocolHasTheLimitsOfThisPackage(t *testing.T) {
	says := func(what, format string, args ...any) { vectors.Says(t, what, fmt.Sprintf(format, args...)) }
	comma := func(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }

	says("sealed record of the directory", "%s", comma(maxRecord))
	says("records and providers stored by one peer", "%d/s after a burst of %d", storeRate, storeBurst)
	says("kept for others in one instance", "%d entries, %d MiB", maxStored, maxStoredBytes>>20)
	says("nodes that keep a record", "%d", replicas)
	says("nodes that an answer names", "%d", maxCloser)
	says("devices dialled for a name", "%d", maxProviders)
	says("directory: requests to one peer at once; bytes of an answer; of one with providers", "%d; %d KiB; %d MiB",
		maxRequests, answerLimit(pb.Message_GET_VALUE)>>10, answerLimit(pb.Message_GET_PROVIDERS)>>20)
	says("record: life, stored again", "%g min, %g min (lan); %g min, %g min (wan)",
		lanLife.Minutes(), (lanLife / 3).Minutes(), wanLife.Minutes(), (wanLife / 3).Minutes())
	says("directory: one node to answer; to store", "%g s; %g s", askTimeout.Seconds(), storeTimeout.Seconds())
	says("directory: a fresh log-in is compared again", "%g s", recheckAfter.Seconds())
}
