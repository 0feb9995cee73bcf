package vectors

import (
	"bytes"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// recordLife is the life of records on a LAN.
const recordLife = 3 * time.Minute

// recordDraft is a record to be changed before it is signed.
type recordDraft struct {
	wire.Record
	place  Place
	signer ed25519.PrivateKey
	domain string
}

func makeRecords(t *testing.T) Records {
	tokens := makeTokens(t)
	issued := identity.AppID(tokens.App)
	token := tokens.Accepted[0].Token
	out := Records{
		About: "Records of the directory. See Directory in PROTOCOL.md. at_ms is when they are judged; app_mode is with the issuers of token.json.",
		AtMS:  at.UnixMilli(), LifeMS: recordLife.Milliseconds(),
	}
	for _, id := range []identity.AppID{app, issued} {
		tag := dhtTag(id[:])
		out.Apps = append(out.Apps, RecordApp{
			App: id[:], Tag: tag, LAN: "/starling/dht/" + tag + "/lan/kad/1.0.0", WAN: "/starling/dht/" + tag + "/wan/kad/1.0.0",
		})
		for _, k := range []RecordKey{
			{Purpose: "user", Of: "alice"}, {Purpose: "key", Of: alice.UserKey().Fingerprint()}, {Purpose: "name", Of: "alice"},
		} {
			k.App, k.Hash = id[:], dhtHash(id[:], k.Purpose, k.Of)
			if k.Key = Hex(recordPath(k.Hash)); k.Purpose == "name" {
				k.Key = append([]byte{0x12, 0x20}, k.Hash...)
			}
			out.Keys = append(out.Keys, k)
		}
	}
	open := Place{App: app[:], Key: recordPath(dhtHash(app[:], "key", alice.UserKey().Fingerprint()))}
	vouched := Place{App: issued[:], AppMode: true, Key: recordPath(dhtHash(issued[:], "user", "alice"))}
	sign := func(keys *identity.Keys, id identity.AppID, token string, in bool) []byte {
		st, err := keys.Sign(identity.Statement{
			App: id, User: "alice", Sequence: uint64(at.UnixMilli()), Issued: at, Expires: at.Add(day), LoggedIn: in, Token: token,
		})
		require.NoError(t, err)
		return st.Sealed()
	}
	fresh := func(place Place, statement []byte) *recordDraft {
		return &recordDraft{
			Record: wire.Record{
				Statement: statement, Addrs: addrs(t, aliceAddrs...), IssuedMs: at.UnixMilli(), ExpiresMs: at.Add(recordLife).UnixMilli(),
			},
			place: place, signer: alice.Device, domain: wire.DomainRecord,
		}
	}
	inOpen := func() *recordDraft { return fresh(open, login(t, alice, "alice", at, true).Sealed()) }
	inApp := func() *recordDraft { return fresh(vouched, sign(alice, issued, token, true)) }

	accept := func(name string, d *recordDraft, listen []string, later bool) Hex {
		body := marshal(t, &d.Record)
		if later {
			body = unknown(body)
		}
		sealed := wire.Seal(d.domain, d.signer, body)
		var st wire.Statement
		require.NoError(t, proto.Unmarshal(d.Statement[wire.SignatureSize:], &st))
		out.Accepted = append(out.Accepted, Record{
			Sealed: part(name, d.domain, d.signer, sealed), At: d.place, Statement: d.Statement, Addrs: listen,
			IssuedMS: d.IssuedMs, ExpiresMS: d.ExpiresMs, Tombstone: !st.LoggedIn,
		})
		return sealed
	}
	good := accept("a log-in in open mode", inOpen(), aliceAddrs, false)
	accept("a field of a later version", inOpen(), aliceAddrs, true)
	d := inOpen()
	d.Statement, d.Addrs = login(t, alice, "alice", at.Add(time.Second), false).Sealed(), nil
	tombstone := accept("a tombstone", d, nil, false)
	d = inOpen()
	d.IssuedMs += 120_000
	d.ExpiresMs += 120_000
	accept("made 2 min ahead", d, aliceAddrs, false)
	d = inOpen()
	d.IssuedMs -= 299_999
	d.ExpiresMs -= 299_999
	accept("expired not quite 2 min ago", d, aliceAddrs, false)
	d = inOpen()
	d.IssuedMs++
	again := accept("stored anew", d, aliceAddrs, false)
	d = fresh(Place{App: app[:], Key: recordPath(dhtHash(app[:], "key", bob.UserKey().Fingerprint()))}, login(t, bob, "bob", at, true).Sealed())
	d.signer = bob.Device
	accept("of a certified device", d, aliceAddrs, false)
	accept("a log-in in app mode", inApp(), aliceAddrs, false)
	d = inApp()
	d.Statement, d.Addrs = sign(alice, issued, token, false), nil
	accept("a tombstone in app mode", d, nil, false)

	refuse := func(name, why string, d *recordDraft, sealed []byte) {
		if sealed == nil {
			sealed = wire.Seal(d.domain, d.signer, marshal(t, &d.Record))
		}
		out.Refused = append(out.Refused, RefusedRecord{Refused: Refused{Name: name, Why: why, Sealed: sealed}, At: d.place})
	}
	var tampered cases
	tampered.tampered(t, good, wire.DomainRecord, wire.DomainStatement, alice.Device, carol.Device)
	for _, c := range tampered {
		switch c.Name {
		case "nothing":
			c.Sealed = Hex{}
		case "the last bit of the body altered":
			c.Why = "" // the change makes the record expire before it was issued
		}
		refuse(c.Name, c.Why, inOpen(), c.Sealed)
	}
	spoil := func(name, why string, fresh func() *recordDraft, alter func(*recordDraft)) {
		d := fresh()
		alter(d)
		refuse(name, why, d, nil)
	}
	spoil("17 addresses", "size", inOpen, func(d *recordDraft) { d.Addrs = make([][]byte, 17) })
	spoil("over 12480 bytes", "size", inOpen, func(d *recordDraft) { d.Addrs = [][]byte{make([]byte, 12_480)} })
	spoil("no times", "malformed", inOpen, func(d *recordDraft) { d.IssuedMs, d.ExpiresMs = 0, 0 })
	spoil("it expires when it is made", "malformed", inOpen, func(d *recordDraft) { d.ExpiresMs = d.IssuedMs })
	spoil("no statement", "malformed", inOpen, func(d *recordDraft) { d.Statement = nil })
	spoil("a statement with a bit altered", "signature", inOpen, func(d *recordDraft) { d.Statement = flip(d.Statement, 0) })
	spoil("the statement of another device", "signature", inOpen, func(d *recordDraft) { d.Statement = login(t, carol, "carol", at, true).Sealed() })
	spoil("an expired statement", "expired", inOpen, func(d *recordDraft) { d.Statement = login(t, alice, "alice", at.Add(-day), true).Sealed() })
	spoil("a statement made 3 min ahead", "clock", inOpen, func(d *recordDraft) {
		d.Statement = login(t, alice, "alice", at.Add(3*time.Minute), true).Sealed()
	})
	spoil("a statement of another app", "other app", inOpen, func(d *recordDraft) { d.Statement = sign(alice, issued, "", true) })
	spoil("for 1 ms too long", "time", inOpen, func(d *recordDraft) { d.ExpiresMs++ })
	spoil("made 2 min and 1 ms ahead", "time", inOpen, func(d *recordDraft) { d.IssuedMs += 120_001; d.ExpiresMs += 120_001 })
	spoil("expired 2 min ago", "time", inOpen, func(d *recordDraft) { d.IssuedMs -= 300_000; d.ExpiresMs -= 300_000 })
	spoil("under the key of another user key", "key", inOpen, func(d *recordDraft) {
		d.place.Key = recordPath(dhtHash(app[:], "key", carol.UserKey().Fingerprint()))
	})
	spoil("under the key of app mode", "key", inOpen, func(d *recordDraft) { d.place.Key = recordPath(dhtHash(app[:], "user", "alice")) })
	spoil("in app mode, without a token", "token", inApp, func(d *recordDraft) { d.Statement = sign(alice, issued, "", true) })
	spoil("in app mode, a tombstone without a token", "token", inApp, func(d *recordDraft) { d.Statement = sign(alice, issued, "", false) })
	spoil("in app mode, with the token of another device", "token", inApp, func(d *recordDraft) {
		d.Statement, d.signer = sign(carol, issued, token, true), carol.Device
	})
	spoil("in app mode, under the key of open mode", "key", inApp, func(d *recordDraft) {
		d.place.Key = recordPath(dhtHash(issued[:], "key", alice.UserKey().Fingerprint()))
	})
	spoil("in app mode, under the key of another user", "key", inApp, func(d *recordDraft) {
		d.place.Key = recordPath(dhtHash(issued[:], "user", "bob"))
	})
	require.False(t, bytes.Equal(good, again))
	out.Order = []Pair{{"the newer statement", tombstone, again}, {"of one statement, the record made later", again, good}}
	return out
}
