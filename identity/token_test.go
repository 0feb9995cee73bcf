package identity_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestAGenuineTokenGrantsWhatItSays(t *testing.T) {
	a := newAuthority(t)
	token := genuine(t, claims(set("nbf", testTime.Add(-time.Minute).Unix()), set("name", "Alice"), set("iss", "https://backend")))
	g, err := a.Login(token, "alice", device, testTime)
	require.NoError(t, err)
	want := &identity.Grant{
		User: "alice", Device: device, Rooms: map[string]string{"ops": "member"}, Login: true,
		Issued: testTime, Begins: testTime.Add(-time.Minute), Expires: testTime.Add(time.Hour), ID: "t-1", Kid: root.Kid,
	}
	require.Equal(t, want, g)
	g, err = a.Room(token, "alice", device, "ops", testTime)
	require.NoError(t, err)
	require.Equal(t, want, g)
	role, ok := g.Role("ops")
	require.True(t, ok)
	require.Equal(t, "member", role)
	_, ok = g.Role("lobby")
	require.False(t, ok)
}

func TestWhatATokenIsForFollowsFromItsRoomsAndLogin(t *testing.T) {
	a := newAuthority(t)
	for _, c := range []struct {
		name        string
		change      []func(jwt.MapClaims)
		login, room bool
	}{
		{"neither", []func(jwt.MapClaims){without("rooms"), without("login")}, true, false},
		{"login only", []func(jwt.MapClaims){without("rooms")}, true, false},
		{"rooms only", []func(jwt.MapClaims){without("login")}, false, true},
		{"both", nil, true, true},
		{"rooms, and expressly no login", []func(jwt.MapClaims){set("login", false)}, false, true},
		{"no rooms, login", []func(jwt.MapClaims){set("rooms", map[string]any{})}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			token := genuine(t, claims(c.change...))
			_, err := a.Login(token, "alice", device, testTime)
			if c.login {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, identity.ErrTokenPurpose)
			}
			_, err = a.Room(token, "alice", device, "ops", testTime)
			if c.room {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, identity.ErrTokenRoom)
			}
		})
	}
}

// Tests every reason for which a token is refused, with the text that a person reads.
func TestEveryWrongTokenIsRefusedForItsReason(t *testing.T) {
	a := newAuthority(t)
	list, err := newIssuer(t).Revoke(identity.Revocations{
		Version: 1, Issued: testTime,
		Users:  map[string]time.Time{"mallory": testTime.Add(time.Second)},
		Tokens: map[string]time.Time{"stolen": {}},
	})
	require.NoError(t, err)
	_, err = a.Revoke(list)
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	stranger := seeded(41)
	strangerKid := identity.NewIssuerKey(public(stranger)).Kid
	good := genuine(t, claims())
	parts := strings.Split(good, ".")
	forged := strings.Split(genuine(t, claims(set("sub", "root"))), ".")
	asAlice := func(f func(jwt.MapClaims)) string { return genuine(t, claims(f)) }

	for _, c := range []struct {
		name  string
		token string
		user  string
		want  error
		text  string
	}{
		{"none", "", "alice", identity.ErrTokenMissing, "none was given"},
		{"expired", asAlice(set("exp", testTime.Add(-time.Hour).Unix())), "alice", identity.ErrTokenExpired, "expired 1h0m0s ago"},
		{"not yet valid", asAlice(set("nbf", testTime.Add(time.Hour).Unix())), "alice", identity.ErrTokenNotYetValid, "not valid for another 1h0m0s"},
		{"issued in the future", asAlice(set("iat", testTime.Add(10*time.Minute).Unix())), "alice", identity.ErrTokenNotYetValid,
			"the clock of this device says 2026-03-01T12:00:00Z, 10m0s before the token was issued: check the clock"},
		{"foreign issuer", sign(t, jwt.SigningMethodEdDSA, stranger, claims(), "kid", strangerKid), "alice", identity.ErrTokenIssuer,
			fmt.Sprintf("signed with the key %q, which is not one of this app's issuers", strangerKid)},
		{"foreign issuer under the name of ours", sign(t, jwt.SigningMethodEdDSA, stranger, claims()), "alice", identity.ErrTokenIssuer,
			fmt.Sprintf("its signature is not that of the issuer key %q", root.Kid)},
		{"no kid", genuine(t, claims(), "kid", ""), "alice", identity.ErrTokenIssuer, "it does not name the key that signed it (kid)"},
		{"unbound", asAlice(without("cnf")), "alice", identity.ErrTokenUnbound,
			"it is bound to no device key (cnf), so that anybody who sees it could use it"},
		{"bound by something else", asAlice(set("cnf", map[string]any{"jkt": "x"})), "alice", identity.ErrTokenUnbound, "cnf does not hold the device key (jwk)"},
		{"of another user", good, "bob", identity.ErrTokenUser, `it was issued to the user "alice", not to "bob"`},
		{"of another device", asAlice(set("cnf", map[string]any{"jwk": jwkOf(public(seeded(2)))})), "alice", identity.ErrTokenDevice,
			"it is bound to the device key " + public(seeded(2)).Fingerprint() + ", and shown by " + device.Fingerprint()},
		{"of another app", asAlice(set("aud", "acme.dev")), "alice", identity.ErrTokenApp, `it is for the app "acme.dev", this is "acme.ops"`},
		{"of no room and no log-in", asAlice(set("login", false)), "alice", identity.ErrTokenPurpose, "it is for rooms, not for logging in"},
		{"alg none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims()), "alice", identity.ErrTokenAlgorithm,
			`signed by "none", only EdDSA is allowed`},
		{"HS256 with the public key as its secret", sign(t, jwt.SigningMethodHS256, root.Key[:], claims()), "alice", identity.ErrTokenAlgorithm,
			`signed by "HS256", only EdDSA is allowed`},
		{"RS256", sign(t, jwt.SigningMethodRS256, rsaKey, claims()), "alice", identity.ErrTokenAlgorithm, `signed by "RS256", only EdDSA is allowed`},
		{"alg in lower case", genuine(t, claims(), "alg", "eddsa"), "alice", identity.ErrTokenAlgorithm, `signed by "eddsa", only EdDSA is allowed`},
		{"no alg", genuine(t, claims(), "alg", ""), "alice", identity.ErrTokenAlgorithm, "its header: alg is no string"},
		{"oversized", asAlice(set("pad", strings.Repeat("x", 4096))), "alice", identity.ErrTokenSize, ""},
		{"claims of another token", parts[0] + "." + forged[1] + "." + parts[2], "root", identity.ErrTokenIssuer,
			fmt.Sprintf("its signature is not that of the issuer key %q", root.Kid)},
		{"no signature", parts[0] + "." + parts[1] + ".", "alice", identity.ErrTokenIssuer,
			fmt.Sprintf("its signature is not that of the issuer key %q", root.Kid)},
		{"revoked by its jti", asAlice(set("jti", "stolen")), "alice", identity.ErrTokenRevoked, "its issuer has revoked it"},
		{"revoked by its user", asAlice(set("sub", "mallory")), "mallory", identity.ErrTokenRevoked, "its issuer has revoked it"},
		{"revoked by its user, and it does not say when it was issued", genuine(t, claims(set("sub", "mallory"), without("iat"))), "mallory",
			identity.ErrTokenRevoked, "its issuer has revoked it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // the second time from the cache
				g, err := a.Login(c.token, c.user, device, testTime)
				require.Nil(t, g)
				require.ErrorIs(t, err, c.want)
				var bad *identity.TokenError
				require.ErrorAs(t, err, &bad)
				if c.text != "" {
					require.EqualError(t, err, "token: "+c.text)
				}
				for _, other := range reasons {
					require.Equal(t, other == c.want, errors.Is(err, other), "the error is of one kind: %v, %v", err, other)
				}
			}
		})
	}
	_, err = a.Login(asAlice(set("pad", strings.Repeat("x", 4096))), "alice", device, testTime)
	require.ErrorContains(t, err, "bytes, at most 4096 are allowed")
	_, err = a.Login(genuine(t, claims(set("sub", "mallory"), set("iat", testTime.Add(time.Second).Unix()))), "mallory", device, testTime)
	require.NoError(t, err, "a token issued after the revocation")
}

var reasons = []error{
	identity.ErrTokenMissing, identity.ErrTokenSize, identity.ErrTokenMalformed, identity.ErrTokenAlgorithm, identity.ErrTokenIssuer,
	identity.ErrTokenApp, identity.ErrTokenUser, identity.ErrTokenUnbound, identity.ErrTokenDevice, identity.ErrTokenPurpose,
	identity.ErrTokenRoom, identity.ErrTokenNotYetValid, identity.ErrTokenExpired, identity.ErrTokenRevoked,
}

func TestATokenOfAnotherRoomDoesNotAdmit(t *testing.T) {
	a := newAuthority(t)
	_, err := a.Room(genuine(t, claims()), "alice", device, "board", testTime)
	require.ErrorIs(t, err, identity.ErrTokenRoom)
	require.EqualError(t, err, `token: it does not admit to the room "board"`)
	_, err = a.Room(genuine(t, claims()), "bob", device, "ops", testTime)
	require.ErrorIs(t, err, identity.ErrTokenUser)
	_, err = a.Room(genuine(t, claims(set("exp", testTime.Add(-time.Hour).Unix()))), "alice", device, "ops", testTime)
	require.ErrorIs(t, err, identity.ErrTokenExpired)
}

func TestAClockErrorSaysByHowMuch(t *testing.T) {
	a := newAuthority(t)
	token := genuine(t, claims())
	now := testTime.Add(-24 * time.Hour)
	_, err := a.Login(token, "alice", device, now)
	var clock *identity.ClockError
	require.ErrorAs(t, err, &clock)
	require.Equal(t, testTime, clock.Issued)
	require.Equal(t, now, clock.Now)
	require.ErrorIs(t, err, identity.ErrClock)
	require.ErrorIs(t, err, identity.ErrTokenNotYetValid)
	_, err = a.Login(genuine(t, claims(set("nbf", testTime.Add(time.Hour).Unix()))), "alice", device, testTime)
	require.False(t, errors.As(err, &clock), "a token for later is not the clock's fault: %v", err)
	require.NotErrorIs(t, err, identity.ErrClock)
}

func TestTheLeewayHoldsToTheMoment(t *testing.T) {
	const step = time.Millisecond
	for _, leeway := range []time.Duration{0, 30 * time.Second, identity.DefaultLeeway} {
		a := newAuthority(t, identity.WithLeeway(leeway))
		token := genuine(t, claims(set("nbf", testTime.Add(time.Minute).Unix())))
		begins, expires := testTime.Add(time.Minute), testTime.Add(time.Hour)
		for _, c := range []struct {
			at   time.Time
			want error
		}{
			{begins.Add(-leeway), nil},
			{begins.Add(-leeway - step), identity.ErrTokenNotYetValid},
			{expires, map[bool]error{true: identity.ErrTokenExpired}[leeway == 0]},
			{expires.Add(leeway - step), nil},
			{expires.Add(leeway), identity.ErrTokenExpired},
		} {
			_, err := a.Login(token, "alice", device, c.at)
			if c.want == nil {
				require.NoError(t, err, "leeway %v, at %v", leeway, c.at)
			} else {
				require.ErrorIs(t, err, c.want, "leeway %v, at %v", leeway, c.at)
			}
		}
		g, err := a.Inspect(token, expires.Add(-time.Minute))
		require.NoError(t, err)
		require.Equal(t, expires.Add(leeway), a.Until(g))
		require.Equal(t, leeway, a.Leeway())
	}
}

func TestMalformedClaimsAreRefusedOneByOne(t *testing.T) {
	a := newAuthority(t)
	key := func(change map[string]any) any {
		k := jwkOf(device)
		for name, value := range change {
			if value == nil {
				delete(k, name)
			} else {
				k[name] = value
			}
		}
		return map[string]any{"jwk": k}
	}
	many := map[string]any{}
	for i := range identity.MaxTokenRooms + 1 {
		many[fmt.Sprintf("r%d", i)] = "m"
	}
	for _, c := range []struct {
		name string
		f    func(jwt.MapClaims)
		text string
	}{
		{"no aud", without("aud"), "it has no aud"},
		{"aud is a number", set("aud", 1), "aud is no string"},
		{"two in aud", set("aud", []string{acme, "other"}), "aud is not one string"},
		{"none in aud", set("aud", []string{}), "aud is not one string"},
		{"no sub", without("sub"), "sub is no string"},
		{"sub is null", set("sub", nil), "sub is no string"},
		{"sub is empty", set("sub", ""), `sub: user ID "": empty`},
		{"sub is no ID", set("sub", "al ice"), `sub: user ID "al ice": ' ' is not one of a-z A-Z 0-9 _ @ . -`},
		{"cnf is no object", set("cnf", "key"), "cnf: not a JSON object"},
		{"key is no object", set("cnf", map[string]any{"jwk": 7}), "cnf.jwk: not a JSON object"},
		{"key of another type", set("cnf", key(map[string]any{"kty": "EC"})), `cnf.jwk: kty is not "OKP"`},
		{"key without a type", set("cnf", key(map[string]any{"kty": nil})), `cnf.jwk: kty is not "OKP"`},
		{"key on another curve", set("cnf", key(map[string]any{"crv": "X25519"})), `cnf.jwk: crv is not "Ed25519"`},
		{"no key in the key", set("cnf", key(map[string]any{"x": nil})), "cnf.jwk: x is no string"},
		{"a short key", set("cnf", key(map[string]any{"x": "AAAA"})), "cnf.jwk: x is not the base64url of 32 bytes"},
		{"a padded key", set("cnf", key(map[string]any{"x": base64.URLEncoding.EncodeToString(device[:])})), "cnf.jwk: x is not the base64url of 32 bytes"},
		{"a private key", set("cnf", key(map[string]any{"d": "AAAA"})), "cnf.jwk: it has d, the private key, which nobody else may see"},
		{"no exp", without("exp"), "it has no exp"},
		{"exp is a string", set("exp", "1772370000"), "exp is no number"},
		{"exp is null", set("exp", nil), "exp is no number"},
		{"exp is negative", set("exp", -1), "exp is out of range"},
		{"exp is too large", set("exp", 1e18), "exp is out of range"},
		{"nbf is a list", set("nbf", []int{1}), "nbf is no number"},
		{"iat is true", set("iat", true), "iat is no number"},
		{"iat is 0", set("iat", 0), "iat is out of range"},
		{"no jti", without("jti"), "jti is no string"},
		{"jti is empty", set("jti", ""), "jti is not 1 to 64 printable characters without spaces"},
		{"jti is long", set("jti", strings.Repeat("j", 65)), "jti is not 1 to 64 printable characters without spaces"},
		{"jti with a control character", set("jti", "a\x1b[2J"), "jti is not 1 to 64 printable characters without spaces"},
		{"rooms is a list", set("rooms", []string{"ops"}), "rooms: not a JSON object"},
		{"rooms is null", set("rooms", nil), "rooms: not a JSON object"},
		{"a room that is no ID", set("rooms", map[string]any{"o ps": "member"}), `rooms: "o ps" is not the ID of a room`},
		{"a role that is a number", set("rooms", map[string]any{"ops": 1}), "rooms: the role is no string"},
		{"an empty role", set("rooms", map[string]any{"ops": ""}), `rooms: the role "": want 1 to 32 characters`},
		{"a long role", set("rooms", map[string]any{"ops": strings.Repeat("r", 33)}), `rooms: the role "` + strings.Repeat("r", 33) + `": want 1 to 32 characters`},
		{"a strange role", set("rooms", map[string]any{"ops": "a b"}), `rooms: the role "a b": ' ' is not one of a-z A-Z 0-9 _ @ . -`},
		{"too many rooms", set("rooms", many), "65 rooms, at most 64 are allowed"},
		{"login is a string", set("login", "true"), "login is neither true nor false"},
		{"login is null", set("login", nil), "login is neither true nor false"},
		{"no room, which is not to be without rooms", func(c jwt.MapClaims) { c["rooms"] = map[string]any{}; delete(c, "login") },
			"it permits nothing: it names no room and is not for logging in"},
		{"good for nothing", func(c jwt.MapClaims) { c["rooms"], c["login"] = map[string]any{}, false },
			"it permits nothing: it names no room and is not for logging in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := a.Login(genuine(t, claims(c.f)), "alice", device, testTime)
			require.ErrorIs(t, err, identity.ErrTokenMalformed)
			require.EqualError(t, err, "token: "+c.text)
		})
	}
	var id *identity.IDError
	_, err := a.Login(genuine(t, claims(set("sub", "a/b"))), "a/b", device, testTime)
	require.ErrorAs(t, err, &id)
}

func TestTheTextOfATokenHasOneReading(t *testing.T) {
	a := newAuthority(t)
	raw, err := json.Marshal(claims())
	require.NoError(t, err)
	good := string(raw)
	within := strings.TrimSuffix(good, "}")
	parts := strings.Split(genuine(t, claims()), ".")
	for _, c := range []struct{ name, token, text string }{
		{"one part", "abc", "it is not of three parts with a dot between them"},
		{"two parts", "a.b", "it is not of three parts with a dot between them"},
		{"four parts", strings.Join(parts, ".") + ".x", "it is not of three parts with a dot between them"},
		{"header is not base64", "a*b.c.d", "its header is not base64url"},
		{"header with a line break", parts[0][:4] + "\n" + parts[0][4:] + "." + parts[1] + "." + parts[2], "its header is not base64url"},
		{"header is no JSON", signRaw("{", good), "its header: not JSON"},
		{"header is a list", signRaw("[]", good), "its header: not a JSON object"},
		{"alg twice", signRaw(`{"alg":"EdDSA","alg":"none","kid":"`+root.Kid+`"}`, good), `its header: "alg" appears twice`},
		{"critical extension", signRaw(header(t, map[string]any{"crit": []string{"exp"}}), good), "its header has crit, which is not allowed"},
		{"key in the header", signRaw(header(t, map[string]any{"jwk": jwkOf(device)}), good), "its header has jwk, which is not allowed"},
		{"key from a URL", signRaw(header(t, map[string]any{"jku": "https://evil"}), good), "its header has jku, which is not allowed"},
		{"certificate in the header", signRaw(header(t, map[string]any{"x5c": []string{"x"}}), good), "its header has x5c, which is not allowed"},
		{"another type", signRaw(header(t, map[string]any{"typ": "at+jwt"}), good), `its header: typ is not "JWT"`},
		{"kid is a number", signRaw(header(t, map[string]any{"kid": 1}), good), "its header: kid is no string"},
		{"signature is not base64", parts[0] + "." + parts[1] + ".!", "its signature is not base64url"},
		{"signature in another spelling", parts[0] + "." + parts[1] + "." + otherSpelling(parts[2]), "its signature is not base64url"},
		{"claims are no JSON", signRaw(header(t, nil), within), "its claims: not JSON"},
		{"claims are a string", signRaw(header(t, nil), `"claims"`), "its claims: not a JSON object"},
		{"something after the claims", signRaw(header(t, nil), good+"{}"), "its claims: something follows the JSON object"},
		{"a claim twice", signRaw(header(t, nil), within+`,"sub":"root"}`), `its claims: "sub" appears twice`},
		{"a claim twice, once escaped", signRaw(header(t, nil), within+`,"\u0073ub":"root"}`), `its claims: "sub" appears twice`},
		{"claims are not UTF-8", signRaw(header(t, nil), within+",\"x\":\"\xff\"}"), "its claims: not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := a.Login(c.token, "alice", device, testTime)
			require.ErrorIs(t, err, identity.ErrTokenMalformed)
			require.EqualError(t, err, "token: "+c.text)
		})
	}
	_, err = a.Login(signRaw(header(t, nil), within+`,"SUB":"root","Sub":"root"}`), "alice", device, testTime)
	require.NoError(t, err, "claims in another case are other claims")
	_, err = a.Login(signRaw(`{"alg":"EdDSA","kid":"`+root.Kid+`"}`, good), "alice", device, testTime)
	require.NoError(t, err, "typ may be absent")
	_, err = a.Login(genuine(t, claims(set("aud", []string{acme}))), "alice", device, testTime)
	require.NoError(t, err, "some libraries write aud as a list")
	_, err = a.Login(genuine(t, claims(set("exp", float64(testTime.Unix())+60.25))), "alice", device, testTime)
	require.NoError(t, err, "times may have a fraction")
}

// otherSpelling changes a bit of the last character that encodes nothing.
func otherSpelling(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[last^1])
}

func TestWhatIsLargeIsRefusedBeforeItIsRead(t *testing.T) {
	a := newAuthority(t)
	for _, size := range []int{identity.MaxToken + 1, 1 << 20} {
		_, err := a.Login(strings.Repeat("a", size), "alice", device, testTime)
		require.ErrorIs(t, err, identity.ErrTokenSize)
		require.EqualError(t, err, fmt.Sprintf("token: %d bytes, at most 4096 are allowed", size))
	}
	fits := genuine(t, claims())
	pad := (identity.MaxToken - len(fits)) * 3 / 4 // base64
	for ; ; pad-- {
		token := genuine(t, claims(set("p", strings.Repeat("x", pad))))
		if len(token) <= identity.MaxToken {
			require.Greater(t, len(token), identity.MaxToken-16)
			_, err := a.Login(token, "alice", device, testTime)
			require.NoError(t, err, "a token of %d bytes", len(token))
			return
		}
	}
}

func TestOnlyWhatVerifiedIsRemembered(t *testing.T) {
	a := newAuthority(t)
	token := genuine(t, claims())
	first, err := a.Login(token, "alice", device, testTime)
	require.NoError(t, err)
	again, err := a.Login(token, "alice", device, testTime.Add(time.Minute))
	require.NoError(t, err)
	require.Same(t, first, again)
	_, err = a.Login(token, "alice", public(seeded(2)), testTime)
	require.ErrorIs(t, err, identity.ErrTokenDevice, "who shows it is judged on every call")
	_, err = a.Login(token, "alice", device, testTime.Add(2*time.Hour))
	require.ErrorIs(t, err, identity.ErrTokenExpired, "and so is the time")
	for i := range 5000 { // more than the cache holds
		_, err := a.Login(fmt.Sprintf("%s%d", token, i), "alice", device, testTime)
		require.Error(t, err)
	}
	again, err = a.Login(token, "alice", device, testTime)
	require.NoError(t, err)
	require.Same(t, first, again, "forgeries do not displace it")
}

func BenchmarkTokenCold(b *testing.B) {
	a := newAuthority(b)
	// Twice what the cache holds, so that each has been evicted when its turn comes again.
	tokens := make([]string, 4096)
	for i := range tokens {
		tokens[i] = genuine(b, claims(set("jti", fmt.Sprint(i))))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := a.Login(tokens[i%len(tokens)], "alice", device, testTime); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkTokenCached(b *testing.B) {
	a, token := newAuthority(b), genuine(b, claims())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Login(token, "alice", device, testTime); err != nil {
			b.Fatal(err)
		}
	}
}

// A room makes this check for every message.
func BenchmarkGrantCheck(b *testing.B) {
	a := newAuthority(b)
	g, err := a.Login(genuine(b, claims()), "alice", device, testTime)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Check(g, testTime); err != nil {
			b.Fatal(err)
		}
	}
}
