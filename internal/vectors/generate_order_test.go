package vectors

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

func makeOrders(t *testing.T) Orders {
	tokens := makeTokens(t)
	root, stranger := key(20), key(22)
	issuer, err := identity.NewIssuer(tokens.AppName, root)
	require.NoError(t, err)
	id := identity.AppID(tokens.App)
	tag := id.RoomTag("ops", "")
	out := Orders{
		About:    "Orders in the room ops. See 9.13 Orders in PROTOCOL.md. The issuers are those of token.json; at_ms is when orders are judged.",
		App:      id[:],
		RoomName: "ops", Room: tag[:], AtMS: at.UnixMilli(), LifeMS: identity.OrderLife.Milliseconds(),
	}
	token := func(keys *identity.Keys, user string, change func(*identity.Claims)) string {
		c := identity.Claims{
			User: user, Device: keys.DeviceKey(), Rooms: map[string]string{"ops": "moderator"}, ID: "m-" + user,
			Issued: at.Add(-2 * day), Expires: at.Add(day),
		}
		if change != nil {
			change(&c)
		}
		text, err := issuer.Issue(c)
		require.NoError(t, err)
		return text
	}
	plain := token(alice, "alice", nil)
	sign := func(keys *identity.Keys, token string, o identity.Order) []byte {
		if o.Issued.IsZero() {
			o.Issued = at
		}
		sealed, err := identity.SignOrder(keys.Device, id, tag, token, o)
		require.NoError(t, err)
		return sealed
	}
	good := func(name, by string, signer ed25519.PrivateKey, sealed []byte) {
		var m wire.Order
		require.NoError(t, proto.Unmarshal(sealed[wire.SignatureSize:], &m))
		out.Accepted = append(out.Accepted, Order{
			Sealed: part(name, wire.DomainOrder, signer, sealed), Kind: int(m.Kind), User: m.User, Stay: m.Stay,
			IssuedMS: m.IssuedMs, UntilMS: m.UntilMs, By: by, Kid: m.Kid,
		})
	}
	byIssuer := func(o identity.Order) []byte {
		sealed, err := issuer.Order("ops", "", o)
		require.NoError(t, err)
		return sealed
	}
	ban := identity.Order{Kind: identity.Ban, User: "mallory"}
	later := ban
	later.Issued = at.Add(time.Second)
	lift := identity.Order{Kind: identity.Unban, User: "mallory", Issued: at.Add(time.Second)}
	good("a kick of one stay", "alice", alice.Device, sign(alice, plain, identity.Order{Kind: identity.Kick, User: "mallory", Stay: [16]byte(feedC)}))
	good("a ban without an end", "alice", alice.Device, sign(alice, plain, ban))
	good("a ban with an end", "bob", bob.Device, sign(bob, token(bob, "bob", nil), identity.Order{Kind: identity.Ban, User: "trent", Until: at.Add(time.Hour)}))
	good("a later lifting by another moderator", "bob", bob.Device, sign(bob, token(bob, "bob", nil), lift))
	good("a dismissal", "alice", alice.Device, sign(alice, plain, identity.Order{Kind: identity.Dismiss, Issued: at.Add(-day + time.Second)}))
	good("by an issuer: a ban", "", root, byIssuer(identity.Order{Kind: identity.Ban, User: "mallory", Issued: at.Add(-time.Hour)}))
	good("by an issuer: a kick of all stays", "", root, byIssuer(identity.Order{Kind: identity.Kick, User: "mallory", Issued: at}))
	good("within the skew ahead", "alice", alice.Device, sign(alice, plain, identity.Order{Kind: identity.Unban, User: "trent", Issued: at.Add(identity.MaxSkew)}))
	good("by a token that has expired since", "carol", carol.Device, sign(carol, token(carol, "carol", func(c *identity.Claims) { c.Expires = at.Add(-time.Hour) }),
		identity.Order{Kind: identity.Ban, User: "mallory", Issued: at.Add(-2 * time.Hour)}))

	first := out.Accepted[1].Sealed.Sealed
	var c cases
	c.tampered(t, first, wire.DomainOrder, wire.DomainRevocations, alice.Device, stranger)
	body := func(signer ed25519.PrivateKey, change func(*wire.Order)) []byte {
		var m wire.Order
		require.NoError(t, proto.Unmarshal(first[wire.SignatureSize:], &m))
		change(&m)
		return wire.Seal(wire.DomainOrder, signer, marshal(t, &m))
	}
	edit := func(change func(*wire.Order)) []byte { return body(alice.Device, change) }
	c.add("of another app", "other app", edit(func(o *wire.Order) { o.App = app[:] }))
	c.add("of another room", "other room", edit(func(o *wire.Order) { r := id.RoomTag("board", ""); o.Room = r[:] }))
	c.add("of no kind", "malformed", edit(func(o *wire.Order) { o.Kind = 0 }))
	c.add("of an unknown kind", "malformed", edit(func(o *wire.Order) { o.Kind = 5 }))
	c.add("a ban of nobody", "malformed", edit(func(o *wire.Order) { o.User = "" }))
	c.add("a user that is no ID", "malformed", edit(func(o *wire.Order) { o.User = "a b" }))
	c.add("a dismissal of a user", "malformed", edit(func(o *wire.Order) { o.Kind = wire.OrderKind_ORDER_DISMISS }))
	c.add("a ban of a stay", "malformed", edit(func(o *wire.Order) { o.Stay = feedC }))
	c.add("a stay of 15 bytes", "malformed", edit(func(o *wire.Order) { o.Kind, o.Stay = wire.OrderKind_ORDER_KICK, feedC[:15] }))
	c.add("a kick with an end", "malformed", edit(func(o *wire.Order) { o.Kind, o.UntilMs = wire.OrderKind_ORDER_KICK, at.UnixMilli()+1 }))
	c.add("an end that is its beginning", "malformed", edit(func(o *wire.Order) { o.UntilMs = o.IssuedMs }))
	c.add("a negative end", "malformed", edit(func(o *wire.Order) { o.UntilMs = -1 }))
	c.add("no time", "malformed", edit(func(o *wire.Order) { o.IssuedMs = 0 }))
	c.add("a device and an issuer", "malformed", edit(func(o *wire.Order) { o.Kid = issuer.Public().Kid }))
	c.add("neither a device nor an issuer", "malformed", edit(func(o *wire.Order) { o.Device, o.Token = nil, "" }))
	c.add("a device without a token", "malformed", edit(func(o *wire.Order) { o.Token = "" }))
	c.add("an issuer that nobody knows", "issuer", body(stranger, func(o *wire.Order) { o.Device, o.Token, o.Kid = nil, "", "x" }))
	c.add("signed by a stranger in the name of an issuer", "signature", body(stranger, func(o *wire.Order) {
		o.Device, o.Token, o.Kid = nil, "", issuer.Public().Kid
	}))
	c.add("too large", "malformed", edit(func(o *wire.Order) { o.Token = string(bytes.Repeat([]byte("x"), identity.MaxOrder)) }))
	c.add("a member without the role", "role", sign(alice, token(alice, "alice", func(c *identity.Claims) { c.Rooms["ops"] = "member" }), ban))
	c.add("a moderator of another room", "role", sign(alice, token(alice, "alice", func(c *identity.Claims) { c.Rooms = map[string]string{"board": "moderator"} }), ban))
	c.add("another device's token", "token", sign(bob, plain, ban))
	c.add("a token that is none", "token", sign(alice, "a.b.c", ban))
	c.add("a token that had expired", "token", sign(alice, token(alice, "alice", func(c *identity.Claims) { c.Expires = at.Add(-2 * time.Minute) }), ban))
	c.add("a token that was issued later", "token", sign(alice, token(alice, "alice", func(c *identity.Claims) { c.Issued = at.Add(121 * time.Second) }), ban))
	c.add("from the future", "clock", sign(alice, plain, identity.Order{Kind: identity.Ban, User: "mallory", Issued: at.Add(identity.MaxSkew + 1e6)}))
	c.add("a ban that has ended", "expired", sign(alice, plain, identity.Order{Kind: identity.Ban, User: "mallory", Issued: at.Add(-time.Hour), Until: at}))
	c.add("a dismissal that is too old", "expired", sign(alice, plain, identity.Order{Kind: identity.Dismiss, Issued: at.Add(-day)}))
	out.Refused = c

	out.Winners = []Winner{
		{"a ban", "member", []string{"a ban without an end"}, true},
		{"a ban of another moderator", "moderator", []string{"a ban without an end"}, false},
		{"the later one", "member", []string{"a later lifting by another moderator", "a ban without an end"}, false},
		{"that of the higher rank", "member", []string{"by an issuer: a ban", "a later lifting by another moderator"}, true},
		{"that of the higher rank, of a moderator", "moderator", []string{"by an issuer: a ban", "a later lifting by another moderator"}, true},
		{"three", "member", []string{"a ban without an end", "a later lifting by another moderator", "by a token that has expired since"}, false},
	}
	frame := &wire.RoomFrame_Orders{}
	var sums [][]byte
	for i, o := range out.Accepted {
		s := sha256.Sum256(o.Sealed.Sealed)
		sums = append(sums, s[:])
		frame.Orders = append(frame.Orders, o.Sealed.Sealed)
		frame.AgesMs = append(frame.AgesMs, uint64(1000*i))
	}
	slices.SortFunc(sums, bytes.Compare)
	out.Hashed = bytes.Join(sums, nil)
	digest := sha256.Sum256(out.Hashed)
	out.Digest = digest[:]
	out.Frame, err = wire.AppendFrame(nil, &wire.RoomFrame{Room: tag[:], Body: &wire.RoomFrame_Orders_{Orders: frame}})
	require.NoError(t, err)
	return out
}
