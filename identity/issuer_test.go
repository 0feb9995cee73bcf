package identity_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

const time11min = 11 * time.Minute

func TestWhatIsIssuedIsGranted(t *testing.T) {
	a, issuer := newAuthority(t), newIssuer(t)
	require.Equal(t, root, issuer.Public())
	token, err := issuer.Issue(identity.Claims{
		User: "alice", Device: device, Rooms: map[string]string{"ops": "moderator", "dev": "member"}, Login: true,
		Issued: testTime, Begins: testTime.Add(time.Minute), Expires: testTime.Add(time.Hour + 250*time.Millisecond), ID: "x-1",
	})
	require.NoError(t, err)
	g, err := a.Inspect(token, testTime)
	require.NoError(t, err)
	require.Equal(t, &identity.Grant{
		User: "alice", Device: device, Rooms: map[string]string{"ops": "moderator", "dev": "member"}, Login: true,
		Issued: testTime, Begins: testTime.Add(time.Minute), Expires: testTime.Add(time.Hour + 250*time.Millisecond), ID: "x-1", Kid: root.Kid,
	}, g)
}

func TestATokenIsAnHoursLogInByDefault(t *testing.T) {
	before := time.Now().Truncate(time.Millisecond)
	token, err := newIssuer(t).Issue(identity.Claims{User: "alice", Device: device})
	require.NoError(t, err)
	g, err := newAuthority(t).Login(token, "alice", device, time.Now())
	require.NoError(t, err)
	require.True(t, g.Login)
	require.Nil(t, g.Rooms)
	require.WithinRange(t, g.Issued, before, time.Now())
	require.Equal(t, time.Hour, g.Expires.Sub(g.Issued))
	require.True(t, g.Begins.IsZero())
	require.Len(t, g.ID, 26)
	again, err := newIssuer(t).Issue(identity.Claims{User: "alice", Device: device})
	require.NoError(t, err)
	g2, err := newAuthority(t).Inspect(again, time.Now())
	require.NoError(t, err)
	require.NotEqual(t, g.ID, g2.ID)
}

func TestARoomTokenIsNotForLoggingInUnlessItSaysSo(t *testing.T) {
	token, err := newIssuer(t).Issue(identity.Claims{User: "alice", Device: device, Rooms: map[string]string{"ops": "member"}})
	require.NoError(t, err)
	_, err = newAuthority(t).Login(token, "alice", device, time.Now())
	require.ErrorIs(t, err, identity.ErrTokenPurpose)
}

func TestTheIssuerRefusesWhatTheNodesWould(t *testing.T) {
	issuer := newIssuer(t)
	rooms := map[string]string{}
	for i := range 64 {
		rooms[strings.Repeat("r", 60)+fmt.Sprint(i)] = "member"
	}
	for _, c := range []struct {
		name   string
		claims identity.Claims
		want   error
	}{
		{"no device", identity.Claims{User: "alice"}, identity.ErrTokenUnbound},
		{"no user", identity.Claims{Device: device}, identity.ErrTokenMalformed},
		{"wrong user", identity.Claims{User: "a b", Device: device}, identity.ErrTokenMalformed},
		{"wrong room", identity.Claims{User: "a", Device: device, Rooms: map[string]string{"": "member"}}, identity.ErrTokenMalformed},
		{"no role", identity.Claims{User: "a", Device: device, Rooms: map[string]string{"ops": ""}}, identity.ErrTokenMalformed},
		{"wrong jti", identity.Claims{User: "a", Device: device, ID: "a b"}, identity.ErrTokenMalformed},
		{"too many rooms", identity.Claims{User: "a", Device: device, Rooms: rooms}, identity.ErrTokenSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := issuer.Issue(c.claims)
			require.Empty(t, token)
			require.ErrorIs(t, err, c.want)
		})
	}
}

func TestAnIssuerNeedsAnAppAKeyAndAKid(t *testing.T) {
	_, err := identity.NewIssuer("", issuerKey)
	require.ErrorIs(t, err, identity.ErrEmptyID)
	_, err = identity.NewIssuer(acme, nil)
	require.EqualError(t, err, "issuer: private key of 0 bytes")
	_, err = identity.NewIssuer(acme, issuerKey, identity.WithKid("a b"))
	require.EqualError(t, err, `issuer: kid "a b": want 1 to 64 printable characters without spaces`)
}

// Tokens are ordinary JWTs: a library that knows nothing about Starling reads them.
func TestAnyJWTLibraryReadsATokenOfOurs(t *testing.T) {
	token, err := newIssuer(t, identity.WithKid("2026")).Issue(identity.Claims{
		User: "alice", Device: device, Rooms: map[string]string{"ops": "member"}, Login: true,
		Issued: testTime, Expires: testTime.Add(time.Hour), ID: "x",
	})
	require.NoError(t, err)
	parsed, err := jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithAudience(acme), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return testTime })).Parse(token, func(*jwt.Token) (any, error) { return issuerKey.Public(), nil })
	require.NoError(t, err)
	require.Equal(t, map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": "2026"}, parsed.Header)
	require.Equal(t, jwt.MapClaims{
		"aud": acme, "sub": "alice", "jti": "x", "iat": float64(testTime.Unix()), "exp": float64(testTime.Add(time.Hour).Unix()),
		"cnf": map[string]any{"jwk": jwkOf(device)}, "rooms": map[string]any{"ops": "member"}, "login": true,
	}, parsed.Claims)
}
