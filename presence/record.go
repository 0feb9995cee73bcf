package presence

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
	"github.com/starling-mesh/starling/internal/wire"
)

// maxRecord bounds a sealed record: a statement, 16 addresses of 256 bytes, and the fields around
// them.
const maxRecord = identity.MaxStatement + maxAddrs*(maxAddr+4) + 128

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

// userRecordKey returns where the log-in of a user is kept in app mode. keyRecordKey returns where
// the log-in of a user key is kept in open mode: by its fingerprint, since that is what an address
// contains.
func userRecordKey(app identity.AppID, user string) string {
	return "/" + recordSpace + "/" + base32Lower.EncodeToString(appHash(app, "user", user))
}

func keyRecordKey(app identity.AppID, fingerprint string) string {
	return "/" + recordSpace + "/" + base32Lower.EncodeToString(appHash(app, "key", fingerprint))
}

// nameKey returns the key that devices whose user has that name provide, in open mode.
func nameKey(app identity.AppID, user string) multihash.Multihash {
	mh, err := multihash.Encode(appHash(app, "name", user), multihash.SHA2_256)
	if err != nil {
		panic("presence: " + err.Error()) // the hash has the length of its kind
	}
	return mh
}

// dhtTag is the part of the DHT's protocol ID that keeps apps apart.
func dhtTag(app identity.AppID) string {
	return base32Lower.EncodeToString(appHash(app, "prefix", "")[:10])
}

// record is what the DHT keeps about a log-in. It is shared and read only.
type record struct {
	st      *identity.Statement
	addrs   []ma.Multiaddr
	issued  time.Time
	expires time.Time
	sealed  []byte
}

// newer orders records of one user as every node does: by their statements, and between records of
// one statement by time.
func (r *record) newer(o *record) bool {
	switch {
	case r.st.Newer(o.st):
		return true
	case o.st.Newer(r.st):
		return false
	}
	return r.issued.After(o.issued)
}

// sealRecord makes a record of a statement of this device.
func sealRecord(keys *identity.Keys, st *identity.Statement, addrs []ma.Multiaddr, now time.Time, life time.Duration) ([]byte, error) {
	msg := &wire.Record{Statement: st.Sealed(), IssuedMs: now.UnixMilli(), ExpiresMs: now.Add(life).UnixMilli()}
	for _, a := range addrs {
		if b := a.Bytes(); len(b) <= maxAddr && len(msg.Addrs) < maxAddrs {
			msg.Addrs = append(msg.Addrs, b)
		}
	}
	body, err := proto.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("presence: record: %w", err)
	}
	return wire.Seal(wire.DomainRecord, keys.Device, body), nil
}

// Reasons why a record is refused.
var (
	errRecordSize = errors.New("presence: record too large")
	errRecordKey  = errors.New("presence: record under a key that is not its user's")
	errRecordTime = errors.New("presence: record is not of now")
	errRecordForm = errors.New("presence: malformed record")
	errRecordMark = errors.New("presence: record without a log-in token")
)

// recordRules judges records. It is the DHT's validator, so it must not use the directory's lock.
type recordRules struct {
	app      identity.AppID
	verifier *identity.Verifier
	vouched  bool          // app mode
	life     time.Duration // the longest accepted
}

// open verifies everything about a record except that it is current.
func (v *recordRules) open(sealed []byte, now time.Time) (*record, error) {
	if len(sealed) > maxRecord {
		return nil, errRecordSize
	}
	sig, body, err := wire.Split(sealed)
	if err != nil {
		return nil, errRecordForm
	}
	var msg wire.Record
	if err := proto.Unmarshal(body, &msg); err != nil {
		return nil, errRecordForm
	}
	if len(msg.Addrs) > maxAddrs {
		return nil, errRecordSize
	}
	if msg.IssuedMs <= 0 || msg.ExpiresMs <= msg.IssuedMs {
		return nil, errRecordForm
	}
	st, err := v.verifier.Verify(msg.Statement, now)
	if err != nil {
		return nil, err
	}
	if v.vouched && st.Grant() == nil {
		return nil, errRecordMark
	}
	if !wire.Check(wire.DomainRecord, st.Device[:], body, sig) {
		return nil, identity.ErrSignature
	}
	r := &record{
		st: st, addrs: parseAddrs(msg.Addrs), sealed: sealed,
		issued: time.UnixMilli(msg.IssuedMs), expires: time.UnixMilli(msg.ExpiresMs),
	}
	if r.expires.Sub(r.issued) > v.life {
		return nil, errRecordTime
	}
	return r, nil
}

// key returns the key under which the record belongs.
func (v *recordRules) key(st *identity.Statement) string {
	if v.vouched {
		return userRecordKey(v.app, st.User)
	}
	return keyRecordKey(v.app, st.UserKey.Fingerprint())
}

// check opens a record and checks its time and its key. Clocks may differ; the store ages records
// exactly, by its own clock.
func (v *recordRules) check(key string, sealed []byte, now time.Time) (*record, error) {
	r, err := v.open(sealed, now)
	switch {
	case err != nil:
		return nil, err
	case v.key(r.st) != key:
		return nil, errRecordKey
	case r.issued.After(now.Add(identity.MaxSkew)), !r.expires.Add(identity.MaxSkew).After(now):
		return nil, errRecordTime
	}
	return r, nil
}

// Validate implements the DHT's validator interface.
func (v *recordRules) Validate(key string, value []byte) error {
	if !strings.HasPrefix(key, "/"+recordSpace+"/") {
		return errRecordKey
	}
	_, err := v.check(key, value, time.Now())
	return err
}

// Select returns the index of the newest record. Among equal ones that is the first; otherwise a
// record that is stored again would be refused, and age out.
func (v *recordRules) Select(_ string, values [][]byte) (int, error) {
	var best *record
	at := -1
	for i, value := range values {
		r, err := v.open(value, time.Now())
		if err != nil {
			continue
		}
		if best == nil || !bytes.Equal(best.sealed, r.sealed) && r.newer(best) {
			best, at = r, i
		}
	}
	if at < 0 {
		return 0, errRecordForm
	}
	return at, nil
}
