package dht

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	record2 "github.com/libp2p/go-libp2p-record"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
)

// draft is a record that a case may spoil before it is sealed and stored.
type draft struct {
	st     identity.Statement
	keys   *identity.Keys
	signer ed25519.PrivateKey // signs the record; the device's key, unless a case changes it
	domain string
	rec    wire.Record
	// Changes the sealed bytes; nil: no change.
	sealed func([]byte) []byte
	key    string // under which it is stored
}

func (d *draft) seal(t *testing.T) []byte {
	t.Helper()
	st, err := d.keys.Sign(d.st)
	require.NoError(t, err)
	if d.rec.Statement == nil {
		d.rec.Statement = st.Sealed()
	}
	body, err := proto.Marshal(&d.rec)
	require.NoError(t, err)
	out := wire.Seal(d.domain, d.signer, body)
	if d.sealed != nil {
		out = d.sealed(out)
	}
	return out
}

// newDraft returns a record of a log-in made now.
func newDraft(app identity.AppID, keys *identity.Keys, user, token string) *draft {
	now := time.Now()
	return &draft{
		st: identity.Statement{
			App: app, User: user, Sequence: uint64(now.UnixMilli()), LoggedIn: true, Issued: now, Expires: now.Add(time.Hour), Token: token,
		},
		keys: keys, signer: keys.Device, domain: wire.DomainRecord,
		rec: wire.Record{IssuedMs: now.UnixMilli(), ExpiresMs: now.Add(3 * time.Minute).UnixMilli(), Addrs: [][]byte{{4, 192, 0, 2, 7, 6, 15, 161}}},
	}
}

// recordCase is a record that a node of the directory accepts (want is nil) or refuses.
type recordCase struct {
	name  string
	spoil func(*draft)
	want  error
}

// spoilt returns the cases that do not depend on the mode.
func spoilt() []recordCase {
	byMinutes := func(n int64) int64 { return n * time.Minute.Milliseconds() }
	return []recordCase{
		{"a log-in", func(*draft) {}, nil},
		{"without addresses", func(d *draft) { d.rec.Addrs = nil }, nil},
		{"an address that makes no sense here", func(d *draft) { d.rec.Addrs = [][]byte{{0xff, 0xff}} }, nil},
		{"sixteen addresses of 256 bytes", func(d *draft) { d.rec.Addrs = manyAddrs(16, 256) }, nil},
		{"a tombstone", func(d *draft) { d.st.LoggedIn = false }, nil},
		{"a field of a later version", func(d *draft) { d.rec.ProtoReflect().SetUnknown([]byte{0xfa, 0x07, 2, 'h', 'i'}) }, nil},
		{"a clock 2 min ahead", func(d *draft) { d.rec.IssuedMs += byMinutes(2); d.rec.ExpiresMs += byMinutes(2) }, nil},
		{"a sequence 2 min ahead", func(d *draft) { d.st.Sequence += uint64(byMinutes(2)) }, nil},

		{"no bytes", func(d *draft) { d.sealed = func([]byte) []byte { return nil } }, ErrForm},
		{"a signature and nothing else", func(d *draft) { d.sealed = func(b []byte) []byte { return b[:64] } }, ErrForm},
		{"cut off", func(d *draft) { d.sealed = func(b []byte) []byte { return b[:len(b)-1] } }, ErrForm},
		{"a bit altered", func(d *draft) { d.sealed = func(b []byte) []byte { b[0] ^= 1; return b } }, identity.ErrSignature},
		{"signed by another device", func(d *draft) { d.signer = seeded(99) }, identity.ErrSignature},
		{"signed as something else", func(d *draft) { d.domain = wire.DomainStatement }, identity.ErrSignature},
		{"over 12,480 bytes", func(d *draft) { d.rec.ProtoReflect().SetUnknown(padding(12_480)) }, ErrSize},
		{"seventeen addresses", func(d *draft) { d.rec.Addrs = manyAddrs(17, 8) }, ErrSize},
		{"no statement", func(d *draft) { d.rec.Statement = []byte{} }, anyError},
		{"a sequence in the future", func(d *draft) { d.st.Sequence += uint64(byMinutes(3)) }, identity.ErrClock},
		{"a statement of the future", func(d *draft) { d.st.Issued = d.st.Issued.Add(3 * time.Minute) }, identity.ErrClock},
		{"a statement of the past", func(d *draft) {
			d.st.Issued = d.st.Issued.Add(-2 * time.Hour)
			d.st.Expires = d.st.Expires.Add(-2 * time.Hour)
		}, identity.ErrExpired},
		{"another app", func(d *draft) { d.st.App = identity.NewAppID("other") }, identity.ErrOtherApp},
		{"made 3 min ahead", func(d *draft) { d.rec.IssuedMs += byMinutes(3); d.rec.ExpiresMs += byMinutes(3) }, ErrTime},
		{"expired 3 min ago", func(d *draft) { d.rec.IssuedMs -= byMinutes(6); d.rec.ExpiresMs -= byMinutes(6) }, ErrTime},
		{"for more than 3 min", func(d *draft) { d.rec.ExpiresMs++ }, ErrTime},
		{"expired when it was made", func(d *draft) { d.rec.ExpiresMs = d.rec.IssuedMs }, ErrForm},
		{"without times", func(d *draft) { d.rec.IssuedMs, d.rec.ExpiresMs = 0, 0 }, ErrForm},
		{"under nobody's key", func(d *draft) { d.key = "/starling/" + strings.Repeat("a", 52) }, ErrKey},
		{"under no key of ours", func(d *draft) { d.key = "/pk/" + strings.Repeat("a", 52) }, anyError},
	}
}

func TestARecordIsJudgedByTheClockOfTheNodeThatJudges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wrong meshtest.Clock
		keys := &identity.Keys{Device: seeded(50), User: seeded(51)}
		d, err := New(Config{
			Host: meshtest.New(t, meshtest.Options{Hosts: 1}).Host(0), App: testApp, Keys: keys, Verifier: identity.NewVerifier(testApp),
			Clock: walltime.From(wrong.Now), Scopes: []Scope{LAN}, Log: slog.New(slog.DiscardHandler),
		}, &node{keys: keys})
		require.NoError(t, err)
		defer d.Close()
		rules := d.Instances()[0].Rules
		sealed := newDraft(testApp, keys, "alice", "").seal(t)
		for _, c := range []struct {
			ahead time.Duration
			want  error
		}{
			{0, nil},
			{-119 * time.Second, nil},
			{-3 * time.Hour, identity.ErrClock},
			{4 * time.Minute, nil},
			{6 * time.Minute, ErrTime},
			{3 * time.Hour, identity.ErrExpired},
		} {
			wrong.Set(c.ahead)
			err := rules.Validate(KeyOfKey(testApp, keys.UserKey().Fingerprint()), sealed)
			require.ErrorIs(t, err, c.want, "%v ahead", c.ahead)
			_, err = rules.Select("", [][]byte{sealed})
			require.Equal(t, c.want == nil || c.want == ErrTime, err == nil, "%v ahead: %v; the record's own time is for Validate", c.ahead, err)
		}
	})
}

// anyError stands for an error that does not matter.
var anyError = errors.ErrUnsupported

// refuses tries every case on b's node of the directory; a stores it as a hostile node would. fresh
// makes the record that a case spoils.
func refuses(t *testing.T, a, b *node, cases []recordCase, fresh func() *draft) {
	t.Helper()
	for _, c := range cases {
		d := fresh()
		c.spoil(d)
		sealed := d.seal(t)
		err := b.first().Rules.Validate(d.key, sealed)
		stored := a.first().rpc.PutValue(context.Background(), b.id, record2.MakePutRecord(d.key, sealed))
		kept := b.kept(d.key)
		if c.want == nil {
			require.NoError(t, err, c.name)
			require.NoError(t, stored, c.name)
			require.Equal(t, sealed, kept, c.name)
		} else {
			if c.want != anyError {
				require.ErrorIs(t, err, c.want, c.name)
			}
			require.Error(t, err, c.name)
			require.Error(t, stored, c.name)
			require.NotEqual(t, sealed, kept, c.name)
		}
		// Everything kept has lapsed, even from a clock that is ahead.
		time.Sleep(3 * time.Minute)
	}
}

func manyAddrs(n, size int) (out [][]byte) {
	for i := range n {
		out = append(out, bytes.Repeat([]byte{byte(i)}, size))
	}
	return out
}

// padding returns an unknown field of that many bytes.
func padding(n int) []byte {
	return append([]byte{0xfa, 0x07, byte(n&0x7f | 0x80), byte(n >> 7)}, make([]byte, n)...)
}

func TestRecordsInOpenModeAreTakenOrRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil)
		defer r.close()
		r.net.Connect(0, 1)
		time.Sleep(10 * time.Second)
		keys := &identity.Keys{Device: seeded(50), User: seeded(51)}
		other := &identity.Keys{Device: seeded(52), User: seeded(53)}
		keyOf := func(k *identity.Keys) string { return KeyOfKey(testApp, k.UserKey().Fingerprint()) }
		cases := append(spoilt(), []recordCase{
			{"another device of the user", func(d *draft) {
				d.keys = (&identity.Keys{Device: seeded(54), User: seeded(54)}).WithUser(keys.User)
				d.signer = d.keys.Device
			}, nil},
			{"another name of the user", func(d *draft) { d.st.User = "bob" }, nil},
			{"another user's under this key", func(d *draft) { d.keys, d.signer = other, other.Device }, ErrKey},
			{"under another user's key", func(d *draft) { d.key = keyOf(other) }, ErrKey},
			{"under the name, as in app mode", func(d *draft) { d.key = KeyOfUser(testApp, "alice") }, ErrKey},
			{"under the key of another app", func(d *draft) {
				d.key = KeyOfKey(identity.NewAppID("other"), keys.UserKey().Fingerprint())
			}, ErrKey},
			// In open mode nobody can judge it, and it means nothing.
			{"with a token", func(d *draft) { d.st.Token = token(t, keys, "alice", time.Hour) }, nil},
		}...)
		refuses(t, r.nodes[0], r.nodes[1], cases, func() *draft {
			d := newDraft(testApp, keys, "alice", "")
			d.key = keyOf(keys)
			return d
		})
	})
}

func TestRecordsInAppModeAreTakenOrRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := authority(t)
		r := newRig(t, 2, authority)
		defer r.close()
		r.net.Connect(0, 1)
		time.Sleep(10 * time.Second)
		app := authority.App()
		keys := &identity.Keys{Device: seeded(50), User: seeded(51)}
		other := &identity.Keys{Device: seeded(52), User: seeded(53)}
		revoked := token(t, keys, "alice", 10*time.Hour, func(c *identity.Claims) { c.ID = "stolen" })
		list, err := issuer(t, issuerKey).Revoke(identity.Revocations{
			Version: 1, Issued: time.Now(), Tokens: map[string]time.Time{"stolen": time.Now().Add(10 * time.Hour)},
		})
		require.NoError(t, err)
		_, err = authority.Revoke(list)
		require.NoError(t, err)

		with := func(make func() string) func(*draft) { return func(d *draft) { d.st.Token = make() } }
		cases := append(spoilt(), []recordCase{
			{"another user key of the user", func(d *draft) {
				d.keys = &identity.Keys{Device: seeded(50), User: seeded(55)}
			}, nil},
			{"another device of the user, with its own token", func(d *draft) {
				d.keys, d.signer = other, other.Device
				d.st.Token = token(t, other, "alice", time.Hour)
			}, nil},
			{"a token in its leeway", with(func() string { return token(t, keys, "alice", -time.Minute) }), nil},
			{"a tombstone whose token has expired", func(d *draft) { // it still proves whose log-out it is
				d.st.LoggedIn = false
				d.st.Token = token(t, keys, "alice", -time.Hour)
			}, nil},

			{"no token", with(func() string { return "" }), identity.ErrTokenMissing},
			{"a tombstone without a token", func(d *draft) { d.st.LoggedIn, d.st.Token = false, "" }, ErrMark},
			{"a tombstone with another's token", func(d *draft) {
				d.st.LoggedIn, d.st.Token = false, token(t, other, "alice", time.Hour)
			}, ErrMark},
			{"a foreign issuer", with(func() string { return tokenBy(t, seeded(78), keys, "alice", time.Hour) }), identity.ErrTokenIssuer},
			{"an expired token", with(func() string { return token(t, keys, "alice", -3*time.Minute) }), identity.ErrTokenExpired},
			{"a token that has not begun", with(func() string {
				return token(t, keys, "alice", time.Hour, func(c *identity.Claims) { c.Begins = c.Issued.Add(3 * time.Minute) })
			}), identity.ErrTokenNotYetValid},
			{"an unbound token", with(func() string { return unbound("alice") }), identity.ErrTokenUnbound},
			{"a token of another device", with(func() string { return token(t, other, "alice", time.Hour) }), identity.ErrTokenDevice},
			{"a token of another user", with(func() string { return token(t, keys, "bob", time.Hour) }), identity.ErrTokenUser},
			{"a token for a room alone", with(func() string {
				return token(t, keys, "alice", time.Hour, func(c *identity.Claims) { c.Rooms = map[string]string{"ops": "member"} })
			}), identity.ErrTokenPurpose},
			{"a revoked token", with(func() string { return revoked }), identity.ErrTokenRevoked},
			{"no token at all", with(func() string { return "x" }), identity.ErrTokenMalformed},
			{"another user's under this key", func(d *draft) {
				d.st.User, d.st.Token = "bob", token(t, keys, "bob", time.Hour)
			}, ErrKey},
			{"under another user's key", func(d *draft) { d.key = KeyOfUser(app, "bob") }, ErrKey},
			{"under the user key, as in open mode", func(d *draft) {
				d.key = KeyOfKey(app, keys.UserKey().Fingerprint())
			}, ErrKey},
			{"under the key of the app without issuers", func(d *draft) {
				d.key = KeyOfUser(identity.NewAppID(acme), "alice")
			}, ErrKey},
			{"of the app without issuers", func(d *draft) { d.st.App = identity.NewAppID(acme) }, identity.ErrOtherApp},
		}...)
		refuses(t, r.nodes[0], r.nodes[1], cases, func() *draft {
			d := newDraft(app, keys, "alice", token(t, keys, "alice", time.Hour))
			d.key = KeyOfUser(app, "alice")
			return d
		})
	})
}

// unbound returns a token of the test's issuer that names no device.
func unbound(user string) string {
	part := base64.RawURLEncoding.EncodeToString
	text := part([]byte(`{"alg":"EdDSA","kid":"`+identity.NewIssuerKey(public(issuerKey)).Kid+`"}`)) + "." +
		part([]byte(`{"aud":"`+acme+`","sub":"`+user+`","exp":4102444800}`))
	return text + "." + part(ed25519.Sign(issuerKey, []byte(text)))
}
