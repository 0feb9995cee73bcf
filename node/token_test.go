package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// backend issues the tokens of a test's app.
type backend struct {
	t       *testing.T
	issuer  *identity.Issuer
	issuers identity.Issuers
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	keys, err := identity.GenerateKeys()
	require.NoError(t, err)
	issuer, err := identity.NewIssuer("acme", keys.User)
	require.NoError(t, err)
	issuers, err := identity.NewIssuers(issuer.Public())
	require.NoError(t, err)
	return &backend{t, issuer, issuers}
}

func (b *backend) options(int) []node.Option {
	return []node.Option{node.WithApp("acme"), node.WithIssuers(b.issuers)}
}

// token returns a token for the user to log in on n and to be in the room ops.
func (b *backend) token(n *node.Node, user string, life time.Duration) string {
	b.t.Helper()
	now := time.Now()
	token, err := b.issuer.Issue(identity.Claims{
		User: user, Device: n.DeviceKey(), Login: true, Rooms: map[string]string{"ops": "member"}, Issued: now, Expires: now.Add(life), ID: "of-" + user,
	})
	require.NoError(b.t, err)
	return token
}

// enter logs a user in on node i.
func (b *backend) enter(s *sim, i int, user string, life time.Duration) *node.Node {
	b.t.Helper()
	n := s.nodes[i]
	require.NoError(b.t, n.Login(within(b.t), user, node.LoginToken(b.token(n, user, life))))
	return n
}

func TestWhoUpdatesItsTokenInTimeIsNeverNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t)
		s := newSim(t, 2, b.options)
		s.Connect(0, 1)
		const life = 2 * time.Minute
		begun := time.Now()
		alice, bob := b.enter(s, 0, "alice", life), b.enter(s, 1, "bob", 24*time.Hour)
		s.settle()
		var updates atomic.Int32
		go func() {
			for ev, err := range alice.Events(t.Context()) { // as a program should
				if _, ok := ev.(*node.TokenExpiring); ok && err == nil {
					updates.Add(1)
					_ = alice.UpdateLoginToken(b.token(alice, "alice", life))
				}
			}
		}()
		for time.Since(begun) < 10*time.Minute {
			time.Sleep(time.Second)
			_, err := bob.Send(within(t), "alice", []byte("hi"))
			require.NoError(t, err, "%v after the log-in", time.Since(begun))
			_, err = alice.Send(within(t), "bob", []byte("hi"))
			require.NoError(t, err, "%v after the log-in", time.Since(begun))
		}
		require.GreaterOrEqual(t, updates.Load(), int32(6))
		for _, ev := range drained(bob) {
			if changed, ok := ev.(*node.PeerChanged); ok {
				require.True(t, changed.Peer.LoggedIn)
			}
		}
	})
}

func TestWhoDoesNotUpdateItsTokenIsNotHeardAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t)
		s := newSim(t, 2, b.options)
		s.Connect(0, 1)
		begun := time.Now()
		const life = 2 * time.Minute
		alice, bob := b.enter(s, 0, "alice", life), b.enter(s, 1, "bob", 24*time.Hour)
		require.Equal(t, alice.ID(), await(t, bob, func(ev *node.PeerUp) bool { return true }).Peer.Peer)
		s.settle()

		time.Sleep(life - identity.TokenWarning - time.Since(begun) + time.Second)
		warned := await(t, alice, func(ev *node.TokenExpiring) bool { return true })
		require.Equal(t, begun.Add(life-identity.TokenWarning).Truncate(time.Millisecond), warned.Time.Truncate(time.Millisecond))
		require.True(t, begun.Add(life).Equal(warned.Expires))
		require.Empty(t, warned.Room)

		time.Sleep(life + identity.DefaultLeeway - time.Since(begun) - 10*time.Second)
		_, err := alice.Send(within(t), "bob", []byte("within the leeway"))
		require.NoError(t, err)
		_, err = bob.Send(within(t), "alice", []byte("as well"))
		require.NoError(t, err)

		time.Sleep(life + identity.DefaultLeeway - time.Since(begun))
		ended := await(t, alice, func(ev *node.TokenEnded) bool { return true })
		require.False(t, ended.Revoked)
		require.Contains(t, ended.Reason, "expired")
		_, err = alice.Send(within(t), "bob", []byte("late"))
		require.ErrorIs(t, err, mesh.ErrNotLoggedIn)
		_, err = bob.Send(within(t), "alice", []byte("late"))
		require.ErrorIs(t, err, presence.ErrNotFound)
		await(t, bob, func(ev *node.PeerChanged) bool { return ev.Peer.User == "alice" && !ev.Peer.LoggedIn })
		require.Empty(t, bob.Online())
		require.True(t, alice.LoggedIn(), "here the user is not logged out")
		none[*node.LoggedOut](t, drained(alice))

		require.NoError(t, alice.UpdateLoginToken(b.token(alice, "alice", life)))
		await(t, bob, func(ev *node.PeerChanged) bool { return ev.Peer.User == "alice" && ev.Peer.LoggedIn })
		_, err = bob.Send(within(t), "alice", []byte("there again"))
		require.NoError(t, err)
	})
}

func TestALogInWithABadTokenIsCompletedByAGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t)
		s := newSim(t, 2, b.options)
		alice, bob := s.nodes[0], s.nodes[1]
		err := alice.Login(within(t), "alice")
		require.ErrorIs(t, err, identity.ErrTokenMissing)
		require.EqualError(t, err, "log in: token: none was given")
		err = alice.Login(within(t), "alice", node.LoginToken(b.token(bob, "alice", time.Hour)))
		require.ErrorIs(t, err, identity.ErrTokenDevice)
		require.False(t, alice.LoggedIn())
		require.Empty(t, alice.User())
		require.ErrorIs(t, alice.UpdateLoginToken("x"), identity.ErrTokenMalformed)
		require.NoError(t, alice.UpdateLoginToken(b.token(alice, "alice", time.Hour)))
		require.True(t, alice.LoggedIn())
		require.Equal(t, "alice", alice.User())
		require.ErrorIs(t, alice.Login(within(t), "alice"), presence.ErrLoggedIn)
	})
}

func TestOneTokenLogsInAndAdmitsToARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t)
		s := newSim(t, 2, b.options)
		s.Connect(0, 1)
		var rooms []*mesh.Room
		for i, user := range []string{"alice", "bob"} {
			n := b.enter(s, i, user, time.Hour)
			_, err := n.Join(within(t), "ops")
			require.ErrorIs(t, err, identity.ErrTokenMissing)
			_, err = n.Join(within(t), "board", mesh.WithToken(b.token(n, user, time.Hour)))
			require.ErrorIs(t, err, identity.ErrTokenRoom)
			r, err := n.Join(within(t), "ops", mesh.WithToken(b.token(n, user, time.Hour)))
			require.NoError(t, err)
			rooms = append(rooms, r)
		}
		require.NoError(t, rooms[0].WaitPeers(within(t), 1))
		_, err := rooms[0].PublishText(within(t), "hi")
		require.NoError(t, err)
		require.Equal(t, "hi", string(await[*mesh.Message](t, rooms[1], nil).Data))
	})
}

func TestARevocationGivenToOneNodeHoldsOnAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t)
		s := newSim(t, 3, b.options)
		s.Chain()
		alice, bob, carol := b.enter(s, 0, "alice", time.Hour), b.enter(s, 1, "bob", time.Hour), b.enter(s, 2, "carol", time.Hour)
		s.settle()
		require.Len(t, bob.Online(), 2)
		var none *identity.Revocations
		next := none.Next(time.Now())
		next.Tokens["of-alice"] = time.Now().Add(time.Hour)
		list, err := b.issuer.Revoke(next)
		require.NoError(t, err)
		newer, err := carol.Revoke(list)
		require.NoError(t, err)
		require.True(t, newer)
		ended := await(t, alice, func(ev *node.TokenEnded) bool { return true })
		require.True(t, ended.Revoked)
		require.Equal(t, "its issuer has revoked it", ended.Reason)
		await(t, bob, func(ev *node.PeerChanged) bool { return ev.Peer.User == "alice" && !ev.Peer.LoggedIn })
		_, err = alice.Send(within(t), "bob", []byte("x"))
		require.ErrorIs(t, err, mesh.ErrNotLoggedIn)
		newer, err = bob.Revoke(list)
		require.NoError(t, err)
		require.False(t, newer, "bob has it already")
		_, err = bob.Revoke([]byte("nonsense"))
		require.ErrorIs(t, err, identity.ErrRevocations)
	})
}

func TestTokensNeedIssuers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 1, nil)
		n := s.nodes[0]
		require.ErrorIs(t, n.Login(within(t), "alice", node.LoginToken("x")), presence.ErrOpenMode)
		require.ErrorIs(t, n.UpdateLoginToken("x"), presence.ErrOpenMode)
		_, err := n.Revoke(nil)
		require.ErrorIs(t, err, presence.ErrOpenMode)
		require.NoError(t, n.Close())
		require.ErrorIs(t, n.UpdateLoginToken("x"), node.ErrClosed)
		_, err = n.Revoke(nil)
		require.ErrorIs(t, err, node.ErrClosed)
	})
}

func TestIssuersComeFromAFile(t *testing.T) {
	b := newBackend(t)
	path := filepath.Join(t.TempDir(), "issuers.json")
	_, err := node.New(node.WithIssuersFile(path))
	require.EqualError(t, err, "issuers "+path+": no such file or directory")
	require.True(t, errors.Is(err, os.ErrNotExist))
	require.NoError(t, os.WriteFile(path, b.issuers.Marshal(), 0o644))
	n, err := node.New(node.WithApp("acme"), node.WithIssuersFile(path), node.WithListen("/ip4/127.0.0.1/tcp/0"), node.WithoutMDNS())
	require.NoError(t, err)
	defer n.Close()
	require.NoError(t, n.Login(within(t), "alice", node.LoginToken(b.token(n, "alice", time.Hour))))
}
