package vectors

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// login returns the statement that keys sign at a given time.
func login(t *testing.T, keys *identity.Keys, user string, issued time.Time, loggedIn bool) *identity.Statement {
	st, err := keys.Sign(identity.Statement{
		App: app, User: user, Sequence: uint64(at.UnixMilli()), Issued: issued, Expires: issued.Add(day), LoggedIn: loggedIn,
	})
	require.NoError(t, err)
	return st
}

// statement returns alice's statement, to be changed before it is signed.
func statement() *wire.Statement {
	return &wire.Statement{
		App: app[:], User: "alice", UserKey: public(alice.User), Device: public(alice.Device),
		Sequence: uint64(at.UnixMilli()), IssuedMs: at.UnixMilli(), ExpiresMs: at.Add(day).UnixMilli(), LoggedIn: true,
	}
}

// second makes a statement bob's: his device is certified by his user key.
func second(st *wire.Statement) {
	st.User, st.UserKey, st.Device, st.Certificate = "bob", public(bob.User), public(bob.Device), bob.Certificate()
}

func makeStatements(t *testing.T) Statements {
	out := Statements{
		About: "Sealed login statements. See Statements in PROTOCOL.md. at_ms is when they are judged.",
		App:   app[:], AtMS: at.UnixMilli(),
	}
	skew := identity.MaxSkew.Milliseconds()
	accept := func(name string, signer ed25519.PrivateKey, atMS int64, body []byte, st *wire.Statement) []byte {
		id, err := (&identity.Keys{Device: signer, User: signer}).PeerID().MarshalText()
		require.NoError(t, err)
		sealed := wire.Seal(wire.DomainStatement, signer, body)
		out.Accepted = append(out.Accepted, Statement{
			Sealed: part(name, wire.DomainStatement, signer, sealed), AtMS: atMS,
			User: st.User, UserKey: st.UserKey, Certificate: st.Certificate, Device: st.Device, PeerID: string(id),
			Sequence: st.Sequence, IssuedMS: st.IssuedMs, ExpiresMS: st.ExpiresMs, LoggedIn: st.LoggedIn, Token: st.Token,
		})
		return sealed
	}
	make1 := func(alter func(*wire.Statement)) (*wire.Statement, []byte) {
		st := statement()
		alter(st)
		return st, marshal(t, st)
	}
	with := func(name string, atMS int64, signer ed25519.PrivateKey, alter func(*wire.Statement)) []byte {
		st, body := make1(alter)
		return accept(name, signer, atMS, body, st)
	}
	good := with("one key, logged in", 0, alice.Device, func(*wire.Statement) {})
	require.Equal(t, login(t, alice, "alice", at, true).Sealed(), good, "the code makes the same")
	bobs := with("a device that the user key has certified, not logged in", 0, bob.Device, func(st *wire.Statement) {
		second(st)
		st.LoggedIn = false
	})
	require.Equal(t, login(t, bob, "bob", at, false).Sealed(), bobs, "the code makes the same")
	with("a user ID of 128 characters", 0, alice.Device, func(st *wire.Statement) { st.User = strings.Repeat("aZ9_@.-x", 16) })
	with("a token", 0, alice.Device, func(st *wire.Statement) { st.Token = "header.claims.signature" })
	with("issued 2 min ahead", 0, alice.Device, func(st *wire.Statement) { st.IssuedMs += skew })
	with("a sequence 2 min ahead", 0, alice.Device, func(st *wire.Statement) { st.Sequence += uint64(skew) })
	with("1 ms before its end", at.Add(day).UnixMilli()-1, alice.Device, func(*wire.Statement) {})
	st, body := make1(func(*wire.Statement) {})
	accept("a field of a later version", alice.Device, 0, unknown(body), st)
	accept("the fields in another order", alice.Device, 0, reversed(t, body), st)

	bad := cases(out.Refused)
	bad.tampered(t, good, wire.DomainStatement, wire.DomainRoster, alice.Device, carol.Device)
	refuse := func(name, why string, signer ed25519.PrivateKey, alter func(*wire.Statement)) {
		_, body := make1(alter)
		bad.add(name, why, wire.Seal(wire.DomainStatement, signer, body))
	}
	refuse("certified by another user key than the one named", "signature", bob.Device, func(st *wire.Statement) {
		second(st)
		st.UserKey = public(alice.User)
	})
	refuse("a certificate of another device", "signature", carol.Device, func(st *wire.Statement) {
		second(st)
		st.Device = public(carol.Device)
	})
	refuse("no certificate", "malformed", bob.Device, func(st *wire.Statement) { second(st); st.Certificate = nil })
	refuse("a certificate of 63 bytes", "malformed", bob.Device, func(st *wire.Statement) { second(st); st.Certificate = st.Certificate[:63] })
	refuse("a certificate that one key does not need", "malformed", alice.Device, func(st *wire.Statement) {
		st.Certificate = wire.Sign(wire.DomainDevice, alice.User, st.Device)
	})
	refuse("another app", "other app", alice.Device, func(st *wire.Statement) { st.App = flip(st.App, 0) })
	refuse("an app ID of 31 bytes", "malformed", alice.Device, func(st *wire.Statement) { st.App = st.App[:31] })
	refuse("a user key of 31 bytes", "malformed", alice.Device, func(st *wire.Statement) { st.UserKey = st.UserKey[:31] })
	refuse("a device key of 31 bytes", "malformed", alice.Device, func(st *wire.Statement) { st.Device = st.Device[:31] })
	refuse("an empty user ID", "malformed", alice.Device, func(st *wire.Statement) { st.User = "" })
	refuse("a user ID of 129 characters", "malformed", alice.Device, func(st *wire.Statement) { st.User = strings.Repeat("a", 129) })
	refuse("a user ID with a space", "malformed", alice.Device, func(st *wire.Statement) { st.User = "al ice" })
	refuse("a user ID with #", "malformed", alice.Device, func(st *wire.Statement) { st.User = "alice#x" })
	refuse("a user ID with a letter outside ASCII", "malformed", alice.Device, func(st *wire.Statement) { st.User = "ælice" })
	refuse("no sequence", "malformed", alice.Device, func(st *wire.Statement) { st.Sequence = 0 })
	refuse("no time of issue", "malformed", alice.Device, func(st *wire.Statement) { st.IssuedMs = 0 })
	refuse("expires when it is issued", "malformed", alice.Device, func(st *wire.Statement) { st.ExpiresMs = st.IssuedMs })
	refuse("expires after the year 9999", "malformed", alice.Device, func(st *wire.Statement) { st.ExpiresMs = 253402300800000 })
	refuse("issued 2 min and 1 ms ahead", "clock", alice.Device, func(st *wire.Statement) { st.IssuedMs += skew + 1 })
	refuse("a sequence 2 min and 1 ms ahead", "clock", alice.Device, func(st *wire.Statement) { st.Sequence += uint64(skew) + 1 })
	refuse("the highest sequence", "clock", alice.Device, func(st *wire.Statement) { st.Sequence = math.MaxUint64 })
	refuse("over 8192 bytes", "size", alice.Device, func(st *wire.Statement) { st.Token = strings.Repeat("x", 8<<10) })
	bad.add("a wire type that does not exist", "malformed", wire.Seal(wire.DomainStatement, alice.Device, append(marshal(t, statement()), 0xff, 0x07)))
	bad = append(bad, Refused{Name: "at its end", Why: "expired", Sealed: good, AtMS: at.Add(day).UnixMilli()})
	out.Refused = bad

	seal := func(keys *identity.Keys, issued time.Time, sequence uint64, loggedIn bool) Hex {
		st, err := keys.Sign(identity.Statement{
			App: app, User: "alice", Sequence: sequence, Issued: issued, Expires: issued.Add(day), LoggedIn: loggedIn,
		})
		require.NoError(t, err)
		return st.Sealed()
	}
	elsewhere := alice.WithUser(alice.User)
	elsewhere.Device = carol.Device
	seq := uint64(at.UnixMilli())
	low, high := alice, elsewhere
	if low.PeerID() > high.PeerID() {
		low, high = high, low
	}
	out.Order = []Pair{
		{"the higher sequence", seal(low, at, seq, true), seal(high, at.Add(time.Minute), seq-1, true)},
		{"one sequence: the higher peer ID", seal(high, at, seq, true), seal(low, at.Add(time.Minute), seq, true)},
		{"one device and sequence: issued later, a log-out", seal(low, at.Add(time.Millisecond), seq, false), seal(low, at, seq, true)},
	}
	return out
}

// reversed returns a protobuf message with its fields in reverse order, which is the same message.
func reversed(t *testing.T, body []byte) (out []byte) {
	for len(body) > 0 {
		_, _, n := protowire.ConsumeField(body)
		require.Positive(t, n)
		out = slices.Concat(body[:n], out)
		body = body[n:]
	}
	return out
}

func makeHello(t *testing.T) Hello {
	out := Hello{
		About: "One exchange of hellos: alice has dialled bob. See Hello in PROTOCOL.md.",
		App:   app[:], AtMS: at.UnixMilli(),
	}
	a, b := alice.PeerID(), bob.PeerID()
	party := func(keys *identity.Keys, user string, loggedIn bool, nonce byte, listen []string, incarnation uint64) (Party, *wire.Hello) {
		p := Party{
			PeerID: keys.PeerID().String(), Statement: login(t, keys, user, at, loggedIn).Sealed(), Incarnation: incarnation,
			MaxEnvelope: wire.MaxEnvelope, MaxMessage: wire.MaxMessage, GraceMS: 10_000,
			Rates: Rates{DirectMessages: 100, BroadcastMessages: 65, BroadcastBytes: 1 << 32, RoomMessages: 100, LargeRoomMessages: 80},
			Nonce: bytes.Repeat([]byte{nonce}, 16), Addrs: listen,
		}
		return p, &wire.Hello{
			App: app[:], Statement: p.Statement, Incarnation: p.Incarnation, MaxEnvelope: p.MaxEnvelope,
			Limits: &wire.Limits{MaxMessage: p.MaxMessage, GraceMs: &p.GraceMS, Rates: &wire.Rates{
				DirectMessages: p.Rates.DirectMessages, DirectBytes: p.Rates.DirectBytes,
				BroadcastMessages: p.Rates.BroadcastMessages, BroadcastBytes: p.Rates.BroadcastBytes,
				RoomMessages: p.Rates.RoomMessages, LargeRoomMessages: p.Rates.LargeRoomMessages,
			}},
			Nonce: p.Nonce, Addrs: addrs(t, listen...),
		}
	}
	var ah, bh *wire.Hello
	out.Initiator, ah = party(alice, "alice", true, 0x11, aliceAddrs, 0x0102030405060708)
	out.Responder, bh = party(bob, "bob", false, 0x22, bobAddrs, math.MaxUint64)
	prove := func(keys *identity.Keys, nonce, statement []byte) Proof {
		signed := transcript(nonce, statement, a, b)
		return Proof{
			Key: public(keys.Device), Signed: append([]byte(wire.DomainHello), signed...),
			Signature: wire.Sign(wire.DomainHello, keys.Device, signed),
		}
	}
	out.Initiator.Proof = prove(alice, bh.Nonce, ah.Statement)
	out.Responder.Proof = prove(bob, ah.Nonce, bh.Statement)
	out.Frames = HelloFrames{
		Hello: frame(t, ah),
		Reply: frame(t, &wire.HelloReply{Hello: bh, Proof: out.Responder.Proof.Signature}),
		Proof: frame(t, &wire.HelloProof{Proof: out.Initiator.Proof.Signature}),
	}
	_, bye := party(alice, "alice", false, 0x33, aliceAddrs, out.Initiator.Incarnation)
	bye.Closing = true
	out.Frames.Goodbye = frame(t, bye)
	out.Anonymous = prove(alice, bh.Nonce, nil)

	good := out.Initiator.Proof
	sign := func(k ed25519.PrivateKey, domain string, signed []byte) Hex { return wire.Sign(domain, k, signed) }
	for _, c := range []struct {
		name string
		sig  Hex
	}{
		{"one bit altered", flip(good.Signature, 5)},
		{"empty", nil},
		{"the responder's own proof, reflected", out.Responder.Proof.Signature},
		{"signed by another device", sign(carol.Device, wire.DomainHello, transcript(bh.Nonce, ah.Statement, a, b))},
		{"signed by the user key instead of the device key", sign(bob.User, wire.DomainHello, transcript(bh.Nonce, ah.Statement, a, b))},
		{"over the own nonce", sign(alice.Device, wire.DomainHello, transcript(ah.Nonce, ah.Statement, a, b))},
		{"over another statement", sign(alice.Device, wire.DomainHello, transcript(bh.Nonce, bh.Statement, a, b))},
		{"with the peer IDs exchanged", sign(alice.Device, wire.DomainHello, transcript(bh.Nonce, ah.Statement, b, a))},
		{"made for another responder", sign(alice.Device, wire.DomainHello, transcript(bh.Nonce, ah.Statement, a, carol.PeerID()))},
		{"under another prefix", sign(alice.Device, wire.DomainDevice, transcript(bh.Nonce, ah.Statement, a, b))},
	} {
		out.Refused = append(out.Refused, BadProof{c.name, c.sig})
	}
	for _, r := range []struct {
		name string
		code wire.Refusal_Code
		text string
	}{
		{"another app", wire.Refusal_OTHER_APP, "it is a node of another app"},
		{"a statement that does not hold", wire.Refusal_BAD_STATEMENT, "its statement: expired 3s ago"},
	} {
		out.Refusals = append(out.Refusals, Refusal{
			Name: r.name, Frame: frame(t, &wire.HelloReply{Refusal: &wire.Refusal{Code: r.code, Text: r.text}}),
			Code: uint32(r.code), Text: r.text,
		})
	}
	return out
}

// transcript returns what a proof of hello signs, without the domain prefix.
func transcript(nonce, statement []byte, initiator, responder peer.ID) []byte {
	sum := sha256.Sum256(statement)
	return slices.Concat(nonce, sum[:], []byte(initiator), []byte(responder))
}

func makeDirectory(t *testing.T) (out Directory) {
	out.About = "Frames of whois, notice and watch. See Whois, Notice and Watch in PROTOCOL.md."
	st := login(t, bob, "bob", at, true).Sealed()
	out.Request.App, out.Request.User, out.Request.UserKey = app[:], "bob", public(bob.User)
	out.Request.Frame = frame(t, &wire.WhoisRequest{App: app[:], User: "bob", UserKey: out.Request.UserKey})
	out.Reply.Found = []Located{{Statement: st, Addrs: bobAddrs}}
	out.Reply.Frame = frame(t, &wire.WhoisReply{Found: []*wire.Located{{Statement: st, Addrs: addrs(t, bobAddrs...)}}})
	out.Notice.Statement = st
	out.Notice.Frame = frame(t, &wire.Notice{Statement: st})
	out.Watch.App, out.Watch.Statement = app[:], st
	out.Watch.Request = frame(t, &wire.WatchRequest{App: app[:]})
	out.Watch.Frame = frame(t, &wire.WatchFrame{Statement: st})
	out.Watch.Beat = frame(t, new(wire.WatchFrame))
	return out
}

// entry returns alice's roster entry, to be changed before it is signed.
func entry(t *testing.T) *wire.RosterEntry {
	return &wire.RosterEntry{
		Statement: login(t, alice, "alice", at, true).Sealed(), Room: ops[:], Feed: feedA, Sequence: uint64(at.UnixMilli()),
		State: wire.RosterEntry_JOINED, Info: []byte("at lunch"), Addrs: addrs(t, aliceAddrs...),
	}
}

func makeRoster(t *testing.T) Roster {
	out := Roster{
		About: "Sealed roster entries, the digest of a roster, and frames of the room protocol. See Rosters in PROTOCOL.md.",
		App:   app[:], Room: ops[:], AtMS: at.UnixMilli(),
	}
	accept := func(name string, signer ed25519.PrivateKey, body []byte, e *wire.RosterEntry, listen []string) Hex {
		sealed := wire.Seal(wire.DomainRoster, signer, body)
		out.Accepted = append(out.Accepted, Entry{
			Sealed: part(name, wire.DomainRoster, signer, sealed), Statement: e.Statement, Feed: e.Feed, Sequence: e.Sequence,
			Joined: e.State == wire.RosterEntry_JOINED, Info: e.Info, Addrs: listen,
		})
		return sealed
	}
	e := entry(t)
	alices := accept("joined", alice.Device, marshal(t, e), e, aliceAddrs)
	bobs := &wire.RosterEntry{
		Statement: login(t, bob, "bob", at, false).Sealed(), Room: ops[:], Feed: feedB, Sequence: uint64(at.UnixMilli()) + 7,
		State: wire.RosterEntry_JOINED,
	}
	bobsSealed := accept("joined, not logged in, with nothing to show", bob.Device, marshal(t, bobs), bobs, nil)
	carols := &wire.RosterEntry{
		Statement: login(t, carol, "carol", at, true).Sealed(), Room: ops[:], Feed: feedC, Sequence: uint64(at.UnixMilli()) + 9,
		State: wire.RosterEntry_LEFT,
	}
	carolsSealed := accept("left", carol.Device, marshal(t, carols), carols, nil)
	e = entry(t)
	e.Info = bytes.Repeat([]byte{0xff}, 200)
	accept("200 bytes of user information", alice.Device, marshal(t, e), e, aliceAddrs)
	e = entry(t)
	accept("a field of a later version", alice.Device, unknown(marshal(t, e)), e, aliceAddrs)
	e = entry(t)
	e.Sequence += uint64(identity.MaxSkew.Milliseconds())
	accept("a sequence 2 min ahead", alice.Device, marshal(t, e), e, aliceAddrs)

	var bad cases
	bad.tampered(t, alices, wire.DomainRoster, wire.DomainEnvelope, alice.Device, carol.Device)
	refuse := func(name, why string, alter func(*wire.RosterEntry)) {
		e := entry(t)
		alter(e)
		bad.add(name, why, wire.Seal(wire.DomainRoster, alice.Device, marshal(t, e)))
	}
	refuse("another room", "other room", func(e *wire.RosterEntry) { e.Room = flip(e.Room, 0) })
	refuse("no room", "other room", func(e *wire.RosterEntry) { e.Room = nil })
	refuse("a feed of 15 bytes", "malformed", func(e *wire.RosterEntry) { e.Feed = e.Feed[:15] })
	refuse("no sequence", "malformed", func(e *wire.RosterEntry) { e.Sequence = 0 })
	refuse("a sequence 2 min and 1 ms ahead", "clock", func(e *wire.RosterEntry) { e.Sequence += uint64(identity.MaxSkew.Milliseconds()) + 1 })
	refuse("no state", "malformed", func(e *wire.RosterEntry) { e.State = 0 })
	refuse("a state of a later version", "malformed", func(e *wire.RosterEntry) { e.State = 3 })
	refuse("201 bytes of user information", "malformed", func(e *wire.RosterEntry) { e.Info = bytes.Repeat([]byte{1}, 201) })
	refuse("no statement", "malformed", func(e *wire.RosterEntry) { e.Statement = nil })
	refuse("a statement with a bit altered", "signature", func(e *wire.RosterEntry) { e.Statement = flip(e.Statement, 70) })
	refuse("the statement of another device", "signature", func(e *wire.RosterEntry) { e.Statement = login(t, carol, "carol", at, true).Sealed() })
	refuse("an expired statement", "expired", func(e *wire.RosterEntry) { e.Statement = login(t, alice, "alice", at.Add(-day), true).Sealed() })
	refuse("over 20480 bytes", "size", func(e *wire.RosterEntry) { e.Token = strings.Repeat("x", 20<<10) })
	out.Refused = bad

	older := entry(t)
	older.Sequence--
	olderSealed := wire.Seal(wire.DomainRoster, alice.Device, marshal(t, older))
	out.Order = []Pair{{"the higher sequence", alices, olderSealed}}

	out.Digest.Entries = []Hex{carolsSealed, bobsSealed, alices}
	for _, m := range []struct {
		device, feed []byte
		sequence     uint64
	}{{public(alice.Device), feedA, uint64(at.UnixMilli())}, {public(bob.Device), feedB, uint64(at.UnixMilli()) + 7}} {
		out.Digest.Hashed = slices.Concat(out.Digest.Hashed, m.device, m.feed, binary.BigEndian.AppendUint64(nil, m.sequence))
	}
	digest := sha256.Sum256(out.Digest.Hashed)
	out.Digest.Digest = digest[:]

	_, heads := makeHeads()
	names := [][32]byte{sha256.Sum256(alices), sha256.Sum256(bobsSealed)}
	out.Greeting = Greeting{
		Entry: bobsSealed, Digest: digest[:], Reply: true, Heads: heads, PastAgeMS: 90_250, PastCount: 7, Known: []Hex{names[0][:8], names[1][:8]},
		ClockMS: uint64(at.UnixMilli()),
	}
	out.Greeting.Frame = frame(t, &wire.RoomFrame{Room: ops[:], Body: &wire.RoomFrame_Greeting_{Greeting: &wire.RoomFrame_Greeting{
		Entry: bobsSealed, Digest: digest[:], Reply: true, Heads: heads, Past: &wire.Past{AgeMs: 90_250, Count: 7},
		Known: slices.Concat(names[0][:8], names[1][:8]), ClockMs: out.Greeting.ClockMS,
	}}})
	out.Query = frame(t, &wire.RoomFrame{Room: ops[:], Body: &wire.RoomFrame_Query_{Query: &wire.RoomFrame_Query{}}})
	out.Absent = frame(t, &wire.RoomFrame{Room: ops[:], Body: &wire.RoomFrame_Absent_{Absent: &wire.RoomFrame_Absent{}}})
	out.Part = RosterFrame{Entries: []Hex{alices, carolsSealed}, Last: true, Answers: tagOf(public(bob.Device), feedB)}
	out.Part.Frame = frame(t, &wire.RoomFrame{Room: ops[:], Body: &wire.RoomFrame_Roster_{Roster: &wire.RoomFrame_Roster{
		Entries: [][]byte{alices, carolsSealed}, Last: true, Answers: out.Part.Answers,
	}}})
	out.BadParts = []BadFrame{{"an asker of 15 bytes", frame(t, &wire.RoomFrame{Room: ops[:], Body: &wire.RoomFrame_Roster_{
		Roster: &wire.RoomFrame_Roster{Last: true, Answers: out.Part.Answers[:15]},
	}})}}
	return out
}
