package identity_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// The app of the token tests, its one issuer, and the device that its tokens are for.
const acme = "acme.ops"

var (
	issuerKey = seeded(40)
	root      = identity.NewIssuerKey(public(issuerKey))
	device    = public(seeded(1))
)

func public(key ed25519.PrivateKey) identity.PublicKey {
	return identity.PublicKey(key.Public().(ed25519.PublicKey))
}

func newIssuer(t testing.TB, opts ...identity.IssuerOption) *identity.Issuer {
	t.Helper()
	i, err := identity.NewIssuer(acme, issuerKey, opts...)
	require.NoError(t, err)
	return i
}

func newAuthority(t testing.TB, opts ...identity.AuthorityOption) *identity.Authority {
	t.Helper()
	issuers, err := identity.NewIssuers(root)
	require.NoError(t, err)
	a, err := identity.NewAuthority(acme, issuers, opts...)
	require.NoError(t, err)
	return a
}

func jwkOf(key identity.PublicKey) map[string]any {
	return map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(key[:])}
}

// claims returns what the tests sign: alice on the device, for logging in and for the room ops, for
// an hour. The functions change it in turn.
func claims(change ...func(jwt.MapClaims)) jwt.MapClaims {
	c := jwt.MapClaims{
		"aud": acme, "sub": "alice", "jti": "t-1", "cnf": map[string]any{"jwk": jwkOf(device)},
		"iat": testTime.Unix(), "exp": testTime.Add(time.Hour).Unix(),
		"rooms": map[string]any{"ops": "member"}, "login": true,
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func set(name string, value any) func(jwt.MapClaims) {
	return func(c jwt.MapClaims) { c[name] = value }
}

func without(name string) func(jwt.MapClaims) {
	return func(c jwt.MapClaims) { delete(c, name) }
}

// sign makes a token as any backend with the JWT library would, without any code of this module.
func sign(t testing.TB, method jwt.SigningMethod, key any, c jwt.MapClaims, header ...string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	token.Header["kid"] = root.Kid
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			delete(token.Header, header[i])
		} else {
			token.Header[header[i]] = header[i+1]
		}
	}
	s, err := token.SignedString(key)
	require.NoError(t, err)
	return s
}

// genuine signs claims with the issuer's key.
func genuine(t testing.TB, c jwt.MapClaims, header ...string) string {
	t.Helper()
	return sign(t, jwt.SigningMethodEdDSA, issuerKey, c, header...)
}

// signRaw signs any bytes as header and claims, with the issuer's key.
func signRaw(header, claims string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(issuerKey, []byte(text)))
}

// header returns a header for signRaw in tests that are not about the header.
func header(t testing.TB, more map[string]any) string {
	t.Helper()
	h := map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": root.Kid}
	for name, value := range more {
		h[name] = value
	}
	raw, err := json.Marshal(h)
	require.NoError(t, err)
	return string(raw)
}
