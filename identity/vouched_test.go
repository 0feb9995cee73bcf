package identity_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// vouched returns what the tests sign in app mode: alice, logged in at testTime with a token for an
// hour.
func vouched(t testing.TB, a *identity.Authority, change ...func(*identity.Statement)) identity.Statement {
	st := statement()
	st.App, st.Token = a.App(), genuine(t, claims())
	for _, f := range change {
		f(&st)
	}
	return st
}

func TestALogInInAppModeIsVouchedFor(t *testing.T) {
	a := newAuthority(t)
	v := identity.NewVerifier(a.App(), identity.WithAuthority(a))
	own, err := a.Sign(oneKey(1), vouched(t, a))
	require.NoError(t, err)
	got, err := v.Verify(own.Sealed(), testTime)
	require.NoError(t, err)
	for _, st := range []*identity.Statement{own, got} {
		require.Equal(t, "alice", st.Grant().User)
		require.Equal(t, identity.Subject{User: "alice"}, st.Subject(), "the name alone is the user")
		require.True(t, st.SameUser(identity.Login{User: "alice", Key: public(seeded(9))}))
		require.False(t, st.SameUser(identity.Login{User: "bob", Key: st.UserKey}))
		require.True(t, st.LoggedInAt(testTime))
	}
}

func TestALogInInOpenModeIsOfItsKey(t *testing.T) {
	st, err := oneKey(1).Sign(statement())
	require.NoError(t, err)
	require.Equal(t, identity.Subject{User: "alice", Key: device}, st.Subject())
	require.True(t, st.SameUser(st.Login()))
	require.False(t, st.SameUser(identity.Login{User: "alice", Key: public(seeded(9))}))
	require.Nil(t, st.Grant())
	require.True(t, st.LoggedInAt(testTime))
	require.False(t, st.LoggedInAt(st.Expires))
	require.NoError(t, st.CheckLogin(testTime))
}

func TestALogInWithoutItsOwnTokenIsRefused(t *testing.T) {
	a := newAuthority(t)
	room := genuine(t, claims(without("login")))
	mallory := oneKey(66)
	for _, c := range []struct {
		name   string
		keys   *identity.Keys
		change func(*identity.Statement)
		want   error
		text   string
	}{
		{"no token", oneKey(1), func(s *identity.Statement) { s.Token = "" }, identity.ErrTokenMissing, "log-in token: none was given"},
		{"another user's token under one's own key", mallory, func(*identity.Statement) {}, identity.ErrTokenDevice,
			"log-in token: it is bound to the device key " + device.Fingerprint() + ", and shown by " + mallory.DeviceKey().Fingerprint()},
		{"another user's name with one's own token", oneKey(1), func(s *identity.Statement) { s.User = "bob" }, identity.ErrTokenUser,
			`log-in token: it was issued to the user "alice", not to "bob"`},
		{"a token for rooms", oneKey(1), func(s *identity.Statement) { s.Token = room }, identity.ErrTokenPurpose,
			"log-in token: it is for rooms, not for logging in"},
		{"garbage", oneKey(1), func(s *identity.Statement) { s.Token = "x" }, identity.ErrTokenMalformed,
			"log-in token: it is not of three parts with a dot between them"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := identity.NewVerifier(a.App(), identity.WithAuthority(a))
			st, err := c.keys.Sign(vouched(t, a, c.change)) // as a node that does not check would
			require.NoError(t, err)
			for _, verify := range []func([]byte, time.Time) (*identity.Statement, error){v.Verify, v.VerifyLapsed} {
				_, err = verify(st.Sealed(), testTime)
				require.ErrorIs(t, err, c.want)
				require.EqualError(t, err, "statement: "+c.text)
				var bad *identity.TokenError
				require.ErrorAs(t, err, &bad)
			}
			_, err = a.Sign(c.keys, vouched(t, a, c.change))
			require.ErrorIs(t, err, c.want, "an honest node does not even sign it")
			_, err = identity.Verify(st.Sealed(), a.App(), testTime)
			require.NoError(t, err, "nothing else is wrong with it")
		})
	}
}

func TestALogInEndsWithItsToken(t *testing.T) {
	a := newAuthority(t)
	v := identity.NewVerifier(a.App(), identity.WithAuthority(a))
	own, err := a.Sign(oneKey(1), vouched(t, a))
	require.NoError(t, err)
	expires := testTime.Add(time.Hour)
	_, err = v.Verify(own.Sealed(), expires.Add(119*time.Second))
	require.NoError(t, err, "there is a leeway")
	over := expires.Add(120 * time.Second)
	_, err = v.Verify(own.Sealed(), over)
	require.ErrorIs(t, err, identity.ErrTokenExpired, "though the statement itself is good for a day")
	require.EqualError(t, err, "statement: log-in token: expired 2m0s ago")
	st, err := v.VerifyLapsed(own.Sealed(), over)
	require.NoError(t, err)
	require.False(t, st.LoggedInAt(over))
	require.True(t, st.LoggedInAt(over.Add(-time.Second)))
	require.ErrorIs(t, st.CheckLogin(over), identity.ErrTokenExpired)
}

func TestALogInEndsWhenItsTokenIsRevoked(t *testing.T) {
	a := newAuthority(t)
	v := identity.NewVerifier(a.App(), identity.WithAuthority(a))
	own, err := a.Sign(oneKey(1), vouched(t, a))
	require.NoError(t, err)
	st, err := v.Verify(own.Sealed(), testTime)
	require.NoError(t, err)
	_, err = a.Revoke(revoked(t, 1, "t-1"))
	require.NoError(t, err)
	require.False(t, st.LoggedInAt(testTime), "what was verified before as well")
	_, err = v.Verify(own.Sealed(), testTime)
	require.ErrorIs(t, err, identity.ErrTokenRevoked)
}

func TestAGoodbyeIsProvedByTheToken(t *testing.T) {
	a := newAuthority(t)
	v := identity.NewVerifier(a.App(), identity.WithAuthority(a))
	out := func(s *identity.Statement) { s.LoggedIn = false }
	for _, c := range []struct {
		name   string
		keys   *identity.Keys
		change []func(*identity.Statement)
		proved bool
	}{
		{"with the token", oneKey(1), nil, true},
		{"without", oneKey(1), []func(*identity.Statement){func(s *identity.Statement) { s.Token = "" }}, false},
		{"with another's token", oneKey(2), nil, false},
		{"with garbage", oneKey(1), []func(*identity.Statement){func(s *identity.Statement) { s.Token = "x" }}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			st, err := c.keys.Sign(vouched(t, a, append(c.change, out)...))
			require.NoError(t, err)
			got, err := v.Verify(st.Sealed(), testTime.Add(2*time.Hour))
			require.NoError(t, err, "who is not logged in needs no token, and one that has expired still proves")
			require.Equal(t, c.proved, got.Grant() != nil)
			require.False(t, got.LoggedInAt(testTime))
			require.NoError(t, got.CheckLogin(testTime))
		})
	}
}
