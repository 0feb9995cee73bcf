package vectors

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// tokenJudge is a verifier written from docs/TOKENS.md alone, with the standard library.

type tokenJudge struct {
	app    string
	keys   map[string]ed25519.PublicKey
	at     float64 // seconds
	leeway float64
}

func newTokenJudge(t *testing.T, v *Tokens) *tokenJudge {
	var set struct {
		Root string
		Keys []struct{ Kty, Crv, X, Kid string }
	}
	require.NoError(t, json.Unmarshal(v.Issuers, &set))
	j := &tokenJudge{app: v.AppName, keys: make(map[string]ed25519.PublicKey), at: float64(v.AtMS) / 1000, leeway: float64(v.LeewayMS) / 1000}
	for _, k := range set.Keys {
		x, err := base64.RawURLEncoding.DecodeString(k.X)
		require.NoError(t, err)
		j.keys[k.Kid] = x
	}
	require.Equal(t, []byte(v.App), sum([]byte("starling/app/1\x00"), []byte(v.AppName), []byte{0}, j.keys[set.Root]))
	return j
}

// members reads a JSON object and refuses repeated names.
func members(raw []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("no object")
	}
	all := make(map[string]any)
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value any
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		if _, twice := all[name.(string)]; twice {
			return nil, fmt.Errorf("%s twice", name)
		}
		all[name.(string)] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more")
	}
	return all, nil
}

var id = regexp.MustCompile(`^[a-zA-Z0-9_@.-]{1,128}$`)

// judge returns why a token is refused, or "".
func (j *tokenJudge) judge(c Token) string {
	switch parts := strings.Split(c.Token, "."); {
	case c.Token == "":
		return "missing"
	case len(c.Token) > 4096:
		return "size"
	case len(parts) != 3:
		return "malformed"
	default:
		return j.judgeParts(c, parts)
	}
}

func (j *tokenJudge) judgeParts(c Token, parts []string) string {
	decode := base64.RawURLEncoding.Strict().DecodeString
	raw, err := decode(parts[0])
	header, err2 := members(raw)
	if err != nil || err2 != nil {
		return "malformed"
	}
	if header["alg"] != "EdDSA" {
		return "algorithm"
	}
	if typ, ok := header["typ"]; ok && typ != "JWT" {
		return "malformed"
	}
	for _, name := range strings.Fields("crit jku jwk x5u x5c b64 zip enc") {
		if _, ok := header[name]; ok {
			return "malformed"
		}
	}
	kid, _ := header["kid"].(string)
	signature, err := decode(parts[2])
	if key, ok := j.keys[kid]; !ok || err != nil || !ed25519.Verify(key, []byte(parts[0]+"."+parts[1]), signature) {
		return "issuer"
	}
	raw, err = decode(parts[1])
	claims, err2 := members(raw)
	if err != nil || err2 != nil {
		return "malformed"
	}
	return j.judgeClaims(c, claims)
}

func (j *tokenJudge) judgeClaims(c Token, claims map[string]any) string {
	aud := claims["aud"]
	if list, ok := aud.([]any); ok && len(list) == 1 {
		aud = list[0]
	}
	sub, _ := claims["sub"].(string)
	jti, _ := claims["jti"].(string)
	exp, hasExp := claims["exp"].(float64)
	if _, ok := aud.(string); !ok {
		return "malformed"
	}
	if aud != j.app {
		return "app"
	}
	if !id.MatchString(sub) {
		return "malformed"
	}
	cnf, _ := claims["cnf"].(map[string]any)
	jwk, ok := cnf["jwk"].(map[string]any)
	if !ok {
		return "unbound"
	}
	device, _ := jwk["x"].(string)
	_, private := jwk["d"]
	rooms, hasRooms := claims["rooms"].(map[string]any)
	login, hasLogin := claims["login"].(bool)
	if jwk["kty"] != "OKP" || jwk["crv"] != "Ed25519" || private || jti == "" || len(jti) > 64 || !hasExp ||
		hasRooms != (claims["rooms"] != nil) || hasLogin != (claims["login"] != nil) {
		return "malformed"
	}
	if !hasRooms {
		login = login || !hasLogin
	}
	_, admitted := rooms[c.Room]
	nbf, _ := claims["nbf"].(float64)
	iat, _ := claims["iat"].(float64)
	switch {
	case sub != c.User:
		return "user"
	case device != base64.RawURLEncoding.EncodeToString(c.Device):
		return "device"
	case c.Room == "" && !login:
		return "purpose"
	case c.Room != "" && !admitted:
		return "room"
	case j.at+j.leeway < iat:
		return "clock"
	case j.at+j.leeway < nbf:
		return "not_yet_valid"
	case j.at >= exp+j.leeway:
		return "expired"
	}
	return ""
}

func TestTokensFollowFromTheDocumentAlone(t *testing.T) {
	var v Tokens
	Read(t, "token", &v)
	j := newTokenJudge(t, &v)
	for _, c := range v.Accepted {
		require.Empty(t, j.judge(c), c.Name)
	}
	for _, c := range v.Refused {
		require.Equal(t, c.Why, j.judge(c), c.Name)
	}
}

// plainList opens a list of revocations; why is the reason if it is refused.
func (j *tokenJudge) plainList(app, sealed []byte) (m message, why string) {
	if len(sealed) <= 64 {
		return nil, "malformed"
	}
	m, ok := parse(sealed[64:])
	if !ok {
		return nil, "malformed"
	}
	key, ok := j.keys[string(m.bytes(2))]
	if !ok || !ed25519.Verify(key, append([]byte("starling/revocations/1\x00"), sealed[64:]...), sealed[:64]) {
		return nil, "signature"
	}
	if !bytes.Equal(m.bytes(1), app) {
		return nil, "other app"
	}
	if m.varint(3) == 0 || m.varint(4) == 0 {
		return nil, "malformed"
	}
	seen := make(map[string]bool)
	for _, field := range []protowire.Number{5, 6} {
		for _, b := range m.all(field) {
			e, ok := parse(b)
			name := fmt.Sprint(field, e.text(1))
			if !ok || seen[name] || field == 5 && !id.Match(e.bytes(1)) {
				return nil, "malformed"
			}
			seen[name] = true
		}
	}
	return m, ""
}

func TestRevocationsFollowFromTheDocumentAlone(t *testing.T) {
	var v Tokens
	Read(t, "token", &v)
	j := newTokenJudge(t, &v)
	for _, l := range v.Lists {
		m, why := j.plainList(v.App, l.Sealed.Sealed)
		require.Empty(t, why, l.Name)
		require.Equal(t, l.Version, m.varint(3))
		require.Equal(t, uint64(l.IssuedMS), m.varint(4))
		for _, b := range m.all(5) {
			e, _ := parse(b)
			require.Equal(t, uint64(l.Users[string(e.bytes(1))]), e.varint(2))
		}
		for _, b := range m.all(6) {
			e, _ := parse(b)
			require.Equal(t, uint64(l.Tokens[string(e.bytes(1))]), e.varint(2))
		}
		require.Equal(t, []int{len(l.Users), len(l.Tokens)}, []int{len(m.all(5)), len(m.all(6))})
	}
	for _, c := range v.RefusedLists {
		_, why := j.plainList(v.App, c.Sealed)
		require.NotEmpty(t, why, c.Name)
		// A list cut at the end may be either.
		if c.Why != "" && c.Why != "malformed" {
			require.Equal(t, c.Why, why, c.Name)
		}
	}
}
