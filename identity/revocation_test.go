package identity_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

func revoked(t testing.TB, version uint64, jti ...string) []byte {
	t.Helper()
	r := identity.Revocations{Version: version, Issued: testTime, Tokens: map[string]time.Time{}}
	for _, id := range jti {
		r.Tokens[id] = testTime.Add(time.Hour)
	}
	sealed, err := newIssuer(t).Revoke(r)
	require.NoError(t, err)
	return sealed
}

func TestAListIsOpenedAsItWasSigned(t *testing.T) {
	want := identity.Revocations{
		Version: 7, Issued: testTime,
		Users:  map[string]time.Time{"alice": testTime, "bob": testTime.Add(-time.Hour)},
		Tokens: map[string]time.Time{"x": testTime.Add(time.Hour), "y": {}},
	}
	sealed, err := newIssuer(t).Revoke(want)
	require.NoError(t, err)
	again, err := newIssuer(t).Revoke(want)
	require.NoError(t, err)
	require.Equal(t, sealed, again, "the same list has the same bytes")
	a := newAuthority(t)
	got, err := a.OpenRevocations(sealed)
	require.NoError(t, err)
	require.Equal(t, want.Version, got.Version)
	require.Equal(t, want.Issued, got.Issued)
	require.Equal(t, want.Users, got.Users)
	require.Equal(t, want.Tokens, got.Tokens)
	require.Equal(t, root.Kid, got.Kid)
	require.Equal(t, sealed, got.Sealed())
	require.Nil(t, a.Revocations(), "opening is not taking")
}

func TestTheListWithTheHigherVersionCounts(t *testing.T) {
	a := newAuthority(t)
	token := func(jti string) string { return genuine(t, claims(set("jti", jti))) }
	allowed := func(jti string) bool {
		_, err := a.Login(token(jti), "alice", device, testTime)
		if err != nil {
			require.ErrorIs(t, err, identity.ErrTokenRevoked)
		}
		return err == nil
	}
	changed := a.Changed()
	newer, err := a.Revoke(revoked(t, 2, "x"))
	require.NoError(t, err)
	require.True(t, newer)
	require.False(t, allowed("x"))
	require.True(t, allowed("y"))
	select {
	case <-changed:
	default:
		t.Fatal("who keeps grants was not told")
	}
	changed = a.Changed()
	for _, old := range [][]byte{revoked(t, 1, "y"), revoked(t, 2, "x")} {
		newer, err = a.Revoke(old)
		require.NoError(t, err, "an older list, or the same, is no error")
		require.False(t, newer)
	}
	require.True(t, allowed("y"))
	select {
	case <-changed:
		t.Fatal("nothing has changed")
	default:
	}
	newer, err = a.Revoke(revoked(t, 3, "y"))
	require.NoError(t, err)
	require.True(t, newer)
	require.True(t, allowed("x"), "the list replaces the one before")
	require.False(t, allowed("y"))
	require.Equal(t, uint64(3), a.Revocations().Version)
}

func TestTwoListsOfOneVersionEndWithTheSameOneEverywhere(t *testing.T) {
	one, other := revoked(t, 5, "x"), revoked(t, 5, "y")
	a, b := newAuthority(t), newAuthority(t)
	for _, step := range []struct {
		a    *identity.Authority
		list []byte
	}{{a, one}, {a, other}, {b, other}, {b, one}} {
		_, err := step.a.Revoke(step.list)
		require.NoError(t, err)
	}
	require.Equal(t, a.Revocations().Sealed(), b.Revocations().Sealed())
	version, sum := a.Revocations().Head()
	require.False(t, b.Revocations().Supersedes(version, sum))
	require.True(t, b.Revocations().Supersedes(4, sum))
	require.False(t, (*identity.Revocations)(nil).Supersedes(1, sum), "no list is older than any")
}

func TestAListThatIsNotTheIssuersIsRefused(t *testing.T) {
	a := newAuthority(t)
	stranger, err := identity.NewIssuer(acme, seeded(41), identity.WithRoot(root.Key))
	require.NoError(t, err)
	disguised, err := identity.NewIssuer(acme, seeded(41), identity.WithRoot(root.Key), identity.WithKid(root.Kid))
	require.NoError(t, err)
	elsewhere, err := identity.NewIssuer("acme.dev", issuerKey)
	require.NoError(t, err)
	list := identity.Revocations{Version: 1, Issued: testTime}
	by := func(i *identity.Issuer) []byte {
		sealed, err := i.Revoke(list)
		require.NoError(t, err)
		return sealed
	}
	good := by(newIssuer(t))
	broken := append([]byte(nil), good...)
	broken[len(broken)-1] ^= 1
	app := a.App()
	body := func(change func(*wire.Revocations)) []byte {
		msg := &wire.Revocations{App: app[:], Kid: root.Kid, Version: 1, IssuedMs: testTime.UnixMilli()}
		change(msg)
		raw, err := proto.Marshal(msg)
		require.NoError(t, err)
		return wire.Seal(wire.DomainRevocations, issuerKey, raw)
	}
	users := func(u ...*wire.RevokedUser) func(*wire.Revocations) { return func(r *wire.Revocations) { r.Users = u } }
	tokens := func(u ...*wire.RevokedToken) func(*wire.Revocations) {
		return func(r *wire.Revocations) { r.Tokens = u }
	}
	sig := fmt.Sprintf("its signature is not that of the issuer key %q", root.Kid)
	for _, c := range []struct {
		name string
		list []byte
		want string
	}{
		{"nothing", nil, "0 bytes are too few"},
		{"only a signature", good[:64], "64 bytes are too few"},
		{"no protobuf", append(append([]byte(nil), good[:64]...), 0xff), "malformed"},
		{"of a stranger", by(stranger), fmt.Sprintf("signed with the key %q, which is not one of this app's issuers", stranger.Public().Kid)},
		{"of a stranger under our name", by(disguised), sig},
		{"of another app of the same issuer", by(elsewhere), "it is of another app"},
		{"changed on its way", broken, sig},
		{"a statement's signature", wire.Seal(wire.DomainStatement, issuerKey, good[64:]), sig},
		{"too large", make([]byte, identity.MaxRevocations+1), "65537 bytes, at most 65536 are allowed"},
		{"no version", body(func(r *wire.Revocations) { r.Version = 0 }), "version 0"},
		{"the last version of all", body(func(r *wire.Revocations) { r.Version = 1<<64 - 1 }), "version 18446744073709551615"},
		{"no time", body(func(r *wire.Revocations) { r.IssuedMs = 0 }), "issued at 0 ms"},
		{"app of another length", body(func(r *wire.Revocations) { r.App = r.App[:31] }), "it is of another app"},
		{"a user that is no ID", body(users(&wire.RevokedUser{User: "a b", NotBeforeMs: 1})), `user "a b" before 1 ms`},
		{"a user without a time", body(users(&wire.RevokedUser{User: "a"})), `user "a" before 0 ms`},
		{"a user twice", body(users(&wire.RevokedUser{User: "a", NotBeforeMs: 1}, &wire.RevokedUser{User: "a", NotBeforeMs: 2})), `user "a" appears twice`},
		{"a token without a jti", body(tokens(&wire.RevokedToken{})), `token "" until 0 ms`},
		{"a token twice", body(tokens(&wire.RevokedToken{Id: "x"}, &wire.RevokedToken{Id: "x"})), `token "x" appears twice`},
	} {
		t.Run(c.name, func(t *testing.T) {
			newer, err := a.Revoke(c.list)
			require.False(t, newer)
			require.ErrorIs(t, err, identity.ErrRevocations)
			require.EqualError(t, err, "list of revocations refused: "+c.want)
			require.Nil(t, a.Revocations())
		})
	}
}

func TestAnIssuerThatIsNotTheRootRevokesForTheSameApp(t *testing.T) {
	second := seeded(50)
	issuers, err := identity.NewIssuers(root, identity.NewIssuerKey(public(second)))
	require.NoError(t, err)
	a, err := identity.NewAuthority(acme, issuers)
	require.NoError(t, err)
	i, err := identity.NewIssuer(acme, second, identity.WithRoot(root.Key))
	require.NoError(t, err)
	list, err := i.Revoke(identity.Revocations{Version: 1, Issued: testTime, Tokens: map[string]time.Time{"t-1": {}}})
	require.NoError(t, err)
	newer, err := a.Revoke(list)
	require.NoError(t, err)
	require.True(t, newer)
	_, err = a.Login(genuine(t, claims()), "alice", device, testTime)
	require.ErrorIs(t, err, identity.ErrTokenRevoked)
}

func TestTheNextListRepeatsWhatStillCounts(t *testing.T) {
	var none *identity.Revocations
	first := none.Next(testTime)
	require.Equal(t, uint64(testTime.UnixMilli()), first.Version, "a list that was lost does not bring the version back")
	first.Users["mallory"] = testTime
	first.Tokens["short"] = testTime.Add(time.Hour)
	first.Tokens["long"] = testTime.Add(24 * time.Hour)
	first.Tokens["unknown"] = time.Time{}
	sealed, err := newIssuer(t).Revoke(first)
	require.NoError(t, err)
	opened, err := newAuthority(t).OpenRevocations(sealed)
	require.NoError(t, err)

	soon := opened.Next(testTime)
	require.Equal(t, opened.Version+1, soon.Version, "even within a millisecond")
	require.Equal(t, first.Tokens, soon.Tokens)
	delete(soon.Users, "mallory")
	require.Contains(t, opened.Users, "mallory", "the copy is one's own")

	later := opened.Next(testTime.Add(2 * time.Hour))
	require.Greater(t, later.Version, opened.Version)
	require.Equal(t, map[string]time.Time{"mallory": testTime}, later.Users)
	require.Equal(t, map[string]time.Time{"long": testTime.Add(24 * time.Hour), "unknown": {}}, later.Tokens)
}

func TestAListHasABound(t *testing.T) {
	list := identity.Revocations{Version: 1, Issued: testTime, Users: map[string]time.Time{}}
	for i := range 3000 {
		list.Users[fmt.Sprintf("%s%d", strings.Repeat("u", 20), i)] = testTime
	}
	_, err := newIssuer(t).Revoke(list)
	require.ErrorIs(t, err, identity.ErrRevocations)
	require.ErrorContains(t, err, "at most 65536 are allowed: replace the issuer key, and begin a new list")
	for user := range list.Users {
		if len(list.Users) == 1700 {
			break
		}
		delete(list.Users, user)
	}
	sealed, err := newIssuer(t).Revoke(list)
	require.NoError(t, err)
	got, err := newAuthority(t).OpenRevocations(sealed)
	require.NoError(t, err)
	require.Len(t, got.Users, 1700)
}

func TestADirectoryKeepsTheListOfEachApp(t *testing.T) {
	path := t.TempDir()
	d, err := identity.OpenDir(path)
	require.NoError(t, err)
	one, other := identity.NewAppID("one"), identity.NewAppID("other")
	require.Nil(t, d.Revocations(one))
	list := revoked(t, 1, "x")
	require.NoError(t, d.SetRevocations(one, revoked(t, 1)))
	require.NoError(t, d.SetRevocations(one, list))
	require.ErrorIs(t, d.SetRevocations(one, make([]byte, identity.MaxRevocations+1)), identity.ErrRevocations)
	require.NoError(t, d.Close())
	d, err = identity.OpenDir(path)
	require.NoError(t, err)
	defer d.Close()
	require.Equal(t, list, d.Revocations(one))
	require.Nil(t, d.Revocations(other))
}
