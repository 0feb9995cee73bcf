package presence_test

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/presence"
)

func TestAConnectedUserIsFoundAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		b.login("bob")
		r.meet(0, 1)
		start := time.Now()
		got, err := a.find("bob")
		require.NoError(t, err)
		require.Equal(t, presence.Found{Login: b.me(), Addrs: r.net.Host(1).Addrs(), Source: presence.Connected}, got)
		require.Zero(t, time.Since(start))
	})
}

func TestAUserIsFoundInTheFirstMomentsOfAConnection(t *testing.T) {
	for _, c := range []struct {
		name    string
		asker   int // 0 has dialled
		another bool
	}{{"by the dialler", 0, false}, {"by the one who was dialled", 1, false}, {"with a stranger who says nothing", 0, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 2)
				defer r.close()
				r.nodes[0].login("alice")
				r.nodes[1].login("bob")
				if c.another {
					mute := r.net.NewHost(nil)
					r.net.Host(mute).SetStreamHandler(presence.HelloProtocol, func(network.Stream) {})
					r.net.Connect(0, mute)
				}
				r.net.Connect(0, 1)
				asker, other := r.nodes[c.asker], r.nodes[1-c.asker]
				user := other.Self().User
				require.Empty(t, asker.Online(), "the hello is under way")
				start := time.Now()
				status := make(chan presence.Status, 1)
				go func() { status <- asker.status(user) }()
				got, err := asker.find(user)
				require.NoError(t, err)
				require.Equal(t, other.me(), got.Login)
				require.Equal(t, presence.Online, (<-status).State)
				require.LessOrEqual(t, time.Since(start), 500*time.Millisecond)
			})
		})
	}
}

func TestAPeerThatNeverSaysHelloDelaysAnswersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, presence.WithDHT(presence.LAN))
		defer r.close()
		a := r.nodes[0]
		a.login("alice")
		r.meet(0, 1)
		time.Sleep(5 * time.Second)
		mute := r.net.NewHost(nil)
		// mute does not begin the hello, so a begins after a moment.
		r.net.Connect(mute, 0)
		start := time.Now()
		status := make(chan presence.Status, 1)
		go func() { status <- a.status("bob") }()
		_, err := a.find("bob")
		require.ErrorIs(t, err, presence.ErrNotFound)
		require.LessOrEqual(t, time.Since(start), 5*time.Second)
		require.LessOrEqual(t, helloNudge, time.Since(start), "it may have been bob")
		<-status
		time.Sleep(10 * time.Second)
		start = time.Now()
		_, err = a.find("bob")
		require.ErrorIs(t, err, presence.ErrNotFound)
		require.Less(t, time.Since(start), time.Second, "not again")
	})
}

// helloNudge is how long the dialler has to begin a hello.
const helloNudge = 500 * time.Millisecond

func TestOnlyLoggedInUsersAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		require.NoError(t, b.SetUser("bob"))
		r.meet(0, 1)
		start := time.Now()
		_, err := a.find("bob")
		require.EqualError(t, err, "user not found: bob")
		require.ErrorIs(t, err, presence.ErrNotFound)
		require.LessOrEqual(t, time.Since(start), 400*time.Millisecond)
		b.login("bob")
		soon(t, time.Second, "the log-in", func() bool { return a.sees(b) })
		_, err = a.find("bob")
		require.NoError(t, err)
		require.NoError(t, b.Logout(t.Context()))
		_, err = a.find("bob")
		require.ErrorIs(t, err, presence.ErrNotFound)
		_, err = a.Find(t.Context(), identity.Address{User: "b b"})
		require.EqualError(t, err, `user ID "b b": ' ' is not one of a-z A-Z 0-9 _ @ . -`)
	})
}

func TestANodeFindsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		require.NoError(t, a.SetUser("alice"))
		_, err := a.find("alice")
		require.ErrorIs(t, err, presence.ErrNotFound)
		a.login("alice")
		b.login("alice") // a different user
		r.meet(0, 1)
		got, err := a.find("alice")
		require.NoError(t, err)
		require.Equal(t, presence.Found{Login: a.me(), Source: presence.Self}, got, "the own name means the own key")
		got, err = a.find(b.me().Address().String())
		require.NoError(t, err)
		require.Equal(t, b.me(), got.Login)
		require.NoError(t, a.Logout(t.Context()))
		_, err = a.find("alice")
		require.Equal(t, &presence.ConflictError{User: "alice", Pinned: a.keys.UserKey(), Found: []identity.Login{b.me()}}, err)
	})
}

func TestAUserKnownToANeighbourIsFoundByAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, c := r.nodes[0], r.nodes[2]
		c.login("carol")
		r.meet(0, 1)
		r.meet(1, 2)
		start := time.Now()
		got, err := a.find("carol")
		require.NoError(t, err)
		require.Less(t, time.Since(start), 300*time.Millisecond)
		require.Equal(t, c.me(), got.Login)
		require.Equal(t, presence.Whois, got.Source)
		require.True(t, r.connected(0, 2), "found means connected")
		got, err = a.find("carol")
		require.NoError(t, err)
		require.Equal(t, presence.Connected, got.Source)
	})
}

func TestAskingTakesAtMost300MillisecondsAndEightPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		defer r.close()
		var mu sync.Mutex
		asked := 0
		for range 12 {
			i := r.net.NewHost(nil)
			r.net.Host(i).SetStreamHandler(presence.WhoisProtocol, func(s network.Stream) { // it never answers
				mu.Lock()
				asked++
				mu.Unlock()
				_, _ = io.Copy(io.Discard, s)
				time.Sleep(time.Second)
				_ = s.Reset()
			})
			r.net.Connect(i, 0)
			greet(t, r, i, r.nodes[0], nil)
		}
		start := time.Now()
		_, err := r.nodes[0].find("carol")
		require.ErrorIs(t, err, presence.ErrNotFound)
		require.Equal(t, 300*time.Millisecond, time.Since(start))
		time.Sleep(2 * time.Second)
		require.Equal(t, 8, asked)
	})
}

func TestAnswersAreProvedOrIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, c := r.nodes[0], r.nodes[2]
		c.login("mallory") // node 2 is not the user that the liar promises
		liar := r.net.NewHost(nil)
		carol := &identity.Keys{Device: seeded(9), User: seeded(9)}
		var answer func() *wire.WhoisReply
		r.net.Host(liar).SetStreamHandler(presence.WhoisProtocol, func(s network.Stream) {
			defer s.Close()
			_, _ = io.ReadAll(s)
			if reply := answer(); reply != nil {
				_ = wire.WriteFrame(s, reply)
			} else {
				_, _ = s.Write([]byte("\x07garbage"))
			}
		})
		r.net.Connect(liar, 0)
		greet(t, r, liar, a, nil)
		at := [][]byte{r.net.Addr(2).Bytes()}
		genuine := statementOf(t, carol, testApp, func(s *identity.Statement) { s.User = "carol" })
		altered := genuine.Sealed()
		altered[5] ^= 1
		for name, reply := range map[string]*wire.WhoisReply{
			"garbage":      nil,
			"empty":        {},
			"altered":      {Found: []*wire.Located{{Statement: altered, Addrs: at}}},
			"another user": {Found: []*wire.Located{{Statement: c.Self().Sealed(), Addrs: at}}},
			"logged out": {Found: []*wire.Located{{Statement: statementOf(t, carol, testApp, func(s *identity.Statement) {
				s.User, s.LoggedIn = "carol", false
			}).Sealed(), Addrs: at}}},
			"addresses that make no sense": {Found: []*wire.Located{{Statement: altered, Addrs: [][]byte{{1}, nil, make([]byte, 999)}}}},
		} {
			answer = func() *wire.WhoisReply { return reply }
			_, err := a.find("carol")
			require.ErrorIs(t, err, presence.ErrNotFound, name)
		}
		answer = func() *wire.WhoisReply {
			return &wire.WhoisReply{Found: []*wire.Located{{Statement: genuine.Sealed(), Addrs: at}}}
		}
		_, err := a.find("carol")
		require.EqualError(t, err, "unreachable: carol", "her log-in is proved, and somebody else is at that address")
		require.ErrorIs(t, err, presence.ErrUnreachable)
		_, pinned := a.find("mallory")
		require.ErrorIs(t, pinned, presence.ErrNotFound, "nothing was pinned on the way")
	})
}

func TestAskersAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		defer r.close()
		a := r.nodes[0]
		i := r.net.NewHost(nil)
		r.net.Connect(i, 0)
		ask := func() error {
			s, err := r.net.Host(i).NewStream(t.Context(), a.id, presence.WhoisProtocol)
			require.NoError(t, err)
			defer s.Reset()
			_ = s.SetDeadline(time.Now().Add(time.Second))
			if err := wire.WriteFrame(s, &wire.WhoisRequest{App: testApp[:], User: "bob"}); err != nil {
				return err
			}
			return wire.NewReader(s, 1<<10).Next(&wire.WhoisReply{})
		}
		require.Error(t, ask(), "nobody answers before hello")
		greet(t, r, i, a, nil)
		answered := 0
		for range 100 {
			if ask() == nil {
				answered++
			}
		}
		require.GreaterOrEqual(t, answered, 32)
		require.LessOrEqual(t, answered, 60)
		time.Sleep(10 * time.Second)
		require.NoError(t, ask(), "it may ask again later")
	})
}

func TestQuestionsThatMakeNoSenseAreNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		defer r.close()
		a := r.nodes[0]
		i := r.net.NewHost(nil)
		r.net.Connect(i, 0)
		greet(t, r, i, a, nil)
		other := identity.NewAppID("other")
		for name, req := range map[string]*wire.WhoisRequest{
			"another app": {App: other[:], User: "bob"},
			"no app":      {User: "bob"},
			"no user":     {App: testApp[:]},
			"wrong user":  {App: testApp[:], User: "b b"},
			"short key":   {App: testApp[:], User: "bob", UserKey: make([]byte, 31)},
			"oversize":    {App: testApp[:], User: "bob", UserKey: make([]byte, 2000)},
		} {
			s, err := r.net.Host(i).NewStream(t.Context(), a.id, presence.WhoisProtocol)
			require.NoError(t, err)
			require.NoError(t, wire.WriteFrame(s, req))
			_ = s.SetDeadline(time.Now().Add(5 * time.Second))
			require.Error(t, wire.NewReader(s, 1<<10).Next(&wire.WhoisReply{}), name)
			_ = s.Reset()
		}
	})
}

func TestARememberedUserIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := t.TempDir()
		dir, err := identity.OpenDir(path)
		require.NoError(t, err)
		r := bare(t, 1)
		defer r.close()
		i := r.net.NewHost(dir.Keys().Libp2p())
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		b := r.nodes[0]
		b.login("bob")
		a := r.start(i, dir.Keys(), testApp, presence.WithRemembered(dir), presence.WithPins(dir.Pins()))
		r.nodes = append(r.nodes, a)
		r.meet(i, 0)
		_, err = a.find("bob")
		require.NoError(t, err)
		soon(t, time.Second, "bob to be remembered", func() bool { return len(dir.Remembered()) == 1 })
		require.NoError(t, a.Close())
		require.NoError(t, dir.Close())
		require.NoError(t, r.net.Host(i).Close())

		dir, err = identity.OpenDir(path) // the next run
		require.NoError(t, err)
		defer dir.Close()
		r.net.Restart(i)
		r.nodes[i] = r.start(i, dir.Keys(), testApp, presence.WithRemembered(dir), presence.WithPins(dir.Pins()))
		a = r.nodes[i]
		got, err := a.find("bob")
		require.NoError(t, err)
		require.Equal(t, b.me(), got.Login)
		require.Equal(t, presence.Remembered, got.Source)

		require.NoError(t, b.Logout(t.Context()))
		_, err = a.find("bob")
		require.ErrorIs(t, err, presence.ErrNotFound, "remembered is not logged in")
	})
}

func TestAUserWhoHasMovedIsFoundWhereAPeerSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b := r.nodes[0], r.nodes[2]
		b.login("bob")
		r.meet(0, 1)
		r.meet(0, 2)
		_, err := a.find("bob")
		require.NoError(t, err)
		key := r.net.HostKey(2)
		r.net.Kill(2)
		require.NoError(t, b.Close())
		soon(t, 5*time.Minute, "bob to be gone", func() bool { return !r.connected(0, 2) })
		// The same device at another address, which a does not know.
		i := r.net.NewHost(key)
		moved := r.start(i, b.keys, testApp)
		r.nodes[2] = moved
		moved.login("bob")
		r.net.Connect(1, i)
		soon(t, time.Second, "the neighbour to know", func() bool { return r.nodes[1].sees(moved) })
		start := time.Now()
		got, err := a.find("bob")
		require.NoError(t, err)
		require.Equal(t, moved.me(), got.Login)
		require.Less(t, time.Since(start), time.Second, "the old address holds nothing up")
	})
}

func TestManyWhoLookForOneUserShareTheSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		defer r.close()
		a := r.nodes[0]
		var mu sync.Mutex
		asked := 0
		i := r.net.NewHost(nil)
		r.net.Host(i).SetStreamHandler(presence.WhoisProtocol, func(s network.Stream) {
			mu.Lock()
			asked++
			mu.Unlock()
			_ = wire.WriteFrame(s, &wire.WhoisReply{})
			_ = s.Close()
		})
		r.net.Connect(i, 0)
		greet(t, r, i, a, nil)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := a.Find(context.Background(), identity.Address{User: "carol"})
				if err == nil {
					panic("found nobody")
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := a.Find(ctx, identity.Address{User: "carol"})
		require.ErrorIs(t, err, context.DeadlineExceeded, "each with a context of its own")
		wg.Wait()
		require.Equal(t, 1, asked)
	})
}

func TestAUserOfAnotherAppIsNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		r.nodes[1] = r.start(1, keysOf(t, r.net.HostKey(1)), identity.NewAppID("other"))
		a, b := r.nodes[0], r.nodes[1]
		b.login("bob")
		r.net.Connect(0, 1)
		soon(t, 3*time.Second, "the end of the connection", func() bool { return !r.connected(0, 1) })
		_, err := a.find("bob")
		require.ErrorIs(t, err, presence.ErrNotFound)
		require.Empty(t, of[presence.PeerUp](a))
		require.False(t, r.connected(0, 1), "and not dialled either")
	})
}
