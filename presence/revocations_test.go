package presence_test

import (
	"crypto/sha256"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/presence"
)

// list returns a signed list that revokes tokens.
func list(t *testing.T, version uint64, jti ...string) []byte {
	t.Helper()
	r := identity.Revocations{Version: version, Issued: time.Now(), Tokens: map[string]time.Time{}}
	for _, id := range jti {
		r.Tokens[id] = time.Time{}
	}
	sealed, err := issuer(t, issuerKey).Revoke(r)
	require.NoError(t, err)
	return sealed
}

func (n *node) listVersion() uint64 {
	version, _ := n.authority.Revocations().Head()
	return version
}

func TestARevocationReachesEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := vouched(t, 5)
		defer r.close()
		for i, user := range []string{"alice", "bob", "carol", "dave"} {
			n := r.nodes[i]
			require.NoError(t, n.Login(t.Context(), user, presence.WithLoginToken(
				token(t, n.keys, user, time.Hour, func(c *identity.Claims) { c.ID = user }))))
		}
		r.meet(0, 1)
		r.meet(1, 2)
		r.meet(2, 3)
		require.True(t, r.nodes[1].sees(r.nodes[0]))
		newer, err := r.nodes[3].authority.Revoke(list(t, 1, "alice"))
		require.NoError(t, err)
		require.True(t, newer)
		soon(t, time.Second, "all have the list", func() bool { return r.nodes[0].listVersion() == 1 })
		time.Sleep(100 * time.Millisecond)
		require.False(t, r.nodes[1].sees(r.nodes[0]), "the revoked log-in does not count")
		require.True(t, r.nodes[1].sees(r.nodes[2]), "others do")
		ended := of[presence.TokenEnded](r.nodes[0])
		require.Len(t, ended, 1, "and its own node says so")
		require.ErrorIs(t, ended[0].Err, identity.ErrTokenRevoked)
		require.True(t, r.connected(0, 1))

		// A node that arrives later gets the list from the first peer that it meets.
		late := r.nodes[4]
		r.meet(4, 2)
		soon(t, time.Second, "the newcomer has it", func() bool { return late.listVersion() == 1 })

		// A later list spreads in the same way; it revokes nothing.
		_, err = late.authority.Revoke(list(t, 2))
		require.NoError(t, err)
		soon(t, time.Second, "all have the second list", func() bool { return r.nodes[0].listVersion() == 2 })
		soon(t, time.Second, "the log-in counts again", func() bool { return r.nodes[1].sees(r.nodes[0]) })
		for _, n := range r.nodes {
			require.Zero(t, n.Stats().BadList)
			require.Zero(t, n.Stats().Limited)
			require.Empty(t, of[presence.Refused](n))
		}
	})
}

func TestWhoIsRefusedForARevocationIsShownTheList(t *testing.T) {
	for _, dialler := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			r := vouched(t, 3)
			defer r.close()
			a, b := r.nodes[0], r.nodes[1]
			require.NoError(t, a.Login(t.Context(), "alice", presence.WithLoginToken(
				token(t, a.keys, "alice", time.Hour, func(c *identity.Claims) { c.ID = "alice" }))))
			_, err := b.authority.Revoke(list(t, 1, "alice"))
			require.NoError(t, err)
			r.net.Connect(dialler, 1-dialler)
			soon(t, 2*time.Second, "the refusal", func() bool { return len(of[presence.Refused](a)) == 1 && len(of[presence.Refused](b)) == 1 })
			require.ErrorIs(t, of[presence.Refused](a)[0].Err, identity.ErrTokenRevoked)
			require.EqualValues(t, 1, a.listVersion(), "the issuer's word, not the peer's")
			require.Len(t, of[presence.TokenEnded](a), 1)
			require.False(t, a.Self().LoggedIn)
			soon(t, 2*time.Second, "the end of the connection", func() bool { return !r.connected(0, 1) })
			r.meet(2, 0)
			soon(t, time.Second, "a third has it from the revoked one", func() bool { return r.nodes[2].listVersion() == 1 })
			r.meet(0, 1)
			require.Empty(t, b.Online(), "as one that is not logged in it is welcome")
		})
	}
}

func TestAPeerThatLiesOfARevocationEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		asked := new(atomic.Int32)
		r.net.Host(1).SetStreamHandler(presence.RevocationsProtocol, func(s network.Stream) {
			asked.Add(1)
			_ = wire.WriteFrame(s, &wire.RevocationsReply{List: []byte("forged")})
			_ = s.Close()
		})
		r.net.Host(1).SetStreamHandler(presence.HelloProtocol, func(s network.Stream) {
			_ = wire.NewReader(s, 16<<10).Next(new(wire.Hello))
			_ = wire.WriteFrame(s, &wire.HelloReply{Refusal: &wire.Refusal{
				Code: wire.Refusal_BAD_STATEMENT, Token: wire.TokenFault_TOKEN_REVOKED, Text: "revoked, believe me",
			}})
			_ = s.Close()
		})
		a := r.vouch(0, authority(t, 0))
		a.enter("alice", time.Hour)
		r.net.Connect(0, 1)
		soon(t, 2*time.Second, "the refusal", func() bool { return len(of[presence.Refused](a)) == 1 })
		require.EqualValues(t, 1, asked.Load())
		require.Zero(t, a.listVersion())
		require.True(t, a.loggedIn())
		require.Empty(t, of[presence.TokenEnded](a))
	})
}

func TestAListOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, err := identity.OpenDir(t.TempDir())
		require.NoError(t, err)
		defer dir.Close()
		r := bare(t, 0)
		i := r.net.NewHost(dir.Keys().Libp2p())
		r.nodes = make([]*node, 1)
		n := r.vouch(i, authority(t, 0), presence.WithRemembered(dir))
		_, err = n.authority.Revoke(list(t, 3, "x"))
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, n.Close())
		n = r.vouch(i, authority(t, 0), presence.WithRemembered(dir))
		defer n.Close()
		require.EqualValues(t, 3, n.listVersion())
		require.ErrorIs(t, n.Login(t.Context(), "alice", presence.WithLoginToken(
			token(t, n.keys, "alice", time.Hour, func(c *identity.Claims) { c.ID = "x" }))), identity.ErrTokenRevoked)
	})
}

// lieTo opens a hello from host i that claims a list with that head.
func lieTo(t *testing.T, r *rig, i int, a *node, head *wire.RevocationsHead) {
	t.Helper()
	beginHello(t, r, i, a, nil, func(h *wire.Hello) { h.Revocations = head })()
}

// liar makes host i a peer that claims in its hello to have a list, and answers requests for it
// with the given function.
func liar(t *testing.T, r *rig, i int, a *node, version uint64, answer func(network.Stream)) (asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	r.net.Host(i).SetStreamHandler(presence.RevocationsProtocol, func(s network.Stream) {
		asked.Add(1)
		answer(s)
	})
	r.net.Connect(i, 0)
	sum := sha256.Sum256([]byte{byte(version)})
	for range 3 {
		lieTo(t, r, i, a, &wire.RevocationsHead{Version: version, Hash: sum[:]})
		time.Sleep(time.Second)
		synctest.Wait()
	}
	return asked
}

func TestAListThatIsOfNoUseIsAskedForOnce(t *testing.T) {
	frame := func(sealed []byte) func(network.Stream) {
		return func(s network.Stream) {
			_ = wire.WriteFrame(s, &wire.RevocationsReply{List: sealed})
			_ = s.Close()
		}
	}
	for _, c := range []struct {
		name   string
		answer func(t *testing.T) func(network.Stream)
		takes  uint64
	}{
		{"garbage", func(*testing.T) func(network.Stream) { return frame([]byte("garbage")) }, 5},
		{"nothing", func(*testing.T) func(network.Stream) { return frame(nil) }, 5},
		{"not a frame", func(*testing.T) func(network.Stream) {
			return func(s network.Stream) { _, _ = s.Write([]byte{2, 0xff, 0xff}); _ = s.Close() }
		}, 5},
		{"more than the bound", func(*testing.T) func(network.Stream) {
			return func(s network.Stream) { _, _ = s.Write([]byte{0xff, 0xff, 0xff, 0x7f}); _ = s.Close() }
		}, 5},
		{"an older list", func(t *testing.T) func(network.Stream) { return frame(list(t, 4)) }, 5},
		{"a list that is newer than ours and older than it said", func(t *testing.T) func(network.Stream) { return frame(list(t, 8)) }, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				a := r.vouch(0, authority(t, 0))
				_, err := a.authority.Revoke(list(t, 5))
				require.NoError(t, err)
				asked := liar(t, r, 1, a, 9, c.answer(t))
				require.EqualValues(t, 1, asked.Load())
				require.EqualValues(t, 1, a.Stats().BadList)
				require.Equal(t, c.takes, a.listVersion())
				require.True(t, r.connected(0, 1))
			})
		})
	}
}

func TestAListThatDoesNotComeIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		a := r.vouch(0, authority(t, 0))
		asked := liar(t, r, 1, a, 9, func(s network.Stream) { time.Sleep(time.Minute); _ = s.Reset() })
		require.EqualValues(t, 1, asked.Load(), "one at a time")
		time.Sleep(20 * time.Second)
		lieTo(t, r, 1, a, &wire.RevocationsHead{Version: 9, Hash: append(make([]byte, 31), 1)})
		time.Sleep(time.Second)
		again := asked.Load()
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 2, again, "and again when the peer says so again")
	})
}

func TestAHeadThatMakesNoSenseIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		a := r.vouch(0, authority(t, 0))
		r.net.Connect(1, 0)
		for _, head := range []*wire.RevocationsHead{{}, {Version: 3}, {Version: 3, Hash: make([]byte, 31)}, {Hash: make([]byte, 32)}} {
			lieTo(t, r, 1, a, head)
		}
		time.Sleep(time.Second)
		require.Zero(t, a.Stats().BadList)
		require.True(t, r.connected(0, 1))
	})
}

func TestAPeerMayAskForTheListOnlySoOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		a := r.vouch(0, authority(t, 0))
		_, err := a.authority.Revoke(list(t, 5, "x"))
		require.NoError(t, err)
		r.net.Connect(1, 0)
		ask := func() []byte {
			s, err := r.net.Host(1).NewStream(t.Context(), a.id, presence.RevocationsProtocol)
			require.NoError(t, err)
			_ = s.CloseWrite()
			var reply wire.RevocationsReply
			if wire.NewReader(s, 1<<20).Next(&reply) != nil {
				_ = s.Reset()
				return nil
			}
			return reply.List
		}
		lieTo(t, r, 1, a, nil)
		got := 0
		for range 20 {
			if l := ask(); l != nil {
				require.Equal(t, a.authority.Revocations().Sealed(), l)
				got++
			}
		}
		require.Equal(t, 4, got)
		require.EqualValues(t, 16, a.Stats().Limited)
	})
}
