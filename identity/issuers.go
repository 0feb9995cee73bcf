package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

const (
	// MaxIssuers is the most keys that an app's issuers may have: the one in use, the next one, and
	// some to spare.
	MaxIssuers = 16
	// MaxKid is the most characters of the ID of an issuer key.
	MaxKid = 64

	maxIssuersFile = 64 << 10 // bytes; 16 keys are 3 KiB
)

// IssuerKey is the public key of an issuer. The holder of its private half decides who is a user of
// the app.
type IssuerKey struct {
	Kid string // 1 to 64 printable ASCII characters, no spaces
	Key PublicKey
}

// NewIssuerKey gives a key the ID that any JWT library computes: its thumbprint by RFC 7638.
func NewIssuerKey(key PublicKey) IssuerKey {
	j := newJWK(key)
	sum := sha256.Sum256([]byte(`{"crv":"` + j.Crv + `","kty":"` + j.Kty + `","x":"` + j.X + `"}`))
	return IssuerKey{Kid: base64.RawURLEncoding.EncodeToString(sum[:]), Key: key}
}

// Issuers are the issuer keys of an app. One of them is the root: the app's ID derives from it, so
// the root stays as long as the app does, while other keys may be added and removed. Each of them
// may sign any token. The zero value has no keys. Issuers are read only; share them.
type Issuers struct {
	keys []IssuerKey // the root first
}

// IssuersError reports issuers that cannot be used.
type IssuersError struct {
	Path string // of the file, if they came from one
	Err  error
}

func (e *IssuersError) Error() string {
	if e.Path == "" {
		return "issuers: " + e.Err.Error()
	}
	return fmt.Sprintf("issuers %s: %v", e.Path, e.Err)
}

// Unwrap returns Err.
func (e *IssuersError) Unwrap() error { return e.Err }

// NewIssuers returns issuers with the given root and further keys. The error is an [*IssuersError].
func NewIssuers(root IssuerKey, more ...IssuerKey) (Issuers, error) {
	i := Issuers{keys: append([]IssuerKey{root}, more...)}
	if err := i.check(); err != nil {
		return Issuers{}, &IssuersError{Err: err}
	}
	return i, nil
}

func (i Issuers) check() error {
	if len(i.keys) > MaxIssuers {
		return fmt.Errorf("%d keys, at most %d are allowed", len(i.keys), MaxIssuers)
	}
	for n, k := range i.keys {
		switch {
		case !printable(k.Kid, MaxKid):
			return fmt.Errorf("kid %s: want 1 to %d printable characters without spaces", quote(k.Kid), MaxKid)
		case k.Key.IsZero():
			return fmt.Errorf("kid %s has no key", quote(k.Kid))
		case slices.ContainsFunc(i.keys[:n], func(o IssuerKey) bool { return o.Kid == k.Kid }):
			return fmt.Errorf("kid %s appears twice", quote(k.Kid))
		}
	}
	return nil
}

// IsZero reports whether there are no issuers, as in open mode.
func (i Issuers) IsZero() bool { return len(i.keys) == 0 }

// Root returns the key from which the app's ID derives.
func (i Issuers) Root() IssuerKey {
	if i.IsZero() {
		return IssuerKey{}
	}
	return i.keys[0]
}

// Keys returns all keys, the root first.
func (i Issuers) Keys() []IssuerKey { return slices.Clone(i.keys) }

// Key returns the key with that ID.
func (i Issuers) Key(kid string) (PublicKey, bool) {
	for _, k := range i.keys {
		if k.Kid == kid {
			return k.Key, true
		}
	}
	return PublicKey{}, false
}

// AppID returns the ID of the app called name with these issuers: see [NewIssuedAppID].
func (i Issuers) AppID(name string) AppID { return NewIssuedAppID(name, i.Root().Key) }

// ParseIssuers reads a JSON Web Key Set (RFC 7517). Its member "root" is the kid of the root;
// without it, the root is the first usable key. It skips keys that are not Ed25519 or not for
// signatures. It refuses a set with a private key, since the file is for every node of the app. The
// error is an [*IssuersError].
func ParseIssuers(jwks []byte) (Issuers, error) {
	i, err := parseIssuers(jwks)
	if err != nil {
		return Issuers{}, &IssuersError{Err: err}
	}
	return i, nil
}

// ReadIssuers is [ParseIssuers] for a file.
func ReadIssuers(path string) (Issuers, error) {
	fail := func(err error) (Issuers, error) { return Issuers{}, &IssuersError{Path: path, Err: bare(err)} }
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIssuersFile+1))
	if err != nil {
		return fail(err)
	}
	i, err := parseIssuers(text)
	if err != nil {
		return fail(err)
	}
	return i, nil
}

func parseIssuers(jwks []byte) (Issuers, error) {
	if len(jwks) > maxIssuersFile {
		return Issuers{}, fmt.Errorf("more than %d bytes", maxIssuersFile)
	}
	set, err := object(jwks)
	if err != nil {
		return Issuers{}, err
	}
	var raw []json.RawMessage
	if json.Unmarshal(set["keys"], &raw) != nil {
		return Issuers{}, errors.New(`no list "keys", which a JSON Web Key Set has`)
	}
	var i Issuers
	for n, one := range raw {
		k, ok, err := parseIssuer(one)
		if err != nil {
			return Issuers{}, fmt.Errorf("key %d: %w", n+1, err)
		}
		if ok {
			i.keys = append(i.keys, k)
		}
	}
	if i.IsZero() {
		return Issuers{}, errors.New("no Ed25519 key in it")
	}
	if named, ok := set["root"]; ok {
		kid, err := text("root", named)
		if err != nil {
			return Issuers{}, err
		}
		at := slices.IndexFunc(i.keys, func(k IssuerKey) bool { return k.Kid == kid })
		if at < 0 {
			return Issuers{}, fmt.Errorf("the root %s is not among the keys", quote(kid))
		}
		root := i.keys[at]
		i.keys = slices.Insert(slices.Delete(i.keys, at, at+1), 0, root)
	}
	return i, i.check()
}

// parseIssuer reads one key of a set; ok is false for a key to skip.
func parseIssuer(raw json.RawMessage) (k IssuerKey, ok bool, err error) {
	members, err := object(raw)
	if err != nil {
		return k, false, err
	}
	for _, private := range []string{"d", "k"} { // in any type of key
		if _, has := members[private]; has {
			return k, false, errors.New("it is a private key: only the public half belongs here")
		}
	}
	kty, err := text("kty", members["kty"])
	if err != nil {
		return k, false, err
	}
	crv, _ := text("crv", members["crv"])
	use, _ := text("use", members["use"])
	if kty != "OKP" || crv != "Ed25519" || use != "" && use != "sig" {
		return k, false, nil
	}
	if k.Key, err = jwk(raw); err != nil {
		return k, false, err
	}
	k.Kid, err = text("kid", members["kid"])
	return k, err == nil, err
}

type jwks struct {
	Root string      `json:"root"`
	Keys []issuerJWK `json:"keys"`
}

type issuerJWK struct {
	publicJWK
	Use string `json:"use"`
	Alg string `json:"alg"`
	Kid string `json:"kid"`
}

// Marshal returns a file that [ParseIssuers] reads.
func (i Issuers) Marshal() []byte {
	set := jwks{Root: i.Root().Kid, Keys: []issuerJWK{}}
	for _, k := range i.keys {
		set.Keys = append(set.Keys, issuerJWK{publicJWK: newJWK(k.Key), Use: "sig", Alg: "EdDSA", Kid: k.Kid})
	}
	text, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		panic("identity: issuers: " + err.Error()) // strings only
	}
	return append(text, '\n')
}
