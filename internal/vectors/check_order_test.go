package vectors

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// plainOrder opens an order by section 9.13 alone; why is the reason if it is refused.
func (j *tokenJudge) plainOrder(v *Orders, sealed []byte) (m message, why string) {
	sig, body, m, ok := open(sealed)
	if !ok || len(sealed) > 5120 || !m.utf8In(4, 9, 10) {
		return nil, "malformed"
	}
	kind, user, stay := m.varint(3), m.text(4), m.bytes(5)
	issued, until := int64(m.varint(6)), int64(m.varint(7))
	device, token, kid := m.bytes(8), m.text(9), m.text(10)
	const last = 253402300799999
	switch {
	case kind < 1 || kind > 4, (kind == 4) != (user == ""), user != "" && !userID(user),
		len(stay) != 0 && (kind != 1 || len(stay) != 16),
		issued <= 0 || issued > last || until < 0 || until > last,
		until != 0 && (kind != 2 && kind != 3 || until <= issued),
		(kid == "") == (len(device) == 0), (len(device) == 0) != (token == ""):
		return nil, "malformed"
	}
	key := device
	if kid != "" {
		if key, ok = j.keys[kid]; !ok {
			return nil, "issuer"
		}
	}
	switch {
	case !signs(key, "starling/order/1\x00", body, sig):
		return nil, "signature"
	case !bytes.Equal(m.bytes(1), v.App):
		return nil, "other app"
	case !bytes.Equal(m.bytes(2), v.Room):
		return nil, "other room"
	}
	if kid == "" {
		then := *j
		then.at = float64(issued) / 1000
		by, role, known := subject(token, v.RoomName)
		switch {
		case !known:
			return nil, "token"
		case role != "moderator":
			return nil, "role"
		case then.judge(Token{Token: token, User: by, Device: device, Room: v.RoomName}) != "":
			return nil, "token"
		}
	}
	end := until
	if kind == 1 || kind == 4 {
		end = issued + v.LifeMS
	}
	switch {
	case issued > v.AtMS+skewMS:
		return nil, "clock"
	case end != 0 && v.AtMS >= end:
		return nil, "expired"
	}
	return m, ""
}

// subject reads the user of a token, and its role in a room, without a check.
func subject(token, room string) (user, role string, ok bool) {
	p := strings.Split(token, ".")
	if len(p) != 3 {
		return "", "", false
	}
	raw, err := base64.RawURLEncoding.DecodeString(p[1])
	if err != nil {
		return "", "", false
	}
	claims, err := members(raw)
	if err != nil {
		return "", "", false
	}
	user, _ = claims["sub"].(string)
	rooms, _ := claims["rooms"].(map[string]any)
	role, _ = rooms[room].(string)
	return user, role, true
}

func TestOrdersFollowFromTheDocumentAlone(t *testing.T) {
	var v Orders
	Read(t, "order", &v)
	var tokens Tokens
	Read(t, "token", &tokens)
	j := newTokenJudge(t, &tokens)
	opened := make(map[string]message)
	var sums [][]byte
	for _, c := range v.Accepted {
		parts(t, c.Sealed, "starling/order/1\x00")
		m, why := j.plainOrder(&v, c.Sealed.Sealed)
		require.Empty(t, why, c.Name)
		require.Equal(t, []any{uint64(c.Kind), c.User, []byte(c.Stay), uint64(c.IssuedMS), uint64(c.UntilMS), c.Kid},
			[]any{m.varint(3), m.text(4), bytes.Clone(m.bytes(5)), m.varint(6), m.varint(7), m.text(10)}, c.Name)
		opened[c.Name] = m
		sums = append(sums, sum(c.Sealed.Sealed))
	}
	slices.SortFunc(sums, bytes.Compare)
	require.Equal(t, bytes.Join(sums, nil), []byte(v.Hashed))
	require.Equal(t, sum(v.Hashed), []byte(v.Digest))
	for _, c := range v.Refused {
		_, why := j.plainOrder(&v, c.Sealed)
		isRefused(t, c, why)
	}

	frame, ok := unframe(v.Frame, 57344)
	require.True(t, ok)
	require.Equal(t, []byte(v.Room), frame.bytes(1))
	body, ok := parse(frame.bytes(9))
	require.True(t, ok)
	ages, ok := body.varints(2)
	require.True(t, ok)
	require.Len(t, body.all(1), len(v.Accepted))
	require.Len(t, ages, len(v.Accepted))
	for i, sealed := range body.all(1) {
		require.Equal(t, []byte(v.Accepted[i].Sealed.Sealed), sealed)
		require.Equal(t, uint64(1000*i), ages[i])
	}

	rank := func(m message) int {
		if m.text(10) != "" {
			return 2
		}
		return 1
	}
	for _, w := range v.Winners {
		least := map[string]int{"member": 1, "moderator": 2}[w.Role]
		var best message
		for _, name := range w.Orders {
			if m := opened[name]; rank(m) >= least && (best == nil || rank(m) > rank(best) || rank(m) == rank(best) && m.varint(6) > best.varint(6)) {
				best = m
			}
		}
		require.Equal(t, w.Banned, best != nil && best.varint(3) == 2, w.Name)
	}
}
