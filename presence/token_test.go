package presence_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/presence"
	"github.com/starling-mesh/starling/presence/internal/dhttest"
)

const acme = dhttest.App

var (
	issuerKey = dhttest.IssuerKey
	issuer    = dhttest.Issuer
	authority = dhttest.Authority
	token     = dhttest.Token
	tokenBy   = dhttest.TokenBy
)

// vouched starts n unconnected hosts in app mode, with the default leeway.
func vouched(t *testing.T, n int, opts ...presence.Option) *rig {
	t.Helper()
	r := bare(t, n)
	for i := range n {
		r.vouch(i, authority(t, identity.DefaultLeeway), opts...)
	}
	return r
}

// vouch starts host i in app mode.
func (r *rig) vouch(i int, a *identity.Authority, opts ...presence.Option) *node {
	r.t.Helper()
	opts = append([]presence.Option{presence.WithAuthority(a)}, opts...)
	r.nodes[i] = r.start(i, keysOf(r.t, r.net.HostKey(i)), a.App(), opts...)
	r.nodes[i].authority = a
	return r.nodes[i]
}

// enter logs a user in with a token that lives that long.
func (n *node) enter(user string, life time.Duration) {
	n.t.Helper()
	require.NoError(n.t, n.Login(context.Background(), user, presence.WithLoginToken(token(n.t, n.keys, user, life))))
}

func TestALogInNeedsAGoodToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := vouched(t, 1)
		defer r.close()
		a := r.nodes[0]
		somebody := &identity.Keys{Device: seeded(5), User: seeded(5)}
		require.ErrorIs(t, a.UpdateLoginToken(token(t, a.keys, "alice", time.Hour)), presence.ErrNotLoggedIn, "nobody has tried to log in")
		for _, c := range []struct {
			token string
			want  error
			text  string
		}{
			{"", identity.ErrTokenMissing, "none was given"},
			{token(t, somebody, "alice", time.Hour), identity.ErrTokenDevice, ""},
			{token(t, a.keys, "bob", time.Hour), identity.ErrTokenUser, `it was issued to the user "bob", not to "alice"`},
			{tokenBy(t, seeded(78), a.keys, "alice", time.Hour), identity.ErrTokenIssuer, ""},
			{token(t, a.keys, "alice", -3*time.Minute), identity.ErrTokenExpired, "expired 3m0s ago"},
			{token(t, a.keys, "alice", time.Hour, func(c *identity.Claims) { c.Issued = c.Issued.Add(time.Minute * 3) }), identity.ErrClock, ""},
			{token(t, a.keys, "alice", time.Hour, func(c *identity.Claims) { c.Rooms = map[string]string{"ops": "member"} }), identity.ErrTokenPurpose, ""},
		} {
			for _, err := range []error{
				a.Login(t.Context(), "alice", presence.WithLoginToken(c.token)),
				a.UpdateLoginToken(c.token),
			} {
				require.ErrorIs(t, err, c.want)
				require.ErrorAs(t, err, new(*identity.TokenError))
				require.ErrorContains(t, err, "token: "+c.text)
			}
			require.False(t, a.LoggedIn())
			require.Nil(t, a.Self(), "nothing has changed")
		}
		require.NoError(t, a.UpdateLoginToken(token(t, a.keys, "alice", time.Hour)), "a good one logs in")
		require.True(t, a.LoggedIn())
		require.True(t, a.Self().LoggedInAt(time.Now()))
		require.Equal(t, identity.Subject{User: "alice"}, a.Self().Subject())

		require.ErrorIs(t, a.Login(t.Context(), "alice"), presence.ErrLoggedIn, "logged in comes before what is wrong with the token")
		st := a.Self()
		require.ErrorIs(t, a.UpdateLoginToken(""), identity.ErrTokenMissing)
		require.Same(t, st, a.Self(), "a bad one leaves the one before in place")
		require.NoError(t, a.Logout(t.Context()))
		require.False(t, a.LoggedIn())
		require.NotNil(t, a.Self().Grant(), "the log-out is proved to be the user's")
		require.ErrorIs(t, a.UpdateLoginToken(token(t, a.keys, "alice", time.Hour)), presence.ErrNotLoggedIn, "who has logged out stays out")
		require.ErrorIs(t, a.Login(t.Context(), "alice"), identity.ErrTokenMissing)
		require.ErrorIs(t, a.Logout(t.Context()), presence.ErrNotLoggedIn)
		require.ErrorIs(t, a.UpdateLoginToken(token(t, a.keys, "alice", time.Hour)), presence.ErrNotLoggedIn, "nor does a log-out leave anything to complete")
		a.enter("alice", time.Hour)
	})
}

func TestAFailedLogInSetsNoUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := vouched(t, 1)
		defer r.close()
		a := r.nodes[0]
		require.Error(t, a.Login(t.Context(), "alice"))
		a.enter("bob", time.Hour)
		require.Equal(t, "bob", a.Self().User)
	})
}

func TestATokenInOpenModeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		defer r.close()
		a := r.nodes[0]
		require.ErrorIs(t, a.Login(t.Context(), "alice", presence.WithLoginToken("x")), presence.ErrOpenMode)
		require.ErrorIs(t, a.UpdateLoginToken("x"), presence.ErrOpenMode)
		a.login("alice")
	})
}

func TestAnAuthorityOfAnotherAppIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 1)
		_, err := presence.New(r.net.Host(0), testApp, keysOf(t, r.net.HostKey(0)), presence.WithAuthority(authority(t, 0)))
		require.EqualError(t, err, "the authority is of another app: acme.ops")
	})
}

// One node accepts a token and the other does not. For each way in which that can happen, both
// sides read the reason.
func TestBothSidesReadWhyATokenIsRefused(t *testing.T) {
	second := seeded(78)
	for _, c := range []struct {
		name  string
		life  time.Duration
		claim func(*identity.Claims)
		by    ed25519.PrivateKey
		judge func(*testing.T) *identity.Authority // of the node that refuses
		want  []error
		text  string
	}{
		{name: "expired", life: -time.Minute, judge: func(t *testing.T) *identity.Authority { return authority(t, 0) },
			want: []error{identity.ErrTokenExpired}, text: "its statement: log-in token: expired 1m0s ago"},
		{name: "not yet valid", life: time.Hour, claim: func(c *identity.Claims) { c.Begins = c.Issued.Add(time.Minute) },
			judge: func(t *testing.T) *identity.Authority { return authority(t, 0) },
			want:  []error{identity.ErrTokenNotYetValid}, text: "its statement: log-in token: not valid for another 1m0s"},
		{name: "issued in the future", life: time.Hour, claim: func(c *identity.Claims) { c.Issued = c.Issued.Add(time.Minute) },
			judge: func(t *testing.T) *identity.Authority { return authority(t, 0) },
			want:  []error{identity.ErrTokenNotYetValid, identity.ErrClock}, text: "its statement: log-in token: the clock of this device says"},
		{name: "of a foreign issuer", life: time.Hour, by: second, judge: func(t *testing.T) *identity.Authority { return authority(t, 0) },
			want: []error{identity.ErrTokenIssuer}, text: "which is not one of this app's issuers"},
		{name: "revoked", life: time.Hour, claim: func(c *identity.Claims) { c.ID = "stolen" },
			judge: func(t *testing.T) *identity.Authority {
				a := authority(t, 0)
				_, err := a.Revoke(list(t, 1, "stolen"))
				require.NoError(t, err)
				return a
			}, want: []error{identity.ErrTokenRevoked}, text: "its statement: log-in token: its issuer has revoked it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				a := r.vouch(0, authority(t, identity.DefaultLeeway, second))
				b := r.vouch(1, c.judge(t))
				by, claim := c.by, c.claim
				if by == nil {
					by = issuerKey
				}
				if claim == nil {
					claim = func(*identity.Claims) {}
				}
				require.NoError(t, a.Login(t.Context(), "alice", presence.WithLoginToken(tokenBy(t, by, a.keys, "alice", c.life, claim))))
				r.net.Connect(0, 1)
				for _, side := range []struct {
					n      *node
					peer   *node
					remote bool
				}{{a, b, true}, {b, a, false}} {
					_, err := side.n.Peer(t.Context(), side.peer.id)
					var refused *presence.HelloError
					require.ErrorAs(t, err, &refused)
					require.Equal(t, side.remote, refused.Remote)
					require.ErrorContains(t, err, c.text)
					require.ErrorAs(t, err, new(*identity.TokenError))
					for _, want := range c.want {
						require.ErrorIs(t, err, want)
					}
					require.Len(t, of[presence.Refused](side.n), 1)
				}
				require.Empty(t, b.Online())
				require.False(t, r.connected(0, 1))
			})
		})
	}
}

// A node does not check its own token: the other node's hello refuses it.
func TestALogInWithoutItsOwnTokenIsRefusedAtHello(t *testing.T) {
	keys := func(t *testing.T, r *rig) *identity.Keys { return keysOf(t, r.net.HostKey(1)) }
	for _, c := range []struct {
		name  string
		token func(t *testing.T, r *rig) string
		fault wire.TokenFault
		want  error
	}{
		{"none", func(*testing.T, *rig) string { return "" }, wire.TokenFault_TOKEN_MISSING, identity.ErrTokenMissing},
		{"another user's", func(t *testing.T, r *rig) string { return token(t, r.nodes[0].keys, "alice", time.Hour) },
			wire.TokenFault_TOKEN_DEVICE, identity.ErrTokenDevice},
		{"of the device, for another user", func(t *testing.T, r *rig) string { return token(t, keys(t, r), "bob", time.Hour) },
			wire.TokenFault_TOKEN_USER, identity.ErrTokenUser},
		{"for a room", func(t *testing.T, r *rig) string {
			return token(t, keys(t, r), "alice", time.Hour, func(c *identity.Claims) { c.Rooms = map[string]string{"ops": "member"} })
		}, wire.TokenFault_TOKEN_PURPOSE, identity.ErrTokenPurpose},
		{"garbage", func(*testing.T, *rig) string { return "x" }, wire.TokenFault_TOKEN_MALFORMED, identity.ErrTokenMalformed},
		{"oversized", func(*testing.T, *rig) string { return string(make([]byte, 4097)) }, wire.TokenFault_TOKEN_SIZE, identity.ErrTokenSize},
		{"alg none", func(*testing.T, *rig) string { return "eyJhbGciOiJub25lIn0.e30." }, wire.TokenFault_TOKEN_ALGORITHM, identity.ErrTokenAlgorithm},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				a := r.vouch(0, authority(t, identity.DefaultLeeway))
				r.net.Connect(1, 0)
				s := hostile(t, r.net, 1, a.id)
				h := goodHello(a.App())
				h.Statement = statementOf(t, keys(t, r), a.App(), func(st *identity.Statement) { st.Token = c.token(t, r) }).Sealed()
				require.NoError(t, wire.WriteFrame(s, h))
				refusal := readRefusal(t, s)
				require.Equal(t, wire.Refusal_BAD_STATEMENT, refusal.Code)
				require.Equal(t, c.fault, refusal.Token)
				require.Contains(t, refusal.Text, "log-in token: ")
				evs := of[presence.Refused](a)
				require.Len(t, evs, 1)
				require.ErrorIs(t, evs[0].Err, c.want)
				require.Empty(t, a.Online())
			})
		})
	}
}

func TestInAppModeTheNameIsTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := vouched(t, 4)
		defer r.close()
		phone, laptop, watcher, claimant := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
		phone.enter("alice", time.Hour)
		require.NoError(t, claimant.SetUser("alice")) // as in a room, without a token
		r.meet(2, 0)
		r.meet(2, 1)
		r.meet(2, 3)
		found, err := watcher.find("alice")
		require.NoError(t, err)
		require.Equal(t, phone.id, found.Login.Peer)
		time.Sleep(time.Second)
		laptop.enter("alice", time.Hour) // another device, and another key
		soon(t, time.Second, "the earlier log-in ends", func() bool { return !phone.loggedIn() && !watcher.sees(phone) })
		require.False(t, phone.LoggedIn())
		require.Len(t, of[presence.Replaced](phone), 1)
		require.Equal(t, laptop.me(), of[presence.Replaced](phone)[0].By)
		require.ErrorIs(t, phone.UpdateLoginToken(token(t, phone.keys, "alice", time.Hour)), presence.ErrNotLoggedIn, "and stays out")
		found, err = watcher.find("alice")
		require.NoError(t, err)
		require.Equal(t, laptop.id, found.Login.Peer, "no pin stands in the way")
		for _, n := range r.nodes {
			require.Empty(t, of[presence.Conflict](n))
		}
		require.True(t, laptop.loggedIn(), "a name without a token displaces nobody")
	})
}

func TestALaterLogInOutranksOneThatWasMetBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		a := r.vouch(0, authority(t, identity.DefaultLeeway))
		r.net.Connect(1, 0)
		keys := keysOf(t, r.net.HostKey(1))
		ahead := identity.NextSequence(0, time.Now().Add(time.Minute)) // by a clock that is ahead
		greet(t, r, 1, a, statementOf(t, keys, a.App(), func(st *identity.Statement) {
			st.Sequence, st.Token = ahead, token(t, keys, "alice", time.Hour)
		}))
		require.Len(t, a.Online(), 1)
		// Only now is the other log-in known to be of our user.
		a.enter("alice", time.Hour)
		require.Greater(t, a.Self().Sequence, ahead)
		require.True(t, a.loggedIn())
	})
}

func TestANameWithoutATokenChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		a := r.vouch(0, authority(t, identity.DefaultLeeway))
		a.enter("alice", time.Hour)
		r.net.Connect(1, 0)
		keys := keysOf(t, r.net.HostKey(1))
		ahead := identity.NextSequence(0, time.Now().Add(time.Minute))
		greet(t, r, 1, a, statementOf(t, keys, a.App(), func(st *identity.Statement) { st.Sequence, st.LoggedIn = ahead, false }))
		require.True(t, a.loggedIn())
		require.NoError(t, a.Logout(t.Context()))
		a.enter("alice", time.Hour)
		require.Less(t, a.Self().Sequence, ahead, "not even the sequence")
	})
}

func TestANodeOfTheSameNameInOpenModeIsAnotherApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		a := r.vouch(0, authority(t, 0))
		r.nodes[1] = r.start(1, keysOf(t, r.net.HostKey(1)), identity.NewAppID(acme))
		r.nodes[1].login("alice")
		r.net.Connect(0, 1)
		_, err := a.Peer(t.Context(), r.nodes[1].id)
		require.True(t, errors.Is(err, identity.ErrOtherApp), "%v", err)
	})
}
