package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
)

// MaxRevocations is the most bytes of a sealed list of revocations: some 2000 users, or 2000 tokens
// with the usual jti.
const MaxRevocations = 64 << 10

// ErrRevocations reports a list of revocations that was refused.
var ErrRevocations = errors.New("list of revocations refused")

// Revocations is the list of the tokens that an app's issuers have revoked before they expire. An
// app has one list: the one with the highest version. It must therefore repeat those entries of
// earlier lists that still count.
type Revocations struct {
	Version uint64    // from 1; see [Revocations.Next]
	Issued  time.Time // for people only; versions decide
	// Revokes the user's tokens that were issued before that time or have no issue time.
	Users map[string]time.Time
	// By jti: when the token expires and the entry is no longer needed; zero: not known.
	Tokens map[string]time.Time
	Kid    string // of the issuer key that signed; set when the list is opened

	sealed []byte
	sum    [sha256.Size]byte
}

// revoked accepts a nil receiver, which means no list.
func (r *Revocations) revoked(g *Grant) bool {
	if r == nil {
		return false
	}
	if _, ok := r.Tokens[g.ID]; ok {
		return true
	}
	before, ok := r.Users[g.User]
	return ok && g.Issued.Before(before)
}

// Sealed returns a copy of the signed bytes; nil for a list that was not opened or signed.
func (r *Revocations) Sealed() []byte { return bytes.Clone(r.sealed) }

// Head returns the version and the SHA-256 of the signed bytes, which together identify a list.
// Without a list the version is 0.
func (r *Revocations) Head() (version uint64, sum [sha256.Size]byte) {
	if r == nil {
		return 0, sum
	}
	return r.Version, r.sum
}

// Supersedes reports whether r replaces a list with that head. If two issuers sign the same version
// at the same time, the hash decides, so that all nodes end up with the same list.
func (r *Revocations) Supersedes(version uint64, sum [sha256.Size]byte) bool {
	mine, mySum := r.Head()
	if mine != version {
		return mine > version
	}
	return bytes.Compare(mySum[:], sum[:]) > 0
}

// Next returns a copy to change and sign. Its version is above this one's. It leaves out tokens
// that expired longer ago than the largest leeway. The receiver may be nil, which means no list.
func (r *Revocations) Next(now time.Time) Revocations {
	next := Revocations{Issued: now, Users: make(map[string]time.Time), Tokens: make(map[string]time.Time)}
	version, _ := r.Head()
	next.Version = max(version+1, uint64(max(now.UnixMilli(), 1)))
	if r == nil {
		return next
	}
	maps.Copy(next.Users, r.Users)
	for id, expires := range r.Tokens {
		if expires.IsZero() || now.Before(expires.Add(MaxLeeway)) {
			next.Tokens[id] = expires
		}
	}
	return next
}

// sealRevocations signs a list.
func sealRevocations(app AppID, kid string, key ed25519.PrivateKey, r Revocations) ([]byte, error) {
	msg := &wire.Revocations{App: app[:], Kid: kid, Version: r.Version, IssuedMs: r.Issued.UnixMilli()}
	for _, user := range slices.Sorted(maps.Keys(r.Users)) {
		msg.Users = append(msg.Users, &wire.RevokedUser{User: user, NotBeforeMs: r.Users[user].UnixMilli()})
	}
	for _, id := range slices.Sorted(maps.Keys(r.Tokens)) {
		t := &wire.RevokedToken{Id: id}
		if expires := r.Tokens[id]; !expires.IsZero() {
			t.ExpiresMs = expires.UnixMilli()
		}
		msg.Tokens = append(msg.Tokens, t)
	}
	if _, err := revocationsFromWire(msg); err != nil {
		return nil, err
	}
	body, err := proto.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("revocations: %w", err)
	}
	if size := wire.SignatureSize + len(body); size > MaxRevocations {
		return nil, badList("%d bytes, at most %d are allowed: replace the issuer key, and begin a new list", size, MaxRevocations)
	}
	return wire.Seal(wire.DomainRevocations, key, body), nil
}

func badList(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRevocations, fmt.Sprintf(format, args...))
}

// OpenRevocations verifies a signed list of the authority's app. It is safe to call with any bytes.
// Errors wrap [ErrRevocations] and give the details.
func (a *Authority) OpenRevocations(sealed []byte) (*Revocations, error) {
	if len(sealed) > MaxRevocations {
		return nil, badList("%d bytes, at most %d are allowed", len(sealed), MaxRevocations)
	}
	sig, body, err := wire.Split(sealed)
	if err != nil {
		return nil, badList("%d bytes are too few", len(sealed))
	}
	var msg wire.Revocations
	if proto.Unmarshal(body, &msg) != nil {
		return nil, badList("malformed")
	}
	key, ok := a.issuers.Key(msg.Kid)
	if !ok {
		return nil, badList("signed with the key %s, which is not one of this app's issuers", quote(msg.Kid))
	}
	if !wire.Check(wire.DomainRevocations, key[:], body, sig) {
		return nil, badList("its signature is not that of the issuer key %s", quote(msg.Kid))
	}
	if len(msg.App) != len(a.id) || AppID(msg.App) != a.id {
		return nil, badList("it is of another app")
	}
	r, err := revocationsFromWire(&msg)
	if err != nil {
		return nil, err
	}
	r.sealed, r.sum = bytes.Clone(sealed), sha256.Sum256(sealed)
	return r, nil
}

func revocationsFromWire(msg *wire.Revocations) (*Revocations, error) {
	if msg.Version == 0 || msg.Version >= maxMilli { // nothing could supersede it
		return nil, badList("version %d", msg.Version)
	}
	if msg.IssuedMs <= 0 || msg.IssuedMs > maxMilli {
		return nil, badList("issued at %d ms", msg.IssuedMs)
	}
	r := &Revocations{
		Version: msg.Version, Issued: time.UnixMilli(msg.IssuedMs).UTC(), Kid: msg.Kid,
		Users: make(map[string]time.Time, len(msg.Users)), Tokens: make(map[string]time.Time, len(msg.Tokens)),
	}
	for _, u := range msg.Users {
		if CheckUser(u.User) != nil || u.NotBeforeMs <= 0 || u.NotBeforeMs > maxMilli {
			return nil, badList("user %s before %d ms", quote(u.User), u.NotBeforeMs)
		}
		if _, twice := r.Users[u.User]; twice {
			return nil, badList("user %s appears twice", quote(u.User))
		}
		r.Users[u.User] = time.UnixMilli(u.NotBeforeMs).UTC()
	}
	for _, t := range msg.Tokens {
		if !printable(t.Id, MaxTokenID) || t.ExpiresMs < 0 || t.ExpiresMs > maxMilli {
			return nil, badList("token %s until %d ms", quote(t.Id), t.ExpiresMs)
		}
		if _, twice := r.Tokens[t.Id]; twice {
			return nil, badList("token %s appears twice", quote(t.Id))
		}
		var expires time.Time
		if t.ExpiresMs > 0 {
			expires = time.UnixMilli(t.ExpiresMs).UTC()
		}
		r.Tokens[t.Id] = expires
	}
	return r, nil
}

// Revoke takes a signed list of revocations. It reports whether the list is newer than the previous
// one and counts from now on; an older one is no error and changes nothing.
func (a *Authority) Revoke(sealed []byte) (newer bool, err error) {
	r, err := a.OpenRevocations(sealed)
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !r.Supersedes(a.list.Load().Head()) {
		return false, nil
	}
	a.list.Store(r)
	close(a.changed)
	a.changed = make(chan struct{})
	return true, nil
}

// Revocations returns the current list, shared and read only; nil if there is none.
func (a *Authority) Revocations() *Revocations { return a.list.Load() }

// Changed returns a channel that is closed when another list replaces the current one. Callers that
// keep grants then check them again.
func (a *Authority) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}
