package presence_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

func TestATokenThatIsNotReplacedEndsTheLogInForPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := vouched(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		start := time.Now()
		const life = 10 * time.Minute
		a.enter("alice", life)
		b.enter("bob", time.Hour)
		r.meet(0, 1)
		expires := start.Add(life)
		until := expires.Add(identity.DefaultLeeway)

		time.Sleep(time.Until(expires.Add(-identity.TokenWarning - time.Millisecond)))
		require.Empty(t, of[presence.TokenExpiring](a))
		time.Sleep(2 * time.Millisecond)
		warned := of[presence.TokenExpiring](a)
		require.Len(t, warned, 1, "30 s before")
		require.True(t, expires.Equal(warned[0].Expires))
		for time.Now().Before(until.Add(-10 * time.Second)) { // the leeway keeps it valid
			require.True(t, b.sees(a))
			require.True(t, a.Self().LoggedInAt(time.Now()))
			require.False(t, a.Self().Expires.After(until), "a statement never outlives its token")
			time.Sleep(time.Second)
		}
		sequence := a.Self().Sequence
		time.Sleep(time.Until(until))
		require.False(t, b.sees(a))
		_, err := b.find("alice")
		require.ErrorIs(t, err, presence.ErrNotFound)
		require.True(t, a.LoggedIn(), "here the user is not logged out")
		require.ErrorIs(t, a.Login(t.Context(), "alice"), presence.ErrLoggedIn)
		require.False(t, a.Self().LoggedInAt(time.Now()))
		ended := of[presence.TokenEnded](a)
		require.Len(t, ended, 1)
		require.ErrorIs(t, ended[0].Err, identity.ErrTokenExpired)
		require.Empty(t, of[presence.Replaced](a))

		time.Sleep(time.Hour)
		require.True(t, r.connected(0, 1), "the connection, with the rooms on it, stays")
		require.Empty(t, of[presence.Refused](a))
		require.Empty(t, of[presence.Refused](b))
		require.False(t, b.sees(a))
		require.Len(t, of[presence.TokenEnded](a), 1, "told once")
		s, err := b.Peer(t.Context(), a.id)
		require.NoError(t, err)
		require.NotNil(t, s.Statement.Grant(), "who it is stays proved")

		require.NoError(t, a.UpdateLoginToken(token(t, a.keys, "alice", time.Hour)))
		soon(t, time.Second, "b sees a again", func() bool { return b.sees(a) })
		require.Equal(t, sequence, a.Self().Sequence, "it is the same log-in")
	})
}

// A log-in may be shown at any time in its last moments: the hello that carries it must not arrive
// after its end.
func TestAHelloAtTheEndOfATokenIsNotRefused(t *testing.T) {
	for before := time.Duration(0); before < 20*latency; before += latency / 2 {
		synctest.Test(t, func(t *testing.T) {
			r := vouched(t, 2)
			defer r.close()
			a, b := r.nodes[0], r.nodes[1]
			until := time.Now().Truncate(time.Millisecond).Add(time.Minute + identity.DefaultLeeway)
			a.enter("alice", time.Minute)
			time.Sleep(time.Until(until) - before)
			r.meet(0, 1)
			time.Sleep(time.Until(until) + time.Second)
			require.Empty(t, of[presence.Refused](b), "%v before the end", before)
			require.Empty(t, b.Online())
		})
	}
}

// A peer keeps showing its log-in after its token has ended: the receiving node judges by itself.
func TestALogInThatIsNotTakenBackEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		a := r.vouch(0, authority(t, identity.DefaultLeeway))
		keys := keysOf(t, r.net.HostKey(1))
		r.net.Connect(1, 0)
		until := time.Now().Truncate(time.Millisecond).Add(time.Minute + identity.DefaultLeeway)
		greet(t, r, 1, a, statementOf(t, keys, a.App(), func(st *identity.Statement) { st.Token = token(t, keys, "alice", time.Minute) }))
		require.Len(t, a.Online(), 1)
		time.Sleep(time.Until(until) - time.Millisecond)
		require.Len(t, a.Online(), 1)
		require.Empty(t, of[presence.PeerChanged](a))
		time.Sleep(time.Millisecond)
		require.Empty(t, a.Online())
		time.Sleep(time.Millisecond)
		changed := of[presence.PeerChanged](a)
		require.Len(t, changed, 1)
		require.True(t, changed[0].Session.Statement.LoggedIn, "it still says so")
		require.False(t, changed[0].Session.Statement.LoggedInAt(time.Now()))
		greet(t, r, 1, a, statementOf(t, keys, a.App(), func(st *identity.Statement) {
			st.Token = token(t, keys, "alice", -identity.DefaultLeeway)
		}))
		require.Empty(t, a.Online(), "nor does saying so again help; whom we know is not cut off for it")
		require.True(t, r.connected(0, 1))
		changed = of[presence.PeerChanged](a)
		time.Sleep(time.Hour)
		require.Equal(t, changed, of[presence.PeerChanged](a))
	})
}

func TestATokenThatIsReplacedInTimeIsNeverNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := vouched(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		const life = 5 * time.Minute
		a.enter("alice", life)
		r.meet(0, 1)
		sequence := a.Self().Sequence
		// When the new token comes after the issue of the previous one: before the warning, after
		// it, and in the leeway.
		for i, after := range []time.Duration{life - time.Minute, life - 10*time.Second, life + identity.DefaultLeeway - 10*time.Second} {
			for end := time.Now().Add(after); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
				require.True(t, b.sees(a), "round %d", i)
			}
			require.NoError(t, a.UpdateLoginToken(token(t, a.keys, "alice", life)))
		}
		for range 400 {
			require.True(t, b.sees(a))
			time.Sleep(250 * time.Millisecond)
		}
		require.Len(t, of[presence.TokenExpiring](a), 2, "the first was replaced before its warning")
		require.Empty(t, of[presence.TokenEnded](a))
		require.Equal(t, sequence, a.Self().Sequence)
		for _, ev := range of[presence.PeerChanged](b) {
			require.True(t, ev.Session.Statement.LoggedIn)
		}
		require.Empty(t, of[presence.PeerDown](b))
	})
}

func TestATokenThatComesLateWarnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := vouched(t, 1)
		defer r.close()
		a := r.nodes[0]
		a.enter("alice", 20*time.Second)
		require.Len(t, of[presence.TokenExpiring](a), 1)
		time.Sleep(time.Minute)
		require.Len(t, of[presence.TokenExpiring](a), 1, "once per token")
		require.NoError(t, a.UpdateLoginToken(token(t, a.keys, "alice", 20*time.Second)))
		require.Len(t, of[presence.TokenExpiring](a), 2)
		require.NoError(t, a.Logout(t.Context()))
		time.Sleep(time.Hour)
		require.Empty(t, of[presence.TokenEnded](a), "after a log-out there is nothing to end")
	})
}

func TestWithoutLeewayALogInEndsWithTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		a, b := r.vouch(0, authority(t, 0)), r.vouch(1, authority(t, 0))
		a.enter("alice", time.Minute)
		r.meet(0, 1)
		time.Sleep(time.Minute - time.Second)
		require.True(t, b.sees(a))
		time.Sleep(time.Second)
		require.False(t, b.sees(a))
		require.Len(t, of[presence.TokenEnded](a), 1)
	})
}
