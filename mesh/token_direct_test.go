package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// logIn makes node i say that it is logged in, for a day, with a log-in token for less, and never
// take that back.
func (g *guild) logIn(i int, life time.Duration) identity.Login {
	g.t.Helper()
	s := g.flock.at[i]
	now := time.Now()
	st, err := g.at[i].Sign(s.who.keys, identity.Statement{
		App: g.flock.all.app, User: fmt.Sprint("u", i), Sequence: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(24 * time.Hour),
		LoggedIn: true, Token: g.token(i, life, func(c *identity.Claims) { c.Rooms, c.ID = nil, fmt.Sprint("of-", i) }),
	})
	require.NoError(g.t, err)
	s.who.self.Store(st)
	s.who.tell()
	return st.Login()
}

// disobey sends outside rooms without checking whether its own user is logged in.
func (g *guild) disobey(from int, to identity.Login) error {
	g.t.Helper()
	p, err := pending(g.flock.at[from].enqueue(g.t.Context(), to, message{to: to.User, payload: []byte("x")}))
	require.NoError(g.t, err)
	_, err = p.Result()
	return err
}

func TestOutsideRoomsALogInCountsAsLongAsItsToken(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		begun := time.Now()
		short, long := g.logIn(0, time.Minute), g.logIn(1, time.Hour)
		end := begun.Add(time.Minute + identity.DefaultLeeway)
		send := func(from int, to identity.Login) error {
			_, err := g.flock.at[from].Send(t.Context(), to, []byte("x"))
			return err
		}
		for time.Until(end) > 2*time.Second {
			require.NoError(t, send(0, long))
			require.NoError(t, send(1, short))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Until(end))
		require.ErrorIs(t, send(0, long), ErrNotLoggedIn, "the sender asks itself")
		var refused *RefusedError
		require.ErrorAs(t, g.disobey(0, long), &refused, "and the receiver does not rely on that")
		require.Equal(t, NotLoggedIn, refused.Reason)
		require.ErrorAs(t, send(1, short), &refused, "nor does who is not logged in take anything")
		require.Equal(t, NotLoggedIn, refused.Reason)
	})
}

func TestOutsideRoomsARevokedLogInDoesNotCount(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		g.logIn(0, time.Hour)
		other := g.logIn(1, time.Hour)
		require.NoError(t, g.disobey(0, other))
		list, err := g.issuer.Revoke(identity.Revocations{
			Version: 1, Issued: time.Now(), Tokens: map[string]time.Time{"of-0": {}},
		})
		require.NoError(t, err)
		_, err = g.at[0].Revoke(list) // the stand-in for hello hands statements over as they are, with their authority
		require.NoError(t, err)
		var refused *RefusedError
		require.ErrorAs(t, g.disobey(0, other), &refused, "on the stream that is open already")
		require.Equal(t, NotLoggedIn, refused.Reason)
	})
}

func TestOneIsOneselfUnderAnyKeyOfTheUser(t *testing.T) {
	inGuild(t, 1, func(t *testing.T, g *guild) {
		me := g.logIn(0, time.Hour)
		me.Key = identity.PublicKey{1}
		_, err := g.flock.at[0].Send(t.Context(), me, []byte("x"))
		require.ErrorIs(t, err, ErrSelf)
	})
}
