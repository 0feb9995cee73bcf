package vectors

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// The tests of this file compare the vectors with a plain reading of the document: no code of the
// other packages runs.

func parts(t *testing.T, s Sealed, domain string) {
	t.Helper()
	require.Equal(t, domain, string(s.Domain))
	require.Equal(t, append(bytes.Clone(s.Signature), s.Body...), []byte(s.Sealed))
	require.True(t, ed25519.Verify(ed25519.PublicKey(s.Key), append(bytes.Clone(s.Domain), s.Body...), s.Signature))
}

func isRefused(t *testing.T, c Refused, got string) {
	t.Helper()
	require.NotEmpty(t, got, "%s: accepted", c.Name)
	if c.Why != "" {
		require.Equal(t, c.Why, got, c.Name)
	}
}

func multiaddrs(t *testing.T, raw [][]byte) (texts []string) {
	t.Helper()
	for _, b := range raw {
		a, err := ma.NewMultiaddrBytes(b)
		require.NoError(t, err)
		texts = append(texts, a.String())
	}
	return texts
}

func TestNamesFollowFromTheDocumentAlone(t *testing.T) {
	var v Names
	Read(t, "names", &v)
	require.NotEmpty(t, v.Keys)
	for _, k := range v.Keys {
		require.Equal(t, ed25519.NewKeyFromSeed(k.Seed).Public(), ed25519.PublicKey(k.Public))
		require.Equal(t, k.Base32, lower.EncodeToString(k.Public))
		require.Equal(t, k.Fingerprint, fingerprint(k.Public))
		require.Equal(t, []byte(k.PeerIDBytes), peerIDBytes(k.Public))
		require.Equal(t, k.PeerID, base58(k.PeerIDBytes))
	}
	for _, a := range v.Apps {
		require.Equal(t, []byte(a.ID), appID(a.Name))
		require.Equal(t, a.MDNS, mdnsName([32]byte(a.ID)))
	}
	for _, r := range v.Rooms {
		require.Equal(t, []byte(r.Tag), roomTag(r.App, r.Room, r.Secret))
		require.Equal(t, r.Topic, topicName([32]byte(r.Tag)))
	}
}

func TestStatementsFollowFromTheDocumentAlone(t *testing.T) {
	var v Statements
	Read(t, "statement", &v)
	require.NotEmpty(t, v.Accepted)
	for _, s := range v.Accepted {
		t.Run(s.Name, func(t *testing.T) {
			parts(t, s.Sealed, "starling/statement/1\x00")
			at := v.AtMS
			if s.AtMS != 0 {
				at = s.AtMS
			}
			m, why := plainStatement(s.Sealed.Sealed, v.App, at)
			require.Empty(t, why)
			require.Equal(t, []byte(s.Key), m.bytes(5))
			require.Equal(t, s.PeerID, base58(peerIDBytes(m.bytes(5))))
			require.Equal(t, [][]byte{v.App, s.UserKey, s.Device}, [][]byte{m.bytes(1), m.bytes(3), m.bytes(5)})
			require.True(t, bytes.Equal(s.Certificate, m.bytes(4)))
			require.Equal(t, []any{s.User, s.Sequence, s.IssuedMS, s.ExpiresMS, s.LoggedIn, s.Token},
				[]any{m.text(2), m.varint(6), int64(m.varint(7)), int64(m.varint(8)), m.varint(9) == 1, m.text(10)})
		})
	}
	for _, c := range v.Refused {
		at := v.AtMS
		if c.AtMS != 0 {
			at = c.AtMS
		}
		_, why := plainStatement(c.Sealed, v.App, at)
		isRefused(t, c, why)
	}
	for _, p := range v.Order {
		n, why := plainStatement(p.Newer, v.App, v.AtMS)
		require.Empty(t, why)
		o, why := plainStatement(p.Older, v.App, v.AtMS)
		require.Empty(t, why)
		rank := func(m message) []byte {
			return bytes.Join([][]byte{be(m.varint(6)), peerIDBytes(m.bytes(5)), be(m.varint(7))}, nil)
		}
		require.Positive(t, bytes.Compare(rank(n), rank(o)), p.Name)
	}
}

func be(n uint64) []byte {
	var b [8]byte
	for i := range b {
		b[i] = byte(n >> (56 - 8*i))
	}
	return b[:]
}

func TestHelloFollowsFromTheDocumentAlone(t *testing.T) {
	var v Hello
	Read(t, "hello", &v)
	const limit = 16 << 10
	hello, ok := unframe(v.Frames.Hello, limit)
	require.True(t, ok)
	reply, ok := unframe(v.Frames.Reply, limit)
	require.True(t, ok)
	proof, ok := unframe(v.Frames.Proof, limit)
	require.True(t, ok)
	theirs, ok := parse(reply.bytes(2))
	require.True(t, ok)

	party := func(m message, p Party) (id []byte) {
		require.Equal(t, []byte(v.App), m.bytes(1))
		require.Equal(t, []byte(p.Statement), m.bytes(2))
		require.Equal(t, p.Incarnation, m.fixed64(4))
		require.EqualValues(t, p.MaxEnvelope, m.varint(5))
		limits, ok := parse(m.bytes(6))
		require.True(t, ok)
		require.EqualValues(t, p.MaxMessage, limits.varint(1))
		require.EqualValues(t, p.GraceMS, limits.varint(2))
		require.Zero(t, limits.varint(3), "a leeway is for app mode")
		rates, ok := parse(limits.bytes(4))
		require.True(t, ok)
		require.Equal(t, p.Rates, Rates{
			rates.varint(1), rates.varint(2), rates.varint(3), rates.varint(4), rates.varint(5), rates.varint(6),
		})
		require.Len(t, m.bytes(7), 16)
		require.Equal(t, []byte(p.Nonce), m.bytes(7))
		require.Equal(t, p.Addrs, multiaddrs(t, m.all(8)))
		st, why := plainStatement(m.bytes(2), v.App, v.AtMS)
		require.Empty(t, why)
		require.Equal(t, p.PeerID, base58(peerIDBytes(st.bytes(5))))
		require.Equal(t, []byte(p.Proof.Key), st.bytes(5))
		return peerIDBytes(st.bytes(5))
	}
	a, b := party(hello, v.Initiator), party(theirs, v.Responder)
	bySecond := signedByHello(hello.bytes(7), theirs.bytes(2), a, b)
	require.Equal(t, []byte(v.Responder.Proof.Signed), bySecond)
	require.True(t, ed25519.Verify(ed25519.PublicKey(v.Responder.Proof.Key), bySecond, reply.bytes(3)))
	byFirst := signedByHello(theirs.bytes(7), hello.bytes(2), a, b)
	require.Equal(t, []byte(v.Initiator.Proof.Signed), byFirst)
	require.True(t, ed25519.Verify(ed25519.PublicKey(v.Initiator.Proof.Key), byFirst, proof.bytes(2)))
	require.Zero(t, hello.varint(10))
	bye, ok := unframe(v.Frames.Goodbye, limit)
	require.True(t, ok)
	require.EqualValues(t, 1, bye.varint(10))
	require.Equal(t, v.Initiator.Incarnation, bye.fixed64(4))
	out, why := plainStatement(bye.bytes(2), v.App, v.AtMS)
	require.Empty(t, why)
	require.Zero(t, out.varint(9), "logged out")
	none := signedByHello(theirs.bytes(7), nil, a, b)
	require.Equal(t, []byte(v.Anonymous.Signed), none)
	require.True(t, ed25519.Verify(ed25519.PublicKey(v.Anonymous.Key), none, v.Anonymous.Signature))

	for _, c := range v.Refused {
		require.False(t, signs(v.Initiator.Proof.Key, "", byFirst, c.Signature), c.Name)
	}
	for _, r := range v.Refusals {
		m, ok := unframe(r.Frame, limit)
		require.True(t, ok)
		refusal, ok := parse(m.bytes(1))
		require.True(t, ok)
		require.EqualValues(t, r.Code, refusal.varint(1))
		require.Equal(t, r.Text, refusal.text(2))
	}
}

func TestWhoisAndNoticeFollowFromTheDocumentAlone(t *testing.T) {
	var v Directory
	Read(t, "directory", &v)
	m, ok := unframe(v.Request.Frame, 1<<10)
	require.True(t, ok)
	require.Equal(t, []any{[]byte(v.Request.App), v.Request.User, []byte(v.Request.UserKey)}, []any{m.bytes(1), m.text(2), m.bytes(3)})
	m, ok = unframe(v.Reply.Frame, 98944)
	require.True(t, ok)
	require.Len(t, m.all(1), len(v.Reply.Found))
	for i, raw := range m.all(1) {
		l, ok := parse(raw)
		require.True(t, ok)
		require.Equal(t, []byte(v.Reply.Found[i].Statement), l.bytes(1))
		require.Equal(t, v.Reply.Found[i].Addrs, multiaddrs(t, l.all(2)))
	}
	m, ok = unframe(v.Notice.Frame, 8256)
	require.True(t, ok)
	require.Equal(t, []byte(v.Notice.Statement), m.bytes(1))
}

func TestRostersFollowFromTheDocumentAlone(t *testing.T) {
	var v Roster
	Read(t, "roster", &v)
	for _, e := range v.Accepted {
		t.Run(e.Name, func(t *testing.T) {
			parts(t, e.Sealed, "starling/roster/1\x00")
			m, why := plainEntry(e.Sealed.Sealed, v.App, v.Room, v.AtMS)
			require.Empty(t, why)
			require.Equal(t, []byte(e.Statement), m.bytes(1))
			require.Equal(t, []byte(e.Feed), m.bytes(3))
			require.Equal(t, []any{e.Sequence, e.Joined}, []any{m.varint(4), m.varint(5) == 1})
			require.True(t, bytes.Equal(e.Info, m.bytes(6)))
			require.Equal(t, e.Addrs, multiaddrs(t, m.all(7)))
		})
	}
	for _, c := range v.Refused {
		_, why := plainEntry(c.Sealed, v.App, v.Room, v.AtMS)
		isRefused(t, c, why)
	}
	for _, p := range v.Order {
		n, why := plainEntry(p.Newer, v.App, v.Room, v.AtMS)
		require.Empty(t, why)
		o, why := plainEntry(p.Older, v.App, v.Room, v.AtMS)
		require.Empty(t, why)
		require.Greater(t, n.varint(4), o.varint(4), p.Name)
	}
	var known []message
	for _, sealed := range v.Digest.Entries {
		m, why := plainEntry(sealed, v.App, v.Room, v.AtMS)
		require.Empty(t, why)
		known = append(known, m)
	}
	hashed, digest := rosterDigest(known)
	require.Equal(t, []byte(v.Digest.Hashed), hashed)
	require.Equal(t, []byte(v.Digest.Digest), digest)

	const limit = 57344
	m, ok := unframe(v.Greeting.Frame, limit)
	require.True(t, ok)
	require.Equal(t, []byte(v.Room), m.bytes(1))
	g, ok := parse(m.bytes(2))
	require.True(t, ok)
	past, ok := parse(g.bytes(6))
	require.True(t, ok)
	require.Equal(t,
		[]any{[]byte(v.Greeting.Entry), []byte(v.Greeting.Digest), v.Greeting.Reply, []byte(v.Greeting.Heads), v.Greeting.PastAgeMS, v.Greeting.PastCount, v.Greeting.Compare, v.Greeting.ClockMS},
		[]any{g.bytes(1), g.bytes(2), g.varint(4) == 1, g.bytes(5), past.varint(1), uint32(past.varint(2)), g.varint(8) == 1, g.varint(9)})
	require.Len(t, v.Greeting.Known, 2)
	var names []byte
	for i, sealed := range [][]byte{v.Part.Entries[0], v.Greeting.Entry} {
		sum := sha256.Sum256(sealed)
		require.Equal(t, sum[:8], []byte(v.Greeting.Known[i]))
		names = append(names, sum[:8]...)
	}
	require.Equal(t, names, g.bytes(7))
	for num, raw := range map[protowire.Number]Hex{4: v.Query, 5: v.Absent} {
		m, ok := unframe(raw, limit)
		require.True(t, ok)
		require.Equal(t, []byte(v.Room), m.bytes(1))
		require.Equal(t, [][]byte{{}}, m.all(num), "an empty message, which is there")
	}
	m, ok = unframe(v.Part.Frame, limit)
	require.True(t, ok)
	p, ok := parse(m.bytes(3))
	require.True(t, ok)
	require.Equal(t, v.Part.Last, p.varint(3) == 1)
	require.Equal(t, []byte(v.Part.Answers), p.bytes(4))
	for _, c := range v.BadParts {
		m, ok := unframe(c.Bytes, limit)
		require.True(t, ok, c.Name)
		p, ok := parse(m.bytes(3))
		require.True(t, ok, c.Name)
		require.False(t, plainAnswers(p.bytes(4)), c.Name)
	}
	require.Len(t, p.all(1), len(v.Part.Entries))
	for i, e := range p.all(1) {
		require.Equal(t, []byte(v.Part.Entries[i]), e)
	}
}

func positionsOf(t *testing.T, raw [][]byte) (list []Position) {
	t.Helper()
	for _, b := range raw {
		p, ok := parse(b)
		require.True(t, ok)
		list = append(list, Position{Tag: p.bytes(1), Last: p.varint(2), First: p.varint(3), Unsure: p.varint(4) == 1, ClockMS: p.varint(5)})
	}
	return list
}

func TestHeadsAndSyncFollowFromTheDocumentAlone(t *testing.T) {
	var v Sync
	Read(t, "sync", &v)
	require.NotEmpty(t, v.Tags)
	for _, c := range v.Tags {
		require.Equal(t, []byte(c.Tag), feedTag(c.Device, c.Feed))
	}
	hashed, digest := headsDigest(v.Heads.Positions)
	require.Equal(t, []byte(v.Heads.Hashed), hashed)
	require.Equal(t, []byte(v.Heads.Digest), digest)

	m, ok := unframe(v.Frame, 57344)
	require.True(t, ok)
	require.Equal(t, []byte(v.Room), m.bytes(1))
	h, ok := parse(m.bytes(6))
	require.True(t, ok)
	require.Equal(t, v.Heads.Positions, positionsOf(t, h.all(1)))
	require.Equal(t, v.Heads.AgeMS, h.varint(2))
	require.Equal(t, []byte(v.Heads.Answers), h.bytes(3))
	require.True(t, plainHeads(h))
	m, ok = unframe(v.Unasked, 57344)
	require.True(t, ok)
	h, ok = parse(m.bytes(6))
	require.True(t, ok)
	require.True(t, plainHeads(h))
	require.Empty(t, h[2])
	require.Empty(t, h[3])
	require.Equal(t, []Position{{Tag: v.Heads.Positions[0].Tag, Last: v.Heads.Positions[0].Last}}, positionsOf(t, h.all(1)))
	for _, c := range v.BadHeads {
		m, ok := unframe(c.Bytes, 57344)
		require.True(t, ok, c.Name)
		h, ok := parse(m.bytes(6))
		require.True(t, ok, c.Name)
		require.False(t, plainHeads(h), c.Name)
	}

	q, ok := unframe(v.Request.Frame, 32768)
	require.True(t, ok)
	require.Equal(t, []byte(v.Room), q.bytes(1))
	var wants []Position
	for _, raw := range q.all(2) {
		w, ok := parse(raw)
		require.True(t, ok)
		wants = append(wants, Position{Tag: w.bytes(1), First: w.varint(2), Last: w.varint(3)})
	}
	require.Equal(t, v.Request.Wants, wants)

	a, ok := unframe(v.Reply.Frame, 610304)
	require.True(t, ok)
	hexes := func(all [][]byte) (out []Hex) {
		for _, b := range all {
			out = append(out, b)
		}
		return out
	}
	ages, ok := a.varints(3)
	require.True(t, ok)
	require.Equal(t, []any{v.Reply.Entries, v.Reply.Envelopes, v.Reply.AgesMS, v.Reply.Gone, v.Reply.More},
		[]any{hexes(a.all(1)), hexes(a.all(2)), ages, positionsOf(t, a.all(4)), a.varint(5) == 1})
	require.True(t, plainReply(a, appID("starling"), v.Room, wants))
	for _, c := range v.BadReplies {
		a, ok := unframe(c.Bytes, 610304)
		require.False(t, ok && plainReply(a, appID("starling"), v.Room, wants), c.Name)
	}
}

func TestEnvelopesFollowFromTheDocumentAlone(t *testing.T) {
	var v Envelopes
	Read(t, "envelope", &v)
	require.Equal(t, v.Topic, topicName([32]byte(v.Room)))
	check := func(e Envelope) {
		t.Run(e.Name, func(t *testing.T) {
			parts(t, e.Sealed, "starling/envelope/1\x00")
			m, why := plainEnvelope(e.Sealed.Sealed, v.App, v.Room)
			require.Empty(t, why)
			require.Equal(t, []byte(e.Key), m.bytes(3))
			require.Equal(t, []byte(e.Feed), m.bytes(4))
			require.Equal(t, []any{e.First, e.Count, e.SentMS, e.Scheme, e.Epoch},
				[]any{m.varint(5), uint32(m.varint(6)), int64(m.varint(8)), uint32(m.varint(9)), uint32(m.varint(10))})
			require.True(t, bytes.Equal(e.Previous, m.bytes(7)))
			require.Equal(t, []byte(e.Content), m.bytes(11))
			if e.Scheme == 0 {
				all, ok := plainItems(e.Content)
				require.True(t, ok)
				require.Len(t, all, len(e.Items))
				for i, it := range all {
					require.Equal(t, e.Items[i].Kind, it.Kind)
					require.True(t, bytes.Equal(e.Items[i].Payload, it.Payload))
				}
			}
			require.Equal(t, []byte(e.Hash), sum(e.Sealed.Sealed))
			require.Equal(t, []byte(e.MessageID), messageID(v.Topic, e.Sealed.Sealed))
		})
	}
	next, tip := uint64(1), []byte(nil)
	for _, e := range v.Feed {
		check(e)
		require.Equal(t, next, e.First)
		require.True(t, bytes.Equal(tip, e.Previous))
		next, tip = e.First+uint64(e.Count), sum(e.Sealed.Sealed)
	}
	for _, e := range v.Accepted {
		check(e)
	}
	first := v.Feed[0]
	for _, e := range v.Forks {
		check(e)
		require.False(t, e.First == first.First+uint64(first.Count) && bytes.Equal(e.Previous, first.Hash), e.Name)
	}
	for _, c := range v.Refused {
		_, why := plainEnvelope(c.Sealed, v.App, v.Room)
		isRefused(t, c, why)
	}
}

func TestDirectFramesFollowFromTheDocumentAlone(t *testing.T) {
	var v Direct
	Read(t, "direct", &v)
	const limit = 80 << 10
	for _, f := range v.Accepted {
		m, ok := unframe(f.Frame, limit)
		require.True(t, ok, f.Name)
		require.True(t, m.utf8In(5))
		require.Equal(t,
			[]any{f.Type, f.Sequence, f.Kind, f.To, f.SentMS, f.Reason, f.Sender, f.Receiver, f.Class},
			[]any{uint32(m.varint(1)), m.varint(2), uint32(m.varint(3)), m.text(5), int64(m.varint(7)), uint32(m.varint(8)),
				m.fixed64(9), m.fixed64(10), uint32(m.varint(11))}, f.Name)
		require.True(t, bytes.Equal(f.Room, m.bytes(4)))
		require.True(t, bytes.Equal(f.Payload, m.bytes(6)))
	}
	for _, c := range v.Refused {
		m, ok := unframe(c.Bytes, limit)
		require.False(t, ok && m.utf8In(5), c.Name)
	}
}

func TestTheDirectoryFollowsFromTheDocumentAlone(t *testing.T) {
	var v Records
	Read(t, "record", &v)
	var tokens Tokens
	Read(t, "token", &tokens)
	j := newTokenJudge(t, &tokens)
	judge := func(token, user string, device []byte) string {
		return j.judge(Token{Token: token, User: user, Device: device})
	}
	for _, a := range v.Apps {
		require.Equal(t, dhtTag(a.App), a.Tag)
		require.Equal(t, "/starling/dht/"+a.Tag+"/lan/kad/1.0.0", a.LAN)
		require.Equal(t, "/starling/dht/"+a.Tag+"/wan/kad/1.0.0", a.WAN)
	}
	for _, k := range v.Keys {
		require.Equal(t, dhtHash(k.App, k.Purpose, k.Of), []byte(k.Hash))
		if k.Purpose == "name" {
			require.Equal(t, append([]byte{0x12, 0x20}, k.Hash...), []byte(k.Key), "a multihash of sha2-256")
		} else {
			require.Equal(t, recordPath(k.Hash), string(k.Key))
		}
	}
	for _, r := range v.Accepted {
		t.Run(r.Name, func(t *testing.T) {
			parts(t, r.Sealed, "starling/record/1\x00")
			m, why := plainRecord(r.Sealed.Sealed, r.At, judge, v.AtMS, v.LifeMS)
			require.Empty(t, why)
			require.Equal(t, []byte(r.Statement), m.bytes(1))
			require.Equal(t, r.Addrs, multiaddrs(t, m.all(2)))
			require.Equal(t, []uint64{uint64(r.IssuedMS), uint64(r.ExpiresMS)}, []uint64{m.varint(3), m.varint(4)})
			_, _, st, _ := open(m.bytes(1))
			require.Equal(t, r.Tombstone, st.varint(9) == 0)
		})
	}
	for _, c := range v.Refused {
		_, why := plainRecord(c.Sealed, c.At, judge, v.AtMS, v.LifeMS)
		isRefused(t, c.Refused, why)
	}
	for _, p := range v.Order {
		_, _, n, _ := open(p.Newer)
		_, _, o, _ := open(p.Older)
		require.True(t, betterRecord(n, o), p.Name)
		require.False(t, betterRecord(o, n), p.Name)
	}
}

func TestWatchFollowsFromTheDocumentAlone(t *testing.T) {
	var v Directory
	Read(t, "directory", &v)
	m, ok := unframe(v.Watch.Request, 1<<10)
	require.True(t, ok)
	require.Equal(t, []byte(v.Watch.App), m.bytes(1))
	m, ok = unframe(v.Watch.Frame, 8256)
	require.True(t, ok)
	require.Equal(t, []byte(v.Watch.Statement), m.bytes(1))
	m, ok = unframe(v.Watch.Beat, 8256)
	require.True(t, ok)
	require.Empty(t, m.all(1))
}
