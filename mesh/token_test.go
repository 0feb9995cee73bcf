package mesh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
)

// guild is a flock of an app whose issuer says who is in which room.
type guild struct {
	*flock
	issuer *identity.Issuer
	at     []*identity.Authority // one per node, as in life
	with   func(i int) []Option
}

// inGuild runs f with n stations in app mode, all connected. Each has an authority of its own.
func inGuild(t *testing.T, n int, f func(*testing.T, *guild)) {
	t.Helper()
	inGuildWith(t, n, func(int) []Option { return nil }, f)
}

// inGuildWith is inGuild with further options for each station.
func inGuildWith(t *testing.T, n int, with func(i int) []Option, f func(*testing.T, *guild)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		issuer, err := identity.NewIssuer("guild", testIssuerKey)
		require.NoError(t, err)
		issuers, err := identity.NewIssuers(issuer.Public())
		require.NoError(t, err)
		g := &guild{issuer: issuer, with: with}
		all := newHellos()
		all.app = issuers.AppID("guild")
		g.flock = &flock{t: t, net: meshtest.New(t, meshtest.Options{Hosts: n, Latency: 5 * time.Millisecond}), all: all}
		for i := range n {
			authority, err := identity.NewAuthority("guild", issuers)
			require.NoError(t, err)
			g.at = append(g.at, authority)
			g.flock.at = append(g.flock.at, g.open(i))
		}
		g.net.ConnectAll()
		f(t, g)
	})
}

// open starts a station as the user of its number, anew if it ran before.
func (g *guild) open(i int) *station {
	g.t.Helper()
	s := &station{host: g.net.Host(i), who: g.all.identityOf(g.t, g.net.Host(i)), inbox: newInbox()}
	now := time.Now()
	st, err := g.at[i].Sign(s.who.keys, identity.Statement{
		App: g.all.app, User: fmt.Sprint("u", i), Sequence: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(48 * time.Hour),
	})
	require.NoError(g.t, err)
	s.who.self.Store(st)
	s.who.tell()
	s.Mesh, err = New(s.host, s.who, append([]Option{WithAuthority(g.at[i]), WithInbox(s.inbox.take)}, g.with(i)...)...)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { s.Close() })
	return s
}

// restart ends the process of a station and starts another one.
func (g *guild) restart(i int) {
	g.t.Helper()
	require.NoError(g.t, g.flock.at[i].Close())
	g.flock.at[i] = g.open(i)
}

var testIssuerKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// token is valid for the room ops and as long as life, except for what alter changes.
func (g *guild) token(i int, life time.Duration, alter func(*identity.Claims)) string {
	g.t.Helper()
	s := g.flock.at[i]
	c := identity.Claims{
		User: fmt.Sprint("u", i), Device: s.who.keys.DeviceKey(), Rooms: map[string]string{"ops": "member"}, Expires: time.Now().Add(life),
	}
	if alter != nil {
		alter(&c)
	}
	token, err := g.issuer.Issue(c)
	require.NoError(g.t, err)
	return token
}

func (g *guild) join(i int, life time.Duration) *Room {
	g.t.Helper()
	return g.flock.join(i, "ops", WithToken(g.token(i, life, nil)))
}

func TestRoomsOfAnIssuerAdmitWhomItSays(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		a := g.flock.join(0, "ops", WithToken(g.token(0, time.Hour, func(c *identity.Claims) { c.Rooms["ops"] = "moderator" })))
		b := g.join(1, time.Hour)
		require.Equal(t, []string{"+u1"}, read(t, a, 1))
		require.Equal(t, "moderator", next(t, b).(*MemberJoined).Member.Role)
		require.Equal(t, "member", a.Members()[1].Role)
		_, err := a.SendText(t.Context(), "u1", "psst")
		require.NoError(t, err)
		require.Equal(t, []string{"u0>psst"}, read(t, b, 1))

		other, err := identity.NewIssuer("guild", ed25519.NewKeyFromSeed(append(make([]byte, 31), 1)))
		require.NoError(t, err)
		foreign, err := other.Issue(identity.Claims{User: "u2", Device: g.flock.at[2].who.keys.DeviceKey(), Rooms: map[string]string{"ops": "member"}})
		require.NoError(t, err)
		for _, c := range []struct {
			token string
			want  error
		}{
			{"", identity.ErrTokenMissing},
			{"x.y.z", identity.ErrTokenMalformed},
			{foreign, identity.ErrTokenIssuer},
			{g.token(0, time.Hour, nil), identity.ErrTokenUser},
			{g.token(2, time.Hour, func(c *identity.Claims) { c.Device = g.flock.at[0].who.keys.DeviceKey() }), identity.ErrTokenDevice},
			{g.token(2, time.Hour, func(c *identity.Claims) { c.Rooms = map[string]string{"lobby": "member"} }), identity.ErrTokenRoom},
			{g.token(2, -time.Hour, func(c *identity.Claims) { c.Issued = time.Now().Add(-2 * time.Hour) }), identity.ErrTokenExpired},
			{g.token(2, time.Hour, func(c *identity.Claims) { c.Begins = time.Now().Add(time.Hour / 2) }), identity.ErrTokenNotYetValid},
		} {
			_, err := g.flock.at[2].Join(t.Context(), "ops", WithToken(c.token))
			require.ErrorIs(t, err, c.want)
			var bad *identity.TokenError
			require.ErrorAs(t, err, &bad)
		}
		require.Len(t, a.Members(), 2)
	})
}

// A node that does not check its own token is not let in by the others.
func TestMembersDoNotTrustANodeThatLetsItselfIn(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		a := g.join(0, time.Hour)
		liar := g.flock.at[1].Mesh
		honest := liar.cfg.authority
		liar.cfg.authority = nil
		r, err := liar.Join(t.Context(), "ops", WithToken(g.token(0, time.Hour, nil)))
		require.NoError(t, err)
		liar.cfg.authority = honest
		_, err = r.PublishText(t.Context(), "let me in")
		require.ErrorIs(t, err, ErrUnconfirmed)
		quiet(t, a, 20*time.Second)
		require.Len(t, a.Members(), 1)
		require.Positive(t, g.flock.at[0].Stats().RoomViolations)
		require.Positive(t, g.flock.at[0].Stats().EnvelopesUnclaimed)
	})
}

func TestAMemberIsWarnedOfItsTokensEndAndOneThatUpdatesNeverNotices(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		a := g.join(0, time.Hour)
		start := time.Now()
		b := g.join(1, time.Minute)
		require.Equal(t, []string{"+u0"}, read(t, b, 1))
		require.Equal(t, []string{"+u1"}, read(t, a, 1))
		for range 3 {
			expiring := next(t, b).(*TokenExpiring)
			require.Equal(t, 30*time.Second, expiring.Expires.Sub(expiring.Time).Round(time.Second))

			require.ErrorIs(t, b.UpdateToken(g.token(0, time.Hour, nil)), identity.ErrTokenUser, "a bad one changes nothing")
			require.NoError(t, b.UpdateToken(g.token(1, time.Minute, nil)))
		}
		require.Greater(t, time.Since(start), 80*time.Second)
		require.NoError(t, b.UpdateToken(g.token(1, time.Hour, nil)))
		time.Sleep(10 * time.Minute)
		_, err := b.PublishText(t.Context(), "still here")
		require.NoError(t, err)
		require.Equal(t, []string{"u1:still here"}, read(t, a, 1), "no leave, no second join")
		quiet(t, b, time.Minute)
	})
}

func TestAMemberWhoseTokenEndsIsOutAndTheOthersAreToldAfterTheGrace(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		a := g.join(0, time.Hour)
		b := g.join(1, time.Minute)
		expires := time.Now().Add(time.Minute)
		read(t, a, 1)
		for {
			_, err := recv(t, b)
			if err != nil {
				require.ErrorIs(t, err, identity.ErrTokenExpired)
				break
			}
		}
		require.WithinDuration(t, expires, time.Now(), 2*time.Second)
		_, err := b.PublishText(t.Context(), "and another thing")
		require.ErrorIs(t, err, identity.ErrTokenExpired)
		quiet(t, a, a.mesh.cfg.grace)
		require.Equal(t, []string{"-u1 dropped"}, read(t, a, 1))
		require.WithinDuration(t, expires.Add(a.mesh.cfg.grace), time.Now(), 3*time.Second)
	})
}

func TestANodeThatIgnoresItsTokensEndIsNotHeardBeyondTheLeeway(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		a := g.join(0, time.Hour)
		b := g.join(1, time.Minute)
		read(t, a, 1)
		b.mu.Lock()
		b.stay.Own().Grant = nil // it does not look
		b.mu.Unlock()
		time.Sleep(time.Minute + identity.DefaultLeeway - 10*time.Second)
		_, err := b.PublishText(t.Context(), "within")
		require.NoError(t, err)
		require.Equal(t, []string{"u1:within"}, read(t, a, 1))
		time.Sleep(15 * time.Second)
		_, err = b.PublishText(t.Context(), "beyond")
		require.ErrorIs(t, err, ErrUnconfirmed)
		require.Equal(t, []string{"-u1 dropped"}, read(t, a, 1))
		_, err = b.SendText(t.Context(), "u0", "psst")
		var refused *RefusedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, NotMember, refused.Reason)
		quiet(t, a, 20*time.Second)
		require.Positive(t, g.flock.at[0].Stats().EnvelopesLapsed)
	})
}

func TestARevokedMemberIsOutAtOnce(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		a := g.join(0, time.Hour)
		b := g.join(1, time.Hour)
		read(t, a, 1)
		time.Sleep(time.Second)
		list, err := g.issuer.Revoke(identity.Revocations{
			Version: 1, Issued: time.Now(), Users: map[string]time.Time{"u1": time.Now()},
		})
		require.NoError(t, err)
		for _, authority := range g.at {
			_, err := authority.Revoke(list)
			require.NoError(t, err)
		}
		require.Equal(t, []string{"-u1 dropped"}, read(t, a, 1))
		for err == nil {
			_, err = recv(t, b)
		}
		require.ErrorIs(t, err, identity.ErrTokenRevoked)
		_, err = g.flock.at[1].Join(t.Context(), "ops", WithToken(g.token(1, time.Hour, func(c *identity.Claims) { c.Issued = time.Now().Add(-time.Hour) })))
		require.ErrorIs(t, err, identity.ErrTokenRevoked)
		time.Sleep(2 * time.Second)
		g.join(1, time.Hour) // a token issued since is good
		require.Equal(t, []string{"+u1"}, read(t, a, 1))
	})
}

func TestOneUserOfAnIssuerHasOneSeatWhateverTheDevice(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		witness := g.join(0, time.Hour)
		first := g.join(1, time.Hour)
		read(t, witness, 1)
		time.Sleep(time.Second)
		// u2's device, with a user key of its own, is issued a token for u1.
		who := g.flock.at[2].who
		now := time.Now()
		st, err := g.at[2].Sign(who.keys, identity.Statement{App: g.all.app, User: "u1", Sequence: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(time.Hour)})
		require.NoError(t, err)
		who.self.Store(st)
		who.tell()
		g.flock.join(2, "ops", WithToken(g.token(2, time.Hour, func(c *identity.Claims) { c.User = "u1" })))
		for err == nil {
			_, err = recv(t, first)
		}
		require.ErrorIs(t, err, ErrReplaced)
		quiet(t, witness, 20*time.Second)
		require.Equal(t, g.flock.at[2].host.ID(), witness.Members()[1].Peer)
	})
}

func TestTokensMeanNothingInOpenMode(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		r := f.join(0, "ops", WithToken("whatever"))
		require.True(t, errors.Is(r.UpdateToken("x"), ErrOpenMode))
		require.Empty(t, r.Members()[0].Role)
	})
}

func TestEachTokenIsWarnedOfOnceAndALateOneAtOnce(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		a, b := g.join(0, time.Hour), g.join(1, time.Minute)
		settle()
		during(t, a, time.Second)
		during(t, b, time.Second)
		var expiring []time.Time
		tell := func(d time.Duration) {
			for _, ev := range eventsDuring(t, b, d) {
				expiring = append(expiring, ev.(*TokenExpiring).Expires)
			}
		}
		tell(time.Minute - 20*time.Second) // the first token has some seconds left
		require.Len(t, expiring, 1)
		require.NoError(t, b.UpdateToken(g.token(1, 25*time.Second, nil)))
		tell(time.Millisecond)
		require.Len(t, expiring, 2, "at once")
		require.NoError(t, b.UpdateToken(g.token(1, 10*time.Minute, nil)))
		tell(9 * time.Minute)
		require.Len(t, expiring, 2, "neither of the former ones again")
		tell(40 * time.Second)
		require.Len(t, expiring, 3)
		require.Empty(t, during(t, a, time.Millisecond), "the others have noticed nothing")
	})
}

// The token of a member ends while it is cut off: at that time it is out, and the others drop it.
func TestATokenThatEndsDuringACutTakesEffectAtItsTime(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		a, ends := g.join(0, time.Hour), time.Now().Add(time.Minute)
		b, c := g.join(1, time.Minute), g.join(2, time.Hour)
		settle()
		for _, r := range []*Room{a, b, c} {
			during(t, r, time.Second)
		}
		time.Sleep(time.Until(ends) - 5*time.Second)
		g.cutOff(1)
		var err error
		for err == nil {
			_, err = b.Recv(t.Context())
		}
		require.ErrorIs(t, err, identity.ErrTokenExpired)
		require.WithinDuration(t, ends, time.Now(), 2*time.Second)
		g.net.Heal()
		g.net.Connect(0, 1)
		g.net.Connect(1, 2)
		time.Sleep(15 * time.Second)
		for _, r := range []*Room{a, c} {
			require.Equal(t, []string{"?u1", "-u1 dropped"}, during(t, r, time.Second))
		}
	})
}
