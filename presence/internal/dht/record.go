package dht

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
)

// maxRecord bounds a sealed record: a statement, 16 addresses of 256 bytes, and the fields around
// them.
const maxRecord = identity.MaxStatement + wire.MaxAddrs*(wire.MaxAddr+4) + 128

// recordSpace is the namespace of our keys in the DHT.
const recordSpace = "starling"

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// appHash is a hash keyed by the app: a node that does not know the app cannot tell what a key in
// the DHT stands for.
func appHash(app identity.AppID, purpose, what string) []byte {
	mac := hmac.New(sha256.New, app[:])
	mac.Write([]byte("starling/dht/" + purpose + "/1\x00" + what))
	return mac.Sum(nil)
}

// KeyOfUser returns where the log-in of a user is kept in app mode.
func KeyOfUser(app identity.AppID, user string) string {
	return "/" + recordSpace + "/" + base32Lower.EncodeToString(appHash(app, "user", user))
}

// KeyOfKey returns where the log-in of a user key is kept in open mode: by its fingerprint, since
// that is what an address contains.
func KeyOfKey(app identity.AppID, fingerprint string) string {
	return "/" + recordSpace + "/" + base32Lower.EncodeToString(appHash(app, "key", fingerprint))
}

// keyOfName returns the key that devices whose user has that name provide, in open mode.
func keyOfName(app identity.AppID, user string) multihash.Multihash {
	mh, err := multihash.Encode(appHash(app, "name", user), multihash.SHA2_256)
	if err != nil {
		panic("dht: " + err.Error()) // the hash has the length of its kind
	}
	return mh
}

// tag is the part of the DHT's protocol ID that keeps apps apart.
func tag(app identity.AppID) string {
	return base32Lower.EncodeToString(appHash(app, "prefix", "")[:10])
}

// Record is what the DHT keeps about a log-in. It is shared and read only.
type Record struct {
	Statement *identity.Statement // of a log-in, or of its end
	Addrs     []ma.Multiaddr
	Issued    time.Time

	expires time.Time
	sealed  []byte
}

// newer orders records of one user as every node does: by their statements, and between records of
// one statement by time.
func (r *Record) newer(o *Record) bool {
	switch {
	case r.Statement.Newer(o.Statement):
		return true
	case o.Statement.Newer(r.Statement):
		return false
	}
	return r.Issued.After(o.Issued)
}

// Seal makes a record of a statement of this device.
func Seal(keys *identity.Keys, st *identity.Statement, addrs []ma.Multiaddr, now time.Time, life time.Duration) ([]byte, error) {
	msg := &wire.Record{Statement: st.Sealed(), IssuedMs: now.UnixMilli(), ExpiresMs: now.Add(life).UnixMilli()}
	for _, a := range addrs {
		if b := a.Bytes(); len(b) <= wire.MaxAddr && len(msg.Addrs) < wire.MaxAddrs {
			msg.Addrs = append(msg.Addrs, b)
		}
	}
	body, err := proto.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("dht: record: %w", err)
	}
	return wire.Seal(wire.DomainRecord, keys.Device, body), nil
}

// Reasons why a record is refused.
var (
	ErrSize = errors.New("dht: record too large")
	ErrKey  = errors.New("dht: record under a key that is not its user's")
	ErrTime = errors.New("dht: record is too old or from the future")
	ErrForm = errors.New("dht: malformed record")
	ErrMark = errors.New("dht: record without a log-in token")
)

// Rules judges records. It is the validator of an instance.
type Rules struct {
	app      identity.AppID
	verifier *identity.Verifier
	vouched  bool          // app mode
	life     time.Duration // the longest accepted
	clock    walltime.Clock
}

// Open verifies everything about a record except that it is current.
func (v *Rules) Open(sealed []byte, now time.Time) (*Record, error) {
	if len(sealed) > maxRecord {
		return nil, ErrSize
	}
	sig, body, err := wire.Split(sealed)
	if err != nil {
		return nil, ErrForm
	}
	var msg wire.Record
	if err := proto.Unmarshal(body, &msg); err != nil {
		return nil, ErrForm
	}
	if len(msg.Addrs) > wire.MaxAddrs {
		return nil, ErrSize
	}
	if msg.IssuedMs <= 0 || msg.ExpiresMs <= msg.IssuedMs {
		return nil, ErrForm
	}
	st, err := v.verifier.Verify(msg.Statement, now)
	if err != nil {
		return nil, err
	}
	if v.vouched && st.Grant() == nil {
		return nil, ErrMark
	}
	if !wire.Check(wire.DomainRecord, st.Device[:], body, sig) {
		return nil, identity.ErrSignature
	}
	r := &Record{
		Statement: st, Addrs: wire.ParseAddrs(msg.Addrs), sealed: sealed,
		Issued: time.UnixMilli(msg.IssuedMs), expires: time.UnixMilli(msg.ExpiresMs),
	}
	if r.expires.Sub(r.Issued) > v.life {
		return nil, ErrTime
	}
	return r, nil
}

// key returns the key under which the record belongs.
func (v *Rules) key(st *identity.Statement) string {
	if v.vouched {
		return KeyOfUser(v.app, st.User)
	}
	return KeyOfKey(v.app, st.UserKey.Fingerprint())
}

// check opens a record and checks its time and its key. Clocks may differ; the store ages records
// exactly, by its own clock.
func (v *Rules) check(key string, sealed []byte, now time.Time) (*Record, error) {
	r, err := v.Open(sealed, now)
	switch {
	case err != nil:
		return nil, err
	case v.key(r.Statement) != key:
		return nil, ErrKey
	case r.Issued.After(now.Add(identity.MaxSkew)), !r.expires.Add(identity.MaxSkew).After(now):
		return nil, ErrTime
	}
	return r, nil
}

// Validate implements the DHT's validator interface.
func (v *Rules) Validate(key string, value []byte) error {
	if !strings.HasPrefix(key, "/"+recordSpace+"/") {
		return ErrKey
	}
	_, err := v.check(key, value, v.clock.Now())
	return err
}

// Select returns the index of the newest record. Among equal ones that is the first; otherwise a
// record that is stored again would be refused, and age out.
func (v *Rules) Select(_ string, values [][]byte) (int, error) {
	var best *Record
	at := -1
	for i, value := range values {
		r, err := v.Open(value, v.clock.Now())
		if err != nil {
			continue
		}
		if best == nil || !bytes.Equal(best.sealed, r.sealed) && r.newer(best) {
			best, at = r, i
		}
	}
	if at < 0 {
		return 0, ErrForm
	}
	return at, nil
}
