package identity

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
)

// bench is an issuer with an authority, and the keys and the token of a moderator of the room ops.
type bench struct {
	issuer    *Issuer
	authority *Authority
	keys      *Keys
	token     string
	tag       [32]byte
}

var benchTime = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func newBench(t testing.TB) *bench {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	issuer, err := NewIssuer("acme", ed25519.NewKeyFromSeed(seed))
	require.NoError(t, err)
	issuers, err := NewIssuers(issuer.Public())
	require.NoError(t, err)
	a, err := NewAuthority("acme", issuers)
	require.NoError(t, err)
	seed[0] = 1
	b := &bench{issuer: issuer, authority: a, keys: &Keys{Device: ed25519.NewKeyFromSeed(seed), User: ed25519.NewKeyFromSeed(seed)}, tag: a.App().RoomTag("ops", "")}
	b.token, err = issuer.Issue(Claims{
		User: "ann", Device: b.keys.DeviceKey(), Rooms: map[string]string{"ops": RoleModerator}, ID: "ann",
		Issued: benchTime.Add(-48 * time.Hour), Expires: benchTime.Add(time.Hour),
	})
	require.NoError(t, err)
	return b
}

func (b *bench) sign(t testing.TB, o Order) []byte {
	t.Helper()
	if o.Issued.IsZero() {
		o.Issued = benchTime
	}
	sealed, err := SignOrder(b.keys.Device, b.authority.App(), b.tag, b.token, o)
	require.NoError(t, err)
	return sealed
}

func TestAnOrderThatIsOpenedSaysWhatWasSigned(t *testing.T) {
	b := newBench(t)
	for _, o := range []Order{
		{Kind: Kick, User: "bob", Stay: [16]byte{1, 2}},
		{Kind: Kick, User: "bob"},
		{Kind: Ban, User: "bob", Until: benchTime.Add(time.Minute)},
		{Kind: Ban, User: "bob"},
		{Kind: Unban, User: "bob", Until: benchTime.Add(time.Minute)},
		{Kind: Dismiss},
	} {
		sealed := b.sign(t, o)
		got, err := b.authority.OpenOrder(sealed, "ops", b.tag, benchTime)
		require.NoError(t, err, o.Kind)
		require.Equal(t, []any{o.Kind, o.User, o.Stay, o.Until, "ann", ""}, []any{got.Kind, got.User, got.Stay, got.Until, got.By, got.Kid})
		require.True(t, benchTime.Equal(got.Issued))
		require.Equal(t, sealed, got.Sealed())
		require.Equal(t, 1, got.Rank())

		sealed, err = b.issuer.Order("ops", "", o)
		require.NoError(t, err)
		got, err = b.authority.OpenOrder(sealed, "ops", b.tag, time.Now())
		if o.Until.IsZero() {
			require.NoError(t, err)
			require.Equal(t, []any{"", b.issuer.Public().Kid, 2}, []any{got.By, got.Kid, got.Rank()})
			require.WithinDuration(t, time.Now(), got.Issued, time.Minute)
		}
	}
	_, err := b.issuer.Order("o p s", "", Order{Kind: Dismiss})
	var bad *IDError
	require.ErrorAs(t, err, &bad)
	_, err = b.issuer.Order("ops", "", Order{Kind: Ban})
	require.ErrorIs(t, err, ErrOrderMalformed)
}

func TestAnOrderEnds(t *testing.T) {
	b := newBench(t)
	for _, o := range []Order{{Kind: Kick, User: "bob"}, {Kind: Dismiss}, {Kind: Ban, User: "bob", Until: benchTime.Add(time.Minute)}} {
		end := o.Until
		if end.IsZero() {
			end = benchTime.Add(OrderLife)
		}
		sealed := b.sign(t, o)
		_, err := b.authority.OpenOrder(sealed, "ops", b.tag, end.Add(-time.Millisecond))
		require.NoError(t, err)
		_, err = b.authority.OpenOrder(sealed, "ops", b.tag, end)
		require.ErrorIs(t, err, ErrOrderExpired)
	}
	_, err := b.authority.OpenOrder(b.sign(t, Order{Kind: Ban, User: "bob"}), "ops", b.tag, benchTime.Add(1000*24*time.Hour))
	require.NoError(t, err, "its token has expired long since, and the ban has no end")
}

// A revocation voids what was signed with the token, also what was opened before.
func TestARevokedTokenUpholdsNoOrder(t *testing.T) {
	b := newBench(t)
	sealed := b.sign(t, Order{Kind: Ban, User: "bob"})
	o, err := b.authority.OpenOrder(sealed, "ops", b.tag, benchTime)
	require.NoError(t, err)
	require.NoError(t, b.authority.Upholds(o))
	list, err := b.issuer.Revoke(Revocations{Version: 1, Issued: benchTime, Tokens: map[string]time.Time{"ann": {}}})
	require.NoError(t, err)
	_, err = b.authority.Revoke(list)
	require.NoError(t, err)
	require.ErrorIs(t, b.authority.Upholds(o), ErrTokenRevoked)
	_, err = b.authority.OpenOrder(sealed, "ops", b.tag, benchTime)
	require.ErrorIs(t, err, ErrTokenRevoked)
	var bad *OrderError
	require.ErrorAs(t, err, &bad)
}

func TestADataDirectoryKeepsOrders(t *testing.T) {
	path := t.TempDir()
	d, err := OpenDir(path)
	require.NoError(t, err)
	one, two := [32]byte{1}, [32]byte{2}
	require.Nil(t, d.Orders(one))
	require.NoError(t, d.SetOrders(one, []byte("kept")))
	require.NoError(t, d.SetOrders(two, []byte("gone")))
	require.NoError(t, d.SetOrders(two, nil))
	require.NoError(t, d.Close())
	d, err = OpenDir(path)
	require.NoError(t, err)
	require.Equal(t, "kept", string(d.Orders(one)))
	require.Nil(t, d.Orders(two))
	for i := range maxOrderRooms + 3 {
		require.NoError(t, d.SetOrders([32]byte{3, byte(i), byte(i >> 8)}, []byte("more")))
	}
	require.Len(t, d.orders, maxOrderRooms)
	require.NoError(t, d.Close())
	d, err = OpenDir(path)
	require.NoError(t, err)
	require.Len(t, d.orders, maxOrderRooms, "the disk has no more")
	require.NoError(t, d.Close())
}

// FuzzOrder signs its input, so that it gets past the signature check.
func FuzzOrder(f *testing.F) {
	b := newBench(f)
	for _, o := range []Order{{Kind: Kick, User: "bob", Stay: [16]byte{1}}, {Kind: Ban, User: "bob", Until: benchTime.Add(time.Minute)}, {Kind: Dismiss}} {
		sealed := b.sign(f, o)
		f.Add(sealed[wire.SignatureSize:], true)
		f.Add(sealed, false)
	}
	f.Fuzz(func(t *testing.T, body []byte, signed bool) {
		sealed := body
		if signed {
			sealed = wire.Seal(wire.DomainOrder, b.keys.Device, body)
		}
		o, err := b.authority.OpenOrder(sealed, "ops", b.tag, benchTime)
		if err != nil {
			if _, ok := errors.AsType[*OrderError](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		var msg wire.Order
		require.NoError(t, proto.Unmarshal(sealed[wire.SignatureSize:], &msg))
		require.Equal(t, RoleModerator, o.Grant.Rooms["ops"])
		require.Equal(t, b.keys.DeviceKey(), o.Grant.Device)
		require.False(t, o.Over(benchTime))
		require.Equal(t, o.Kind == Dismiss, o.User == "")
		again, err := b.authority.OpenOrder(o.Sealed(), "ops", b.tag, benchTime)
		require.NoError(t, err)
		require.Equal(t, o.Sum(), again.Sum())
	})
}
