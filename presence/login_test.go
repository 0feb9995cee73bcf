package presence_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

func TestTheFirstOfJoinAndLogInSetsTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		require.Nil(t, a.Self())
		require.NoError(t, a.SetUser("alice"))
		st := a.Self()
		require.False(t, st.LoggedIn)
		require.NoError(t, a.SetUser("alice"))
		require.Same(t, st, a.Self(), "the same again changes nothing")
		require.EqualError(t, a.SetUser("bob"), `the node has another user ID: it is "alice", not "bob"`)
		require.ErrorIs(t, a.Login(t.Context(), "bob"), presence.ErrOtherUser)
		a.login("alice")
		require.True(t, a.loggedIn())
		require.True(t, a.Self().Newer(st))

		b.login("bob")
		require.NoError(t, b.Logout(t.Context()))
		require.ErrorIs(t, b.SetUser("carol"), presence.ErrOtherUser, "logging out does not free the name")
	})
}

func TestLogInAndLogOutAreRefusedWhereTheyMakeNoSense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		defer r.close()
		a := r.nodes[0]
		require.ErrorIs(t, a.Logout(t.Context()), presence.ErrNotLoggedIn)
		require.EqualError(t, a.Login(t.Context(), ""), `user ID "": empty`)
		require.EqualError(t, a.Login(t.Context(), "a b"), `user ID "a b": ' ' is not one of a-z A-Z 0-9 _ @ . -`)
		require.EqualError(t, a.SetUser("a/b"), `user ID "a/b": '/' is not one of a-z A-Z 0-9 _ @ . -`)
		require.Nil(t, a.Self(), "nothing has changed")
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, a.Login(cancelled, "alice"), context.Canceled)

		a.login("alice")
		st := a.Self()
		require.ErrorIs(t, a.Login(t.Context(), "alice"), presence.ErrLoggedIn)
		require.Same(t, st, a.Self())
		require.NoError(t, a.Logout(t.Context()))
		require.ErrorIs(t, a.Logout(t.Context()), presence.ErrNotLoggedIn)
		require.Equal(t, st.Sequence, a.Self().Sequence, "a log-out must not outrank a log-in elsewhere")
		require.True(t, a.Self().Newer(st))
		time.Sleep(time.Second)
		a.login("alice")
		require.Greater(t, a.Self().Sequence, st.Sequence)
	})
}

func TestAClosedDirectorySaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a := r.nodes[0]
		a.login("alice")
		r.meet(0, 1)
		require.NoError(t, a.Close())
		require.NoError(t, a.Close(), "twice")
		for _, err := range []error{
			a.Login(t.Context(), "alice"), a.SetUser("alice"), a.Logout(t.Context()),
			second(a.Peer(t.Context(), r.nodes[1].id)), second(a.find("bob")),
		} {
			require.ErrorIs(t, err, presence.ErrClosed)
			require.ErrorIs(t, err, net.ErrClosed)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestCloseSaysGoodByeAndWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		a.login("alice")
		r.meet(0, 1)
		r.meet(0, 2)
		r.net.Cut(0, 2)
		start := time.Now()
		require.NoError(t, a.Close())
		require.LessOrEqual(t, time.Since(start), 600*time.Millisecond)
		require.True(t, r.connected(1, 0), "the host stays open")
		require.False(t, b.sees(a), "b was told")
	})
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		r.meet(0, 1)
		r.net.Cut(0, 1)
		r.net.Connect(0, 2)
		b.login("bob") // its hello to a gets no answer
		found, peer := make(chan error, 1), make(chan error, 1)
		go func() { found <- second(a.find("carol")) }()
		s := hostile(t, r.net, 2, a.id) // an open hello
		_, _ = s.Write([]byte{100})
		defer s.Reset()
		require.NoError(t, r.nodes[2].Close())
		go func() {
			_, err := a.Peer(context.Background(), r.net.ID(2))
			peer <- err
		}()
		time.Sleep(10 * time.Millisecond)
		for _, n := range []*node{a, b} {
			start := time.Now()
			require.NoError(t, n.Close())
			require.LessOrEqual(t, time.Since(start), 600*time.Millisecond)
		}
		require.Error(t, <-found)
		<-peer
	})
}

func TestAStatementIsSignedAnewAtAThirdOfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = time.Hour
		r := newRig(t, 2, presence.WithStatementLife(life))
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		a.login("alice")
		r.meet(0, 1)
		first := a.Self()
		require.Equal(t, life, first.Expires.Sub(first.Issued))
		time.Sleep(life/3 - time.Minute)
		require.Same(t, first, a.Self())
		time.Sleep(2*time.Minute + time.Second)
		next := a.Self()
		require.True(t, next.Newer(first))
		require.Equal(t, first.Sequence, next.Sequence, "it is the same log-in")
		require.True(t, next.LoggedIn)
		s, err := b.Peer(t.Context(), a.id)
		require.NoError(t, err)
		require.Equal(t, next.Sealed(), s.Statement.Sealed(), "and peers have it")
		time.Sleep(10 * life)
		require.True(t, b.sees(a), "so it never expires")
	})
}

func TestALogInThatIsNotRenewedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		r.net.Connect(1, 0)
		keys := keysOf(t, r.net.HostKey(1))
		greet(t, r, 1, a, statementOf(t, keys, testApp, func(s *identity.Statement) { s.Expires = s.Issued.Add(time.Minute) }))
		require.Len(t, a.Online(), 1)
		_, err := a.find("alice")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Empty(t, a.Online())
		_, err = a.find("alice")
		require.ErrorIs(t, err, presence.ErrNotFound)
	})
}

func TestASequenceIsKeptAndRises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, err := identity.OpenDir(t.TempDir())
		require.NoError(t, err)
		defer dir.Close()
		r := bare(t, 0)
		key := dir.Keys().Libp2p()
		i := r.net.NewHost(key)
		ahead := uint64(time.Now().Add(time.Minute).UnixMilli()) // as if the clock had been put back a little
		require.NoError(t, dir.SetSequence(ahead))
		n := r.start(i, dir.Keys(), testApp, presence.WithRemembered(dir), presence.WithPins(dir.Pins()))
		n.login("alice")
		require.Equal(t, ahead+1, n.Self().Sequence)
		require.Equal(t, ahead+1, dir.Sequence())
		require.NoError(t, n.Close())
	})
}
