package vectors

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// rawToken signs any header and claims.
func rawToken(signer ed25519.PrivateKey, header, claims string) string {
	part := base64.RawURLEncoding.EncodeToString
	text := part([]byte(header)) + "." + part([]byte(claims))
	return text + "." + part(ed25519.Sign(signer, []byte(text)))
}

func makeTokens(t *testing.T) Tokens {
	root, second, stranger := key(20), key(21), key(22)
	rootKey := identity.NewIssuerKey(identity.PublicKey(public(root)))
	secondKey := identity.IssuerKey{Kid: "second", Key: identity.PublicKey(public(second))}
	issuers, err := identity.NewIssuers(rootKey, secondKey)
	require.NoError(t, err)
	const name = "acme.ops"
	id := issuers.AppID(name)
	out := Tokens{
		About:   "Tokens, and lists of revocations. See Tokens in PROTOCOL.md, and TOKENS.md. at_ms is when they are judged.",
		AppName: name, App: id[:], Issuers: issuers.Marshal(), AtMS: at.UnixMilli(), LeewayMS: identity.DefaultLeeway.Milliseconds(),
	}
	issue := func(signer ed25519.PrivateKey, change func(*identity.Claims), opts ...identity.IssuerOption) string {
		c := identity.Claims{User: "alice", Device: alice.DeviceKey(), Issued: at, Expires: at.Add(time.Hour), ID: "t-1"}
		if change != nil {
			change(&c)
		}
		i, err := identity.NewIssuer(name, signer, opts...)
		require.NoError(t, err)
		token, err := i.Issue(c)
		require.NoError(t, err)
		return token
	}
	device := public(alice.Device)
	good := func(name, room, token string) {
		out.Accepted = append(out.Accepted, Token{Name: name, Token: token, User: "alice", Device: device, Room: room})
	}
	rooms := func(c *identity.Claims) { c.Rooms = map[string]string{"ops": "moderator"} }
	both := func(c *identity.Claims) { rooms(c); c.Login = true; c.ID = "t-2" }
	plain := issue(root, nil)
	good("to log in", "", plain)
	good("to enter a room", "ops", issue(root, rooms))
	good("for both, to log in", "", issue(root, both))
	good("for both, to enter a room", "ops", issue(root, both))
	good("by another key of the issuers", "", issue(second, func(c *identity.Claims) { c.ID = "t-3" }, identity.WithKid("second")))
	good("in its leeway after it expired", "", issue(root, func(c *identity.Claims) { c.Issued, c.Expires = at.Add(-time.Hour), at.Add(-119*time.Second) }))
	good("in its leeway before it begins", "", issue(root, func(c *identity.Claims) { c.Begins = at.Add(120 * time.Second) }))

	head := `{"alg":"EdDSA","kid":"` + rootKey.Kid + `"}`
	jwk := string(alice.DeviceKey().JWK())
	claims := `{"aud":"acme.ops","sub":"alice","jti":"t-4","exp":946688400,"cnf":{"jwk":` + jwk + `}}`
	edit := func(from, to string) string {
		require.Contains(t, claims, from)
		return rawToken(root, head, strings.Replace(claims, from, to, 1))
	}
	good("no type and no time of issue", "", rawToken(root, head, claims))
	good("members that nobody knows", "", edit(`"sub"`, `"name":"Alice","SUB":"root","sub"`))
	good("aud as a list", "", edit(`"acme.ops"`, `["acme.ops"]`))

	bad := func(name, why, token string, change ...func(*Token)) {
		c := Token{Name: name, Token: token, User: "alice", Device: device, Why: why}
		for _, f := range change {
			f(&c)
		}
		out.Refused = append(out.Refused, c)
	}
	atRoom := func(room string) func(*Token) { return func(c *Token) { c.Room = room } }
	parts := strings.Split(plain, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	bad("none", "missing", "")
	bad("too large", "size", edit(`"sub"`, `"pad":"`+strings.Repeat("x", 4096)+`","sub"`))
	bad("one part", "malformed", parts[0])
	bad("header that is no JSON", "malformed", b64([]byte("x"))+"."+parts[1]+"."+parts[2])
	bad("alg none", "algorithm", b64([]byte(`{"alg":"none"}`))+"."+parts[1]+".")
	bad("alg HS256", "algorithm", rawToken(root, strings.Replace(head, "EdDSA", "HS256", 1), claims))
	bad("alg in another case", "algorithm", rawToken(root, strings.Replace(head, "EdDSA", "EDDSA", 1), claims))
	bad("critical extension", "malformed", rawToken(root, strings.Replace(head, "{", `{"crit":["exp"],`, 1), claims))
	bad("key in the header", "malformed", rawToken(root, strings.Replace(head, "{", `{"jwk":`+jwk+`,`, 1), claims))
	bad("no kid", "issuer", rawToken(root, `{"alg":"EdDSA"}`, claims))
	bad("key that is not among the issuers", "issuer", issue(stranger, nil))
	bad("signed by a stranger in the name of an issuer", "issuer", rawToken(stranger, head, claims))
	bad("claims of another token", "issuer", parts[0]+"."+strings.Split(issue(root, both), ".")[1]+"."+parts[2])
	bad("no aud", "malformed", edit(`"aud":"acme.ops",`, ``))
	bad("for another app", "app", edit("acme.ops", "acme.dev"))
	bad("for two apps", "malformed", edit(`"acme.ops"`, `["acme.ops","acme.dev"]`))
	bad("a claim twice", "malformed", edit(`"sub":"alice"`, `"sub":"alice","sub":"alice"`))
	bad("user that is no ID", "malformed", edit("alice", "al ice"))
	bad("no jti", "malformed", edit(`"jti":"t-4",`, ``))
	bad("no exp", "malformed", edit(`"exp":946688400,`, ``))
	bad("exp as a string", "malformed", edit("946688400", `"946688400"`))
	bad("bound to nothing", "unbound", edit(`,"cnf":{"jwk":`+jwk+`}`, ``))
	bad("bound by something else", "unbound", edit(`"jwk":`+jwk, `"kid":"x"`))
	bad("bound to a key of another type", "malformed", edit(`"crv":"Ed25519"`, `"crv":"X25519"`))
	bad("private key in cnf", "malformed", edit(`"crv"`, `"d":"x","crv"`))
	bad("rooms as a list", "malformed", edit(`"sub"`, `"rooms":["ops"],"sub"`))
	bad("login as a string", "malformed", edit(`"sub"`, `"login":"yes","sub"`))
	bad("another user's", "user", plain, func(c *Token) { c.User = "bob" })
	bad("shown by another device", "device", plain, func(c *Token) { c.Device = public(bob.Device) })
	bad("for rooms, to log in", "purpose", issue(root, rooms))
	bad("to log in, at a room", "room", plain, atRoom("ops"))
	bad("for another room", "room", issue(root, rooms), atRoom("board"))
	bad("expired, and the leeway over", "expired", issue(root, func(c *identity.Claims) { c.Issued, c.Expires = at.Add(-time.Hour), at.Add(-120*time.Second) }))
	bad("before its leeway", "not_yet_valid", issue(root, func(c *identity.Claims) { c.Begins = at.Add(121 * time.Second) }))
	bad("issued in the future", "clock", issue(root, func(c *identity.Claims) { c.Issued = at.Add(121 * time.Second) }))

	out.Lists, out.RefusedLists = makeLists(t, name, root, second, stranger, id)
	return out
}

func makeLists(t *testing.T, name string, root, second, stranger ed25519.PrivateKey, id identity.AppID) (lists []List, refused []Refused) {
	add := func(name string, i *identity.Issuer, signer ed25519.PrivateKey, r identity.Revocations, revoked ...string) []byte {
		sealed, err := i.Revoke(r)
		require.NoError(t, err)
		l := List{
			Sealed:  part(name, wire.DomainRevocations, signer, sealed),
			Version: r.Version, IssuedMS: r.Issued.UnixMilli(), Users: map[string]int64{}, Tokens: map[string]int64{}, Revoked: revoked,
		}
		for user, before := range r.Users {
			l.Users[user] = before.UnixMilli()
		}
		for id, expires := range r.Tokens {
			l.Tokens[id] = 0
			if !expires.IsZero() {
				l.Tokens[id] = expires.UnixMilli()
			}
		}
		lists = append(lists, l)
		return sealed
	}
	first, err := identity.NewIssuer(name, root)
	require.NoError(t, err)
	other, err := identity.NewIssuer(name, second, identity.WithKid("second"), identity.WithRoot(identity.PublicKey(public(root))))
	require.NoError(t, err)
	good := add("one token", first, root, identity.Revocations{
		Version: 1, Issued: at, Tokens: map[string]time.Time{"t-2": at.Add(time.Hour), "gone": {}},
	}, "for both, to log in", "for both, to enter a room")
	add("by another key of the issuers; a user, but for what was issued since", other, second, identity.Revocations{
		Version: 2, Issued: at, Users: map[string]time.Time{"alice": at, "mallory": at},
	}, "in its leeway after it expired", "no type and no time of issue", "members that nobody knows", "aud as a list")
	add("nothing", first, root, identity.Revocations{Version: 3, Issued: at}, []string{}...)

	var c cases
	c.tampered(t, good, wire.DomainRevocations, wire.DomainStatement, root, stranger)
	body := func(change func(*wire.Revocations)) []byte {
		var msg wire.Revocations
		require.NoError(t, proto.Unmarshal(good[wire.SignatureSize:], &msg))
		change(&msg)
		return wire.Seal(wire.DomainRevocations, root, marshal(t, &msg))
	}
	c.add("of another app", "other app", body(func(r *wire.Revocations) { r.App = app[:] }))
	c.add("a kid that nobody has", "signature", body(func(r *wire.Revocations) { r.Kid = "x" }))
	c.add("no version", "malformed", body(func(r *wire.Revocations) { r.Version = 0 }))
	c.add("no time", "malformed", body(func(r *wire.Revocations) { r.IssuedMs = 0 }))
	c.add("a user that is no ID", "malformed", body(func(r *wire.Revocations) {
		r.Users = []*wire.RevokedUser{{User: "a b", NotBeforeMs: 1}}
	}))
	c.add("a token twice", "malformed", body(func(r *wire.Revocations) { r.Tokens = append(r.Tokens, r.Tokens[0]) }))
	require.Equal(t, Hex(id[:]), lists[0].Body[2:34], "the app comes first")
	return lists, c
}
