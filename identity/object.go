package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// object splits a JSON object into its members, under their names exactly as written. Decoding into
// a struct would ignore the case of names, and the last of two equal ones would win: two readers
// could then see different claims in one token. The caller must bound the size of raw.
func object(raw []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members := make(map[string]json.RawMessage)
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("not JSON")
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("%s appears twice", quote(name))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errors.New("not JSON")
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return members, nil
}

// text reads a member that must be a string.
func text(name string, raw json.RawMessage) (string, error) {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("%s is no string", name)
	}
	return s, nil
}

// numericDate reads a time in seconds since 1970, which may have a fraction. It cuts the time to
// milliseconds.
func numericDate(name string, raw json.RawMessage) (time.Time, error) {
	// ParseFloat refuses JSON strings and null.
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return time.Time{}, fmt.Errorf("%s is no number", name)
	}
	if seconds <= 0 || seconds > maxMilli/1000 {
		return time.Time{}, fmt.Errorf("%s is out of range", name)
	}
	return time.UnixMilli(int64(math.Floor(seconds * 1000))).UTC(), nil
}

// jwk reads an Ed25519 public key as RFC 8037 writes it.
func jwk(raw json.RawMessage) (PublicKey, error) {
	members, err := object(raw)
	if err != nil {
		return PublicKey{}, err
	}
	for _, want := range [][2]string{{"kty", "OKP"}, {"crv", "Ed25519"}} {
		if got, err := text(want[0], members[want[0]]); err != nil || got != want[1] {
			return PublicKey{}, fmt.Errorf("%s is not %q", want[0], want[1])
		}
	}
	if _, private := members["d"]; private {
		return PublicKey{}, errors.New("it has d, the private key, which nobody else may see")
	}
	x, err := text("x", members["x"])
	if err != nil {
		return PublicKey{}, err
	}
	key, err := segment(x)
	if err != nil || len(key) != len(PublicKey{}) {
		return PublicKey{}, errors.New("x is not the base64url of 32 bytes")
	}
	return PublicKey(key), nil
}

// publicJWK is what jwk reads.
type publicJWK struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
}

func newJWK(key PublicKey) publicJWK {
	return publicJWK{Kty: "OKP", Crv: "Ed25519", X: base64.RawURLEncoding.EncodeToString(key[:])}
}

// segment decodes base64url without padding. It accepts only the one spelling that the encoder
// produces.
func segment(s string) ([]byte, error) {
	for i := range len(s) {
		if s[i] == '\n' || s[i] == '\r' { // the decoder would skip them
			return nil, errors.New("a line break in it")
		}
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// quote returns text from another node for an error: quoted, and at most 64 bytes of it.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}

// printable reports whether s has 1 to most characters, all of them visible ASCII.
func printable(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
