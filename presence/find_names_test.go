package presence_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

func TestANameOfTwoStrangersIsAConflict(t *testing.T) {
	for name, far := range map[string]bool{"connected": false, "known to neighbours": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 5)
				defer r.close()
				a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
				b.login("bob")
				c.login("bob")
				if far {
					r.meet(0, 3)
					r.meet(3, 1)
					r.meet(0, 4)
					r.meet(4, 2)
				} else {
					r.meet(0, 1)
					r.meet(0, 2)
				}
				_, err := a.find("bob")
				var conflict *presence.ConflictError
				require.ErrorAs(t, err, &conflict)
				require.Equal(t, "bob", conflict.User)
				require.True(t, conflict.Pinned.IsZero())
				require.ElementsMatch(t, []identity.Login{b.me(), c.me()}, conflict.Found)

				for _, want := range []*node{b, c} { // an exact address picks one
					got, err := a.find("bob#" + want.keys.UserKey().Fingerprint())
					require.NoError(t, err)
					require.Equal(t, want.me(), got.Login)
				}
				_, err = a.find("bob")
				require.ErrorAs(t, err, &conflict, "and pins nothing")
				_, err = a.find("bob#" + a.keys.UserKey().Fingerprint())
				require.ErrorIs(t, err, presence.ErrNotFound)
			})
		})
	}
}

func TestAPinnedNameIsNotSentToAnotherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		b.login("bob")
		r.meet(0, 1)
		_, err := a.find("bob")
		require.NoError(t, err)
		require.NoError(t, b.Logout(t.Context()))
		c.login("bob")
		r.meet(0, 2)
		_, err = a.find("bob")
		require.Equal(t, &presence.ConflictError{User: "bob", Pinned: b.keys.UserKey(), Found: []identity.Login{c.me()}}, err)
		require.EqualError(t, err, fmt.Sprintf("bob is pinned to key %s, which is not there, but bob#%s is",
			b.keys.UserKey().Fingerprint(), c.keys.UserKey().Fingerprint()))
		b.login("bob")
		soon(t, time.Second, "bob to be back", func() bool { return a.sees(b) })
		got, err := a.find("bob")
		require.NoError(t, err, "both are there: the pin decides")
		require.Equal(t, b.me(), got.Login)
		got, err = a.find(c.me().Address().String())
		require.NoError(t, err)
		require.Equal(t, c.me(), got.Login)
	})
}

func TestOfTwoDevicesOfOneUserTheLaterLogInIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 3)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		user := seeded(5)
		var last *identity.Statement
		for i := 1; i <= 2; i++ {
			keys := keysOf(t, r.net.HostKey(i)).WithUser(user)
			last = statementOf(t, keys, testApp, func(*identity.Statement) {})
			r.net.Connect(i, 0)
			greet(t, r, i, a, last) // neither has a directory, so neither gives way
			time.Sleep(time.Second)
		}
		require.Len(t, a.Online(), 2)
		got, err := a.find("alice")
		require.NoError(t, err)
		require.Equal(t, last.Login(), got.Login)
	})
}
