package vectors

// What follows is the protocol as docs/PROTOCOL.md has it, written from there with the standard
// library and a reader of protobuf fields. It shares nothing with the code of the other packages,
// so that an error in both is unlikely.

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

var lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func sum(parts ...[]byte) []byte {
	h := sha256.Sum256(slices.Concat(parts...))
	return h[:]
}

func appID(name string) []byte { return sum([]byte("starling/app/1\x00"), []byte(name)) }

func roomTag(app []byte, room, secret string) []byte {
	mac := hmac.New(sha256.New, app)
	mac.Write([]byte("starling/room/1\x00"))
	mac.Write([]byte(room))
	mac.Write([]byte{0})
	mac.Write([]byte(secret))
	return mac.Sum(nil)
}

func topicName(tag [32]byte) string { return "/starling/room/1/" + lower.EncodeToString(tag[:]) }

func mdnsName(app [32]byte) string {
	return "_sl" + lower.EncodeToString(sum([]byte("starling/mdns/1\x00"), app[:]))[:12] + "._udp"
}

func fingerprint(key []byte) string { return lower.EncodeToString(sum(key))[:16] }

// peerIDBytes returns the identity multihash of the libp2p encoding of an Ed25519 public key.
func peerIDBytes(key []byte) []byte {
	return append([]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}, key...)
}

// base58 returns the text form of a peer ID.
func base58(b []byte) (text string) {
	const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	n, mod := new(big.Int).SetBytes(b), new(big.Int)
	for n.Sign() > 0 {
		n.DivMod(n, big.NewInt(58), mod)
		text = string(alphabet[mod.Int64()]) + text
	}
	for ; len(b) > 0 && b[0] == 0; b = b[1:] {
		text = "1" + text
	}
	return text
}

// messageID returns the ID of an envelope in GossipSub.
func messageID(topic string, sealed []byte) []byte { return sum([]byte(topic + string(sealed))) }

// message is a protobuf message, as far as it can be read without knowing its type.
type message map[protowire.Number][]value

type value struct {
	typ protowire.Type
	n   uint64
	b   []byte
}

// parse reads a message; ok is false if b is not one.
func parse(b []byte) (m message, ok bool) {
	m = make(message)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		v := value{typ: typ}
		switch typ {
		case protowire.VarintType:
			v.n, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v.n, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			v.b, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		m[num] = append(m[num], v)
	}
	return m, true
}

// last returns the last value of a field with that wire type; values of other types count as
// unknown fields.
func (m message) last(num protowire.Number, typ protowire.Type) (v value) {
	for _, o := range m[num] {
		if o.typ == typ {
			v = o
		}
	}
	return v
}

func (m message) bytes(num protowire.Number) []byte   { return m.last(num, protowire.BytesType).b }
func (m message) text(num protowire.Number) string    { return string(m.bytes(num)) }
func (m message) varint(num protowire.Number) uint64  { return m.last(num, protowire.VarintType).n }
func (m message) fixed64(num protowire.Number) uint64 { return m.last(num, protowire.Fixed64Type).n }

func (m message) all(num protowire.Number) (all [][]byte) {
	for _, v := range m[num] {
		if v.typ == protowire.BytesType {
			all = append(all, v.b)
		}
	}
	return all
}

// utf8In reports whether the string fields are UTF-8; otherwise proto3 refuses the message.
func (m message) utf8In(nums ...protowire.Number) bool {
	for _, num := range nums {
		for _, b := range m.all(num) {
			if !utf8.Valid(b) {
				return false
			}
		}
	}
	return true
}

func signs(key []byte, domain string, body, sig []byte) bool {
	return len(key) == 32 && len(sig) == 64 && ed25519.Verify(key, slices.Concat([]byte(domain), body), sig)
}

// open splits a sealed object. Its body says whose signature it must have.
func open(sealed []byte) (sig, body []byte, m message, ok bool) {
	if len(sealed) <= 64 {
		return nil, nil, nil, false
	}
	m, ok = parse(sealed[64:])
	return sealed[:64], sealed[64:], m, ok
}

const skewMS = 2 * 60 * 1000

func userID(s string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@.-"
	return len(s) >= 1 && len(s) <= 128 && strings.Trim(s, allowed) == ""
}

// plainStatement judges a statement; why is empty for a valid one.
func plainStatement(sealed, app []byte, atMS int64) (m message, why string) {
	if len(sealed) > 8192 {
		return nil, "size"
	}
	sig, body, m, ok := open(sealed)
	if !ok || !m.utf8In(2, 10) {
		return nil, "malformed"
	}
	userKey, cert, device := m.bytes(3), m.bytes(4), m.bytes(5)
	issued, expires := int64(m.varint(7)), int64(m.varint(8))
	one := bytes.Equal(userKey, device)
	switch {
	case len(m.bytes(1)) != 32, len(userKey) != 32, len(device) != 32, !userID(m.text(2)), m.varint(6) == 0,
		issued <= 0, expires <= issued, expires > 253402300799999,
		one && len(cert) != 0, !one && len(cert) != 64:
		return nil, "malformed"
	case !signs(device, "starling/statement/1\x00", body, sig), !one && !signs(userKey, "starling/device/1\x00", device, cert):
		return nil, "signature"
	case !bytes.Equal(m.bytes(1), app):
		return nil, "other app"
	case issued-atMS > skewMS, m.varint(6) > uint64(atMS+skewMS):
		return nil, "clock"
	case expires <= atMS:
		return nil, "expired"
	}
	return m, ""
}

// plainEntry judges a roster entry.
func plainEntry(sealed, app, room []byte, atMS int64) (m message, why string) {
	if len(sealed) > 20480 {
		return nil, "size"
	}
	sig, body, m, ok := open(sealed)
	if !ok || !m.utf8In(8) {
		return nil, "malformed"
	}
	st, why := plainStatement(m.bytes(1), app, atMS)
	switch {
	case why != "":
		return nil, why
	case !signs(st.bytes(5), "starling/roster/1\x00", body, sig):
		return nil, "signature"
	case !bytes.Equal(m.bytes(2), room):
		return nil, "other room"
	case m.varint(4) > uint64(atMS+skewMS):
		return nil, "clock"
	case len(m.bytes(3)) != 16, m.varint(4) == 0, m.varint(5) != 1 && m.varint(5) != 2, len(m.bytes(6)) > 200:
		return nil, "malformed"
	}
	return m, ""
}

// plainEnvelope judges an envelope by its bytes.
func plainEnvelope(sealed, app, room []byte) (m message, why string) {
	if len(sealed) > 256<<10 {
		return nil, "size"
	}
	sig, body, m, ok := open(sealed)
	if !ok {
		return nil, "malformed"
	}
	first, count, previous := m.varint(5), uint32(m.varint(6)), m.bytes(7)
	switch {
	case len(m.bytes(1)) != 32, len(m.bytes(2)) != 32, len(m.bytes(3)) != 32, len(m.bytes(4)) != 16,
		first == 0, first+uint64(count) < first, count == 0,
		first == 1 && len(previous) != 0, first > 1 && len(previous) != 32, len(m.bytes(11)) > 240<<10:
		return nil, "malformed"
	}
	if m.varint(9) == 0 {
		all, ok := plainItems(m.bytes(11))
		if !ok || uint32(len(all)) != count {
			return nil, "malformed"
		}
	}
	switch {
	case !signs(m.bytes(3), "starling/envelope/1\x00", body, sig):
		return nil, "signature"
	case !bytes.Equal(m.bytes(1), app):
		return nil, "other app"
	case !bytes.Equal(m.bytes(2), room):
		return nil, "other room"
	}
	return m, ""
}

func plainItems(content []byte) (all []Item, ok bool) {
	for len(content) > 0 {
		num, typ, n := protowire.ConsumeTag(content)
		if n < 0 || num != 1 || typ != protowire.BytesType {
			return nil, false
		}
		raw, size := protowire.ConsumeBytes(content[n:])
		if size < 0 {
			return nil, false
		}
		content = content[n+size:]
		m, ok := parse(raw)
		if !ok {
			return nil, false
		}
		it := Item{uint32(m.varint(1)), m.bytes(2)}
		switch {
		case it.Kind == 0, len(it.Payload) > 64<<10, it.Kind <= 2 && len(it.Payload) == 0, it.Kind == 2 && !utf8.Valid(it.Payload):
			return nil, false
		}
		all = append(all, it)
	}
	return all, true
}

// unframe removes the length from the only frame in b.
func unframe(b []byte, limit uint64) (message, bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > limit || uint64(len(b)-n) != size {
		return nil, false
	}
	return parse(b[n:])
}

// signedByHello returns what a proof signs.
func signedByHello(nonce, statement []byte, initiator, responder []byte) []byte {
	return slices.Concat([]byte("starling/hello/1\x00"), nonce, sum(statement), initiator, responder)
}

// feedTag returns the name of a feed in positions.
func feedTag(device, feed []byte) []byte { return sum(device, feed)[:16] }

// headsDigest returns the digest of how far a member has got with every feed, and what is hashed.
func headsDigest(list []Position) (hashed, digest []byte) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Position) int { return bytes.Compare(a.Tag, b.Tag) })
	for _, p := range list {
		if p.Last > 0 {
			hashed = slices.Concat(hashed, p.Tag, binary.BigEndian.AppendUint64(nil, p.Last))
		}
	}
	return hashed, sum(hashed)
}

// plainHeads judges Heads.
func plainHeads(h message) bool {
	all := h.all(1)
	for _, raw := range all {
		p, ok := parse(raw)
		if !ok || len(p.bytes(1)) != 16 || p.varint(2) == 1<<64-1 || p.varint(3) > p.varint(2)+1 {
			return false
		}
	}
	return len(all) <= 1024 && plainAnswers(h.bytes(3))
}

// plainAnswers judges what says whose question a frame answers.
func plainAnswers(tag []byte) bool { return len(tag) == 0 || len(tag) == 16 }

// varints returns the numbers of a repeated field, packed or not.
func (m message) varints(num protowire.Number) (list []uint64, ok bool) {
	for _, v := range m[num] {
		if v.typ == protowire.VarintType {
			list = append(list, v.n)
		}
		for b := v.b; v.typ == protowire.BytesType && len(b) > 0; {
			n, size := protowire.ConsumeVarint(b)
			if size < 0 {
				return nil, false
			}
			list, b = append(list, n), b[size:]
		}
	}
	return list, true
}

// plainReply judges the first frame of an answer to wants.
func plainReply(a message, app, room []byte, wants []Position) bool {
	ages, ok := a.varints(3)
	if !ok || len(ages) != len(a.all(2)) || len(a.all(1)) > 512 || len(a.all(4)) > 520 {
		return false
	}
	reached := make(map[string]uint64)
	for _, sealed := range a.all(2) {
		m, why := plainEnvelope(sealed, app, room)
		if why != "" {
			return false
		}
		tag, first := string(feedTag(m.bytes(3), m.bytes(4))), m.varint(5)
		last := first + m.varint(6) - 1
		wanted := slices.ContainsFunc(wants, func(w Position) bool {
			return string(w.Tag) == tag && last >= w.First && (w.Last == 0 || first <= w.Last)
		})
		if !wanted || first <= reached[tag] {
			return false
		}
		reached[tag] = last
	}
	for _, raw := range a.all(4) {
		p, ok := parse(raw)
		if !ok || len(p.bytes(1)) != 16 {
			return false
		}
	}
	return true
}

// rosterDigest returns the digest of a room's known members, those who have joined, ordered by
// user, user key and peer ID.
func rosterDigest(entries []message) (hashed, digest []byte) {
	type row struct{ order, line []byte }
	var rows []row
	for _, m := range entries {
		_, _, st, _ := open(m.bytes(1))
		if m.varint(5) == 1 {
			rows = append(rows, row{
				slices.Concat(st.bytes(2), []byte{0}, st.bytes(3), peerIDBytes(st.bytes(5))),
				slices.Concat(st.bytes(5), m.bytes(3), binary.BigEndian.AppendUint64(nil, m.varint(4))),
			})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return bytes.Compare(a.order, b.order) })
	for _, r := range rows {
		hashed = append(hashed, r.line...)
	}
	return hashed, sum(hashed)
}

// dhtHash returns H(purpose, what).
func dhtHash(app []byte, purpose, what string) []byte {
	mac := hmac.New(sha256.New, app)
	mac.Write([]byte("starling/dht/" + purpose + "/1\x00" + what))
	return mac.Sum(nil)
}

func dhtTag(app []byte) string { return lower.EncodeToString(dhtHash(app, "prefix", "")[:10]) }

// recordPath returns the key of a record in the DHT.
func recordPath(hash []byte) string { return "/starling/" + lower.EncodeToString(hash) }

// plainRecord judges a record. In app mode, judge returns why a token is refused for a user on a
// device.
func plainRecord(sealed []byte, at Place, judge func(token, user string, device []byte) string, nowMS, lifeMS int64) (m message, why string) {
	if len(sealed) > 12480 {
		return nil, "size"
	}
	sig, body, m, ok := open(sealed)
	if !ok {
		return nil, "malformed"
	}
	issued, expires := int64(m.varint(3)), int64(m.varint(4))
	switch {
	case len(m.all(2)) > 16:
		return nil, "size"
	case issued <= 0, expires <= issued:
		return nil, "malformed"
	}
	st, why := plainStatement(m.bytes(1), at.App, nowMS)
	if why != "" {
		return nil, why
	}
	key := recordPath(dhtHash(at.App, "key", fingerprint(st.bytes(3))))
	if at.AppMode {
		key = recordPath(dhtHash(at.App, "user", st.text(2)))
		why = judge(st.text(10), st.text(2), st.bytes(5))
		if why != "" && (st.varint(9) == 1 || why != "expired" && why != "revoked") {
			return nil, "token"
		}
	}
	switch {
	case !signs(st.bytes(5), "starling/record/1\x00", body, sig):
		return nil, "signature"
	case key != at.Key:
		return nil, "key"
	case expires-issued > lifeMS, issued-nowMS > skewMS, expires+skewMS <= nowMS:
		return nil, "time"
	}
	return m, ""
}

// betterRecord reports whether record a should be kept rather than b.
func betterRecord(a, b message) bool {
	_, _, x, _ := open(a.bytes(1))
	_, _, y, _ := open(b.bytes(1))
	if x.varint(6) != y.varint(6) {
		return x.varint(6) > y.varint(6)
	}
	if c := bytes.Compare(peerIDBytes(x.bytes(5)), peerIDBytes(y.bytes(5))); c != 0 {
		return c > 0
	}
	if x.varint(7) != y.varint(7) {
		return x.varint(7) > y.varint(7)
	}
	return a.varint(3) > b.varint(3)
}
