package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

func TestAKickedMemberIsOutAndMayJoinAgain(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		rooms := g.enterAll()
		start := time.Now()
		require.NoError(t, rooms[0].Kick(t.Context(), "u2"))
		err := last(t, rooms[2])
		require.Less(t, time.Since(start), time.Second)
		var out *PutOutError
		require.ErrorAs(t, err, &out)
		require.Equal(t, PutOutError{Kind: ErrKicked, By: "u0"}, *out)
		require.Equal(t, []string{"-u2 kicked"}, read(t, rooms[0], 1))
		require.Equal(t, []string{"-u2 kicked"}, read(t, rooms[1], 1))

		again := g.enter(2, "member")
		require.Equal(t, []string{"+u2"}, read(t, rooms[0], 1))
		require.Equal(t, []string{"+u2"}, read(t, rooms[1], 1))
		_, err = again.PublishText(t.Context(), "sorry")
		require.NoError(t, err)
		for _, r := range rooms[:2] {
			require.Equal(t, []string{"u2:sorry"}, read(t, r, 1))
			_, err = r.PublishText(t.Context(), "welcome")
			require.NoError(t, err)
		}
		require.ElementsMatch(t, []string{"+u0", "+u1", "u0:welcome", "u1:welcome"}, append(read(t, again, 3), read(t, again, 1)...))
		read(t, rooms[0], 1)
		read(t, rooms[1], 1)
		quiet(t, again, time.Minute)
		quiet(t, rooms[1], time.Second)
		require.Empty(t, rooms[0].Bans())
	})
}

func TestABanKeepsAUserOutUntilItsEndOrUntilItIsLifted(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		rooms := g.enterAll()
		until := time.Now().Add(10 * time.Minute).Truncate(time.Millisecond)
		require.NoError(t, rooms[0].Ban(t.Context(), "u2", until))
		var out *PutOutError
		require.ErrorAs(t, last(t, rooms[2]), &out)
		require.ErrorIs(t, out, ErrBanned)
		require.True(t, until.Equal(out.Until))
		require.Equal(t, []string{"-u2 kicked"}, read(t, rooms[1], 1))
		require.Len(t, rooms[1].Bans(), 1)
		require.Equal(t, "u2", rooms[1].Bans()[0].User)

		for range 2 { // the second time it remembers
			_, err := g.tryEnter(2, "member")
			require.ErrorAs(t, err, &out)
			require.ErrorIs(t, err, ErrBanned)
			require.True(t, until.Equal(out.Until))
			require.Equal(t, "u0", out.By)
		}
		_, here := g.flock.at[2].Room("ops")
		require.False(t, here)
		quiet(t, rooms[1], time.Second)

		require.NoError(t, rooms[0].Unban(t.Context(), "u2"))
		require.ErrorIs(t, rooms[0].Unban(t.Context(), "u2"), ErrNotMember)
		r := g.enter(2, "member")
		require.Equal(t, []string{"+u2"}, read(t, rooms[1], 1))
		require.Empty(t, rooms[1].Bans())

		require.NoError(t, rooms[0].Ban(t.Context(), "u2", until), "banned again")
		require.ErrorIs(t, last(t, r), ErrBanned)
		require.Equal(t, []string{"-u2 kicked"}, read(t, rooms[1], 1))
		time.Sleep(time.Until(until) + time.Second)
		g.enter(2, "member")
		require.Equal(t, []string{"+u2"}, read(t, rooms[1], 1))
		require.Empty(t, rooms[1].Bans())
		quiet(t, rooms[1], time.Minute)
	})
}

// The user who is banned comes with another device.
func TestABanIsOfTheUserWhateverTheDevice(t *testing.T) {
	inGuild(t, 4, func(t *testing.T, g *guild) {
		spare := g.flock.at[3]
		g.flock.at = g.flock.at[:3]
		rooms := g.enterAll()
		require.NoError(t, rooms[0].Ban(t.Context(), "u2", time.Time{}))
		require.ErrorIs(t, last(t, rooms[2]), ErrBanned)

		now := time.Now()
		st, err := g.at[3].Sign(spare.who.keys, identity.Statement{App: g.all.app, User: "u2", Sequence: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(time.Hour)})
		require.NoError(t, err)
		spare.who.self.Store(st)
		spare.who.tell()
		g.flock.at = append(g.flock.at, spare)
		token := g.token(3, time.Hour, func(c *identity.Claims) { c.User = "u2" })
		_, err = spare.Join(t.Context(), "ops", WithToken(token))
		require.ErrorIs(t, err, ErrBanned)
		read(t, rooms[1], 1)

		// It only listens: who it is shows in the hello alone.
		var mu sync.Mutex
		heard := 0
		require.NoError(t, spare.pubsub.RegisterTopicValidator(topicName(rooms[0].tag), func(context.Context, peer.ID, *pubsub.Message) bool { mu.Lock(); heard++; mu.Unlock(); return true }))
		topic, err := spare.pubsub.Join(topicName(rooms[0].tag))
		require.NoError(t, err)
		sub, err := topic.Subscribe()
		require.NoError(t, err)
		defer sub.Cancel()
		time.Sleep(5 * time.Second)
		before := spare.Stats()
		for range 20 {
			_, err = rooms[1].PublishText(t.Context(), "secret")
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		after := spare.Stats()
		require.Equal(t, before.EnvelopeDuplicates, after.EnvelopeDuplicates)
		require.Zero(t, heard)
	})
}

func TestADismissedRoomMayBeJoinedAnew(t *testing.T) {
	slow := new(meshtest.Clock)
	with := func(i int) []Option {
		if i == 3 {
			return []Option{WithClock(walltime.From(slow.Now))}
		}
		return nil
	}
	inGuildWith(t, 4, with, func(t *testing.T, g *guild) {
		late := g.flock.at[3]
		g.flock.at = g.flock.at[:3]
		rooms := g.enterAll()
		g.flock.at = append(g.flock.at, late)
		require.NoError(t, rooms[0].Dismiss(t.Context()))
		for _, r := range rooms {
			var out *PutOutError
			require.ErrorAs(t, last(t, r), &out)
			require.Equal(t, PutOutError{Kind: ErrDismissed, By: "u0"}, *out)
		}
		time.Sleep(3 * time.Second)
		slow.Set(-90 * time.Second) // by its clock it joins before the dismissal
		rooms = rooms[:0]
		for i := range 4 {
			rooms = append(rooms, g.enter(i, "member"))
			require.Len(t, rooms[i].Members(), i+1, "Join returns when those agree who are there")
		}
		for i, r := range rooms {
			ctx := t.Context()
			require.NoError(t, r.WaitPeers(ctx, 3))
			_, err := r.PublishText(ctx, fmt.Sprint("anew ", i))
			require.NoError(t, err)
		}
		for i, r := range rooms {
			got := read(t, r, 6)
			for j := range 4 {
				if j != i {
					require.Contains(t, got, fmt.Sprintf("u%d:anew %d", j, j))
				}
			}
			quiet(t, r, 20*time.Second)
			require.Len(t, r.Members(), 4)
		}
	})
}

func TestOnlyThoseWhoOutrankMayPutOut(t *testing.T) {
	inGuild(t, 4, func(t *testing.T, g *guild) {
		mod, peer, member := g.enter(0, "moderator"), g.enter(1, "moderator"), g.enter(2, "member")
		read(t, mod, 2)
		ctx := t.Context()
		for _, err := range []error{
			member.Kick(ctx, "u0"), member.Ban(ctx, "u1", time.Time{}), member.Unban(ctx, "u1"), member.Dismiss(ctx),
		} {
			require.ErrorIs(t, err, ErrNotModerator)
		}
		require.ErrorIs(t, mod.Kick(ctx, "u1"), ErrOutranked)
		require.ErrorIs(t, mod.Ban(ctx, "u1", time.Time{}), ErrOutranked)
		require.ErrorIs(t, mod.Kick(ctx, "u0"), ErrSelf)
		require.ErrorIs(t, mod.Kick(ctx, "nobody"), ErrNotMember)
		require.ErrorIs(t, mod.Unban(ctx, "u2"), ErrNotMember)
		require.Error(t, mod.Ban(ctx, "u2", time.Now().Add(-time.Second)))
		var bad *identity.IDError
		require.ErrorAs(t, mod.Kick(ctx, "no id"), &bad)

		// One who signs all the same.
		for _, o := range []identity.Order{{Kind: identity.Ban, User: "u1"}, {Kind: identity.Kick, User: "u1"}} {
			o.Issued = time.Now()
			sealed, err := identity.SignOrder(mod.mesh.key, mod.mesh.app, mod.tag, ownToken(mod), o)
			require.NoError(t, err)
			require.NoError(t, mod.Submit(ctx, sealed))
		}
		require.Len(t, mod.Members(), 3)

		// The issuer ranks above.
		for _, o := range []identity.Order{{Kind: identity.Ban, User: "u1"}, {Kind: identity.Kick, User: "u2"}} {
			sealed, err := g.issuer.Order("ops", "", o)
			require.NoError(t, err)
			by := map[string]*Room{"u1": member, "u2": mod}[o.User] // anybody may pass one on
			require.NoError(t, by.Submit(ctx, sealed))
		}
		require.ErrorIs(t, last(t, peer), ErrBanned)
		require.ErrorIs(t, last(t, member), ErrKicked)
		require.ErrorIs(t, mod.Unban(ctx, "u1"), ErrOutranked)
		read(t, mod, 2)
		g.enter(2, "member")
		require.Equal(t, []string{"+u2"}, read(t, mod, 1))
		require.ErrorIs(t, mod.Ban(ctx, "u1", time.Time{}), ErrOutranked)
		lift, err := g.issuer.Order("ops", "", identity.Order{Kind: identity.Unban, User: "u1"})
		require.NoError(t, err)
		require.NoError(t, mod.Submit(ctx, lift))
		g.enter(1, "moderator")
		require.Equal(t, []string{"+u1"}, read(t, mod, 1))
	})
}

func TestThereAreNoOrdersInOpenMode(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		ctx := t.Context()
		for _, err := range []error{
			rooms[0].Kick(ctx, "u1"), rooms[0].Ban(ctx, "u1", time.Time{}), rooms[0].Unban(ctx, "u1"), rooms[0].Dismiss(ctx),
			rooms[0].Submit(ctx, []byte("order")),
		} {
			require.ErrorIs(t, err, ErrOpenMode)
		}
		require.Empty(t, rooms[0].Bans())
		issuer, err := identity.NewIssuer("mesh-test", testIssuerKey)
		require.NoError(t, err)
		sealed, err := issuer.Order("ops", "", identity.Order{Kind: identity.Dismiss})
		require.NoError(t, err)
		_, err = rooms[0].outbox.add(ctx, wire.Kind_KIND_ORDER, sealed, noID, accept{})
		require.NoError(t, err)
		_, err = rooms[0].PublishText(ctx, "all here")
		require.NoError(t, err)
		require.Equal(t, []string{"+u0", "u0:all here"}, read(t, rooms[1], 2))
	})
}

// A member gives the room orders that do not hold, in every way that there is.
func TestOrdersThatDoNotHoldHaveNoEffect(t *testing.T) {
	inGuild(t, 4, func(t *testing.T, g *guild) {
		rooms := g.enterAll()
		mod, crook := rooms[0], rooms[3]
		app, tag := mod.mesh.app, mod.tag
		now := time.Now()
		sign := func(r *Room, token string, o identity.Order) []byte {
			if o.Issued.IsZero() {
				o.Issued = now
			}
			sealed, err := identity.SignOrder(r.mesh.key, app, tag, token, o)
			require.NoError(t, err)
			return sealed
		}
		ban := identity.Order{Kind: identity.Ban, User: "u1"}
		role := func(i int, room, role string, alter func(*identity.Claims)) string {
			return g.token(i, time.Hour, func(c *identity.Claims) {
				c.Rooms = map[string]string{room: role}
				if alter != nil {
					alter(c)
				}
			})
		}
		good := sign(mod, ownToken(mod), ban)
		otherRoom := app.RoomTag("lobby", "")
		elsewhere, err := identity.SignOrder(mod.mesh.key, app, otherRoom, ownToken(mod), identity.Order{Kind: identity.Ban, User: "u1", Issued: now})
		require.NoError(t, err)
		foreign, err := identity.NewIssuer("guild", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)), identity.WithRoot(g.issuer.Public().Key))
		require.NoError(t, err)
		alien, err := foreign.Order("ops", "", ban)
		require.NoError(t, err)
		later := bytes.Clone(good)
		later[len(later)-1]++
		for name, c := range map[string]struct {
			sealed []byte
			want   error
		}{
			"a member without the role":         {sign(crook, ownToken(crook), ban), identity.ErrOrderRole},
			"a moderator of another room":       {sign(crook, role(3, "lobby", "moderator", nil), ban), identity.ErrOrderRole},
			"another one's token":               {sign(crook, ownToken(mod), ban), identity.ErrTokenDevice},
			"a token that had expired":          {sign(mod, role(0, "ops", "moderator", func(c *identity.Claims) { c.Issued, c.Expires = now.Add(-3*time.Hour), now.Add(-2*time.Hour) }), ban), identity.ErrTokenExpired},
			"a token from later":                {sign(mod, ownToken(mod), identity.Order{Kind: identity.Ban, User: "u1", Issued: now.Add(-time.Hour)}), identity.ErrTokenNotYetValid},
			"a foreign issuer":                  {alien, identity.ErrTokenIssuer},
			"another room":                      {elsewhere, identity.ErrOrderRoom},
			"an altered one":                    {later, identity.ErrSignature},
			"one from the future":               {sign(mod, ownToken(mod), identity.Order{Kind: identity.Ban, User: "u1", Issued: now.Add(3 * time.Minute)}), identity.ErrClock},
			"a ban that has ended":              {sign(mod, role(0, "ops", "moderator", func(c *identity.Claims) { c.Issued = now.Add(-3 * time.Hour) }), identity.Order{Kind: identity.Ban, User: "u1", Issued: now.Add(-time.Hour), Until: now.Add(-time.Minute)}), identity.ErrOrderExpired},
			"a dismissal of the day before":     {sign(mod, role(0, "ops", "moderator", func(c *identity.Claims) { c.Issued = now.Add(-30 * time.Hour) }), identity.Order{Kind: identity.Dismiss, Issued: now.Add(-25 * time.Hour)}), identity.ErrOrderExpired},
			"garbage":                           {bytes.Repeat([]byte("garbage"), 30), identity.ErrOrderMalformed},
			"more than an order can be":         {make([]byte, identity.MaxOrder+1), identity.ErrOrderMalformed},
			"a signature and nothing besides":   {make([]byte, wire.SignatureSize), identity.ErrOrderMalformed},
			"an order of no kind that there is": {sealAs(t, mod, &wire.Order{Kind: 9, User: "u1", IssuedMs: now.UnixMilli()}), identity.ErrOrderMalformed},
			"a dismissal of a user":             {sealAs(t, mod, &wire.Order{Kind: wire.OrderKind_ORDER_DISMISS, User: "u1", IssuedMs: now.UnixMilli()}), identity.ErrOrderMalformed},
		} {
			require.ErrorIs(t, crook.Submit(t.Context(), c.sealed), c.want, name)
			_, err := crook.outbox.add(t.Context(), wire.Kind_KIND_ORDER, c.sealed, noID, accept{})
			require.NoError(t, err)
			for _, r := range rooms[:3] {
				crook.mesh.tell(r.mesh.host.ID(), &wire.RoomFrame{Room: tag[:], Body: &wire.RoomFrame_Orders_{
					Orders: &wire.RoomFrame_Orders{Orders: [][]byte{c.sealed}, AgesMs: []uint64{0}},
				}})
			}
			time.Sleep(time.Second) // a stream that breaks the rules is opened again
		}
		time.Sleep(5 * time.Second)
		for _, r := range rooms {
			require.Len(t, r.Members(), 4)
			require.Empty(t, r.Bans())
			r.do(func(st *stay.Stay, _ time.Time) { require.Empty(t, st.Orders()) })
			quiet(t, r, time.Second)
		}
		require.Positive(t, g.flock.at[1].Stats().RoomViolations)
		require.NoError(t, crook.Submit(t.Context(), good), "the genuine one holds, whoever passes it on")
		require.ErrorIs(t, last(t, rooms[1]), ErrBanned)
	})
}

// sealAs signs an order that nothing here would sign.
func sealAs(t *testing.T, r *Room, o *wire.Order) []byte {
	t.Helper()
	o.App, o.Room, o.Device, o.Token = r.mesh.app[:], r.tag[:], r.device[:], ownToken(r)
	body, err := proto.Marshal(o)
	require.NoError(t, err)
	return wire.Seal(wire.DomainOrder, r.mesh.key, body)
}

func TestAReplayedOrderHasNoEffectOnWhatCameAfterIt(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		rooms := g.enterAll()
		mod := rooms[0]
		var old [][]byte
		keep := func() {
			mod.do(func(st *stay.Stay, _ time.Time) {
				for _, o := range st.Orders() {
					old = append(old, o.Sealed())
				}
			})
		}
		require.NoError(t, mod.Kick(t.Context(), "u2"))
		keep()
		require.ErrorIs(t, last(t, rooms[2]), ErrKicked)
		r := g.enter(2, "member")
		require.NoError(t, mod.Ban(t.Context(), "u2", time.Time{}))
		keep()
		require.ErrorIs(t, last(t, r), ErrBanned)
		require.NoError(t, mod.Unban(t.Context(), "u2"))
		require.NoError(t, mod.Dismiss(t.Context()))
		require.ErrorIs(t, last(t, mod), ErrDismissed)
		keep()
		require.ErrorIs(t, last(t, rooms[1]), ErrDismissed)
		require.GreaterOrEqual(t, len(old), 5)

		for i := range rooms {
			rooms[i] = g.enter(i, "member")
		}
		for _, r := range rooms {
			read(t, r, 2)
		}
		for _, sealed := range old {
			for _, r := range rooms {
				for _, to := range rooms {
					r.mesh.tell(to.mesh.host.ID(), &wire.RoomFrame{Room: r.tag[:], Body: &wire.RoomFrame_Orders_{
						Orders: &wire.RoomFrame_Orders{Orders: [][]byte{sealed}, AgesMs: []uint64{0}},
					}})
				}
				_ = r.Submit(t.Context(), sealed)
			}
		}
		for _, r := range rooms {
			quiet(t, r, 20*time.Second)
			require.Len(t, r.Members(), 3)
		}
	})
}

func TestRevokingAModeratorsTokenVoidsItsOrders(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		rooms := g.enterAll()
		require.NoError(t, rooms[0].Ban(t.Context(), "u2", time.Time{}))
		require.ErrorIs(t, last(t, rooms[2]), ErrBanned)
		read(t, rooms[1], 1)
		time.Sleep(time.Second)
		list, err := g.issuer.Revoke(identity.Revocations{Version: 1, Issued: time.Now(), Users: map[string]time.Time{"u0": time.Now()}})
		require.NoError(t, err)
		for _, authority := range g.at {
			_, err := authority.Revoke(list)
			require.NoError(t, err)
		}
		require.Equal(t, []string{"-u0 dropped"}, read(t, rooms[1], 1))
		require.Empty(t, rooms[1].Bans())
		g.enter(2, "member")
		require.Equal(t, []string{"+u2"}, read(t, rooms[1], 1))
	})
}

// The one who bans has a clock that is ahead: what is ordered afterwards counts all the same.
func TestALaterOrderCountsWhateverTheClocksShow(t *testing.T) {
	fast := new(meshtest.Clock)
	fast.Set(time.Minute)
	with := func(i int) []Option {
		if i == 1 {
			return []Option{WithClock(walltime.From(fast.Now))}
		}
		return nil
	}
	inGuildWith(t, 3, with, func(t *testing.T, g *guild) {
		a, b := g.enter(0, "moderator"), g.enter(1, "moderator")
		read(t, a, 1)
		for range 2 {
			require.NoError(t, b.Ban(t.Context(), "u2", time.Time{}))
			require.Len(t, a.Bans(), 1)
			require.NoError(t, a.Unban(t.Context(), "u2"))
			require.Empty(t, a.Bans())
			require.Empty(t, b.Bans())
		}
	})
}
