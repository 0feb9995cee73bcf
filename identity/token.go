package identity

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// parseToken reads a token of an app and verifies its signature. The caller still has to check what
// depends on the device that shows it and on the time.
//
// The JWT library parses claims before it verifies, ignores the case of their names, and takes the
// last of two equal ones. So this package does the reading itself, in the order in which things can
// be trusted, and uses the library only for signing and verifying.
func parseToken(token, app string, issuers Issuers) (*Grant, error) {
	switch {
	case token == "":
		return nil, tokenError(ErrTokenMissing, "none was given")
	case len(token) > MaxToken:
		return nil, tokenError(ErrTokenSize, "%d bytes, at most %d are allowed", len(token), MaxToken)
	}
	head, rest, _ := strings.Cut(token, ".")
	body, sig, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(sig, ".") {
		return nil, malformed("it is not of three parts with a dot between them")
	}
	kid, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	key, ok := issuers.Key(kid)
	if !ok {
		return nil, tokenError(ErrTokenIssuer, "signed with the key %s, which is not one of this app's issuers", quote(kid))
	}
	signature, err := segment(sig)
	if err != nil {
		return nil, malformed("its signature is not base64url")
	}
	signed := token[:len(head)+1+len(body)]
	if jwt.SigningMethodEdDSA.Verify(signed, signature, ed25519.PublicKey(key[:])) != nil {
		return nil, tokenError(foreignSignature{}, "its signature is not that of the issuer key %s", quote(kid))
	}
	raw, err := segment(body)
	if err != nil {
		return nil, malformed("its claims are not base64url")
	}
	claims, err := object(raw)
	if err != nil {
		return nil, malformed("its claims: %v", err)
	}
	g, err := parseClaims(claims, app)
	if err != nil {
		return nil, err
	}
	g.Kid = kid
	return g, nil
}

// foreignSignature matches both ErrTokenIssuer and ErrSignature.
type foreignSignature struct{}

func (foreignSignature) Error() string { return ErrTokenIssuer.Error() }

func (foreignSignature) Is(target error) bool {
	return target == ErrTokenIssuer || target == ErrSignature
}

func malformed(format string, args ...any) *TokenError {
	return tokenError(ErrTokenMalformed, format, args...)
}

// parseHeader returns the kid of a header that the token profile allows.
func parseHeader(head string) (kid string, err error) {
	raw, err := segment(head)
	if err != nil {
		return "", malformed("its header is not base64url")
	}
	header, err := object(raw)
	if err != nil {
		return "", malformed("its header: %v", err)
	}
	alg, err := text("alg", header["alg"])
	if err != nil {
		return "", tokenError(ErrTokenAlgorithm, "its header: %v", err)
	}
	if alg != jwt.SigningMethodEdDSA.Alg() {
		return "", tokenError(ErrTokenAlgorithm, "signed by %s, only EdDSA is allowed", quote(alg))
	}
	if raw, ok := header["typ"]; ok {
		if typ, err := text("typ", raw); err != nil || typ != "JWT" {
			return "", malformed(`its header: typ is not "JWT"`)
		}
	}
	// A token must not say itself which key to trust, and we do not support any critical extension.
	for _, name := range []string{"crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "enc"} {
		if _, ok := header[name]; ok {
			return "", malformed("its header has %s, which is not allowed", name)
		}
	}
	if _, ok := header["kid"]; !ok {
		return "", tokenError(ErrTokenIssuer, "it does not name the key that signed it (kid)")
	}
	if kid, err = text("kid", header["kid"]); err != nil {
		return "", malformed("its header: %v", err)
	}
	return kid, nil
}

// parseClaims checks the claims of a token that an issuer has signed, one by one.
func parseClaims(claims map[string]json.RawMessage, app string) (*Grant, error) {
	if err := checkAudience(claims["aud"], app); err != nil {
		return nil, err
	}
	var g Grant
	var err error
	if g.User, err = text("sub", claims["sub"]); err != nil {
		return nil, malformed("%v", err)
	}
	if err := CheckUser(g.User); err != nil {
		return nil, &TokenError{Reason: "sub: " + err.Error(), Err: tokenCause{ErrTokenMalformed, err}}
	}
	if g.Device, err = parseBinding(claims["cnf"]); err != nil {
		return nil, err
	}
	for _, c := range []struct {
		name     string
		into     *time.Time
		required bool
	}{{"exp", &g.Expires, true}, {"nbf", &g.Begins, false}, {"iat", &g.Issued, false}} {
		raw, ok := claims[c.name]
		if !ok && !c.required {
			continue
		}
		if !ok {
			return nil, malformed("it has no %s", c.name)
		}
		if *c.into, err = numericDate(c.name, raw); err != nil {
			return nil, malformed("%v", err)
		}
	}
	if g.ID, err = text("jti", claims["jti"]); err != nil {
		return nil, malformed("%v", err)
	}
	if !printable(g.ID, MaxTokenID) {
		return nil, malformed("jti is not 1 to %d printable characters without spaces", MaxTokenID)
	}
	if g.Rooms, err = parseRooms(claims["rooms"]); err != nil {
		return nil, err
	}
	g.Login = g.Rooms == nil
	if raw, ok := claims["login"]; ok {
		if json.Unmarshal(raw, &g.Login) != nil || string(raw) == "null" {
			return nil, malformed("login is neither true nor false")
		}
	}
	if !g.Login && len(g.Rooms) == 0 {
		return nil, malformed("it permits nothing: it names no room and is not for logging in")
	}
	return &g, nil
}

// tokenCause matches both of its errors.
type tokenCause [2]error

func (c tokenCause) Error() string   { return c[1].Error() }
func (c tokenCause) Unwrap() []error { return c[:] }

func checkAudience(raw json.RawMessage, app string) error {
	if raw == nil {
		return malformed("it has no aud")
	}
	var all []string
	if len(raw) > 0 && raw[0] == '[' { // some libraries always write a list
		if json.Unmarshal(raw, &all) != nil || len(all) != 1 {
			return malformed("aud is not one string")
		}
	} else {
		one, err := text("aud", raw)
		if err != nil {
			return malformed("%v", err)
		}
		all = []string{one}
	}
	if all[0] != app {
		return tokenError(ErrTokenApp, "it is for the app %s, this is %s", quote(all[0]), quote(app))
	}
	return nil
}

// parseBinding returns the device key that a token is bound to (RFC 7800).
func parseBinding(raw json.RawMessage) (PublicKey, error) {
	if raw == nil {
		return PublicKey{}, tokenError(ErrTokenUnbound, "it is bound to no device key (cnf), so that anybody who sees it could use it")
	}
	cnf, err := object(raw)
	if err != nil {
		return PublicKey{}, malformed("cnf: %v", err)
	}
	bound, ok := cnf["jwk"]
	if !ok {
		return PublicKey{}, tokenError(ErrTokenUnbound, "cnf does not hold the device key (jwk)")
	}
	key, err := jwk(bound)
	if err != nil {
		return PublicKey{}, malformed("cnf.jwk: %v", err)
	}
	return key, nil
}

// parseRooms returns nil if the token does not mention rooms.
func parseRooms(raw json.RawMessage) (map[string]string, error) {
	if raw == nil {
		return nil, nil
	}
	members, err := object(raw)
	if err != nil {
		return nil, malformed("rooms: %v", err)
	}
	if len(members) > MaxTokenRooms {
		return nil, malformed("%d rooms, at most %d are allowed", len(members), MaxTokenRooms)
	}
	rooms := make(map[string]string, len(members))
	for room, raw := range members {
		if CheckRoom(room) != nil {
			return nil, malformed("rooms: %s is not the ID of a room", quote(room))
		}
		role, err := text("the role", raw)
		if err != nil {
			return nil, malformed("rooms: %v", err)
		}
		if err := checkRole(role); err != nil {
			return nil, malformed("rooms: %v", err)
		}
		rooms[room] = role
	}
	return rooms, nil
}
