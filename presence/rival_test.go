package presence_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/presence"
)

// oneLeft waits until exactly one of two nodes is logged in. It checks that this lasts, and that
// the other node reported it once.
func oneLeft(t *testing.T, limit time.Duration, a, b *node) (winner, loser *node) {
	t.Helper()
	soon(t, limit, "one log-in of two", func() bool { return a.loggedIn() != b.loggedIn() })
	time.Sleep(time.Minute)
	require.NotEqual(t, a.loggedIn(), b.loggedIn(), "exactly one stays")
	winner, loser = a, b
	if b.loggedIn() {
		winner, loser = b, a
	}
	require.Empty(t, of[presence.Replaced](winner))
	require.Equal(t, []presence.Replaced{{By: winner.me()}}, of[presence.Replaced](loser))
	require.False(t, loser.Self().LoggedIn)
	return winner, loser
}

func TestTheLaterLogInOfAUserWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 3)
		defer r.close()
		r.sameUser(0, 1)
		r.nodes[2] = r.start(2, keysOf(t, r.net.HostKey(2)), testApp)
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		r.meet(0, 1)
		r.meet(0, 2)
		r.meet(1, 2)
		a.login("alice")
		soon(t, time.Second, "the log-in", func() bool { return c.sees(a) })
		time.Sleep(time.Second)
		b.login("alice")
		winner, _ := oneLeft(t, time.Second, a, b)
		require.Same(t, b, winner)
		require.Equal(t, []identity.Login{b.me()}, c.Online())

		a.login("alice") // only a person does that
		winner, _ = twiceLeft(t, a, b)
		require.Same(t, a, winner)
	})
}

// twiceLeft is oneLeft for a second round, in which the other node loses.
func twiceLeft(t *testing.T, a, b *node) (winner, loser *node) {
	t.Helper()
	soon(t, time.Second, "one log-in of two", func() bool { return a.loggedIn() != b.loggedIn() })
	time.Sleep(time.Minute)
	require.True(t, a.loggedIn())
	require.False(t, b.loggedIn())
	require.Equal(t, []presence.Replaced{{By: a.me()}}, of[presence.Replaced](b))
	return a, b
}

func TestSimultaneousLogInsOfAUserLeaveOne(t *testing.T) {
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			r := bare(t, 2)
			defer r.close()
			r.sameUser(0, 1)
			a, b := r.nodes[0], r.nodes[1]
			r.meet(0, 1)
			var wg sync.WaitGroup
			wg.Go(func() { a.login("alice") })
			wg.Go(func() { b.login("alice") })
			wg.Wait()
			require.Equal(t, a.Self().Sequence, b.Self().Sequence, "in the same millisecond")
			winner, loser := oneLeft(t, 5*time.Second, a, b)
			require.Greater(t, string(winner.id), string(loser.id), "the peer ID decides")
		})
	}
}

func TestLogInsOnBothSidesOfACutLeaveOneWhenItHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.sameUser(0, 1)
		a, b := r.nodes[0], r.nodes[1]
		r.meet(0, 1)
		r.net.Cut(0, 1)
		a.login("alice")
		time.Sleep(10 * time.Second)
		b.login("alice")
		soon(t, 5*time.Minute, "the connection to die", func() bool { return !r.connected(0, 1) && !r.connected(1, 0) })
		require.True(t, a.loggedIn() && b.loggedIn(), "on their own, both stay")
		r.net.Heal()
		r.net.Connect(0, 1)
		winner, _ := oneLeft(t, 5*time.Second, a, b)
		require.Same(t, b, winner)
	})
}

func TestLogInsThatNeverMeetAreToldByAPeerOfBoth(t *testing.T) {
	for name, first := range map[string]int{"the first hears of it": 0, "the other order": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 3)
				defer r.close()
				r.sameUser(0, 2)
				r.nodes[1] = r.start(1, keysOf(t, r.net.HostKey(1)), testApp)
				a, b := r.nodes[2*first], r.nodes[2-2*first]
				r.net.Cut(0, 2) // they share only node 1
				r.meet(0, 1)
				r.meet(2, 1)
				a.login("alice")
				time.Sleep(time.Second)
				b.login("alice")
				winner, _ := oneLeft(t, 5*time.Second, a, b)
				require.Same(t, b, winner)
				soon(t, time.Second, "the peer of both to know", func() bool { return r.nodes[1].sees(b) && !r.nodes[1].sees(a) })
				require.False(t, r.connected(0, 2))
			})
		})
	}
}

func TestLogInsInTwoNetworksAreToldByThePeerThatJoinsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 3)
		defer r.close()
		r.sameUser(0, 2)
		r.nodes[1] = r.start(1, keysOf(t, r.net.HostKey(1)), testApp)
		a, b := r.nodes[2], r.nodes[0]
		a.login("alice")
		time.Sleep(time.Minute)
		b.login("alice")
		time.Sleep(time.Minute)
		r.meet(0, 1) // the winner is known first
		r.meet(1, 2)
		winner, _ := oneLeft(t, 5*time.Second, a, b)
		require.Same(t, b, winner)
	})
}

// greet runs a hello from host i, which has no directory, and shows st.
func greet(t *testing.T, r *rig, i int, to *node, st *identity.Statement) {
	t.Helper()
	beginHello(t, r, i, to, st)()
}

// beginHello is greet up to the proof; the function that it returns does the rest.
func beginHello(t *testing.T, r *rig, i int, to *node, st *identity.Statement, change ...func(*wire.Hello)) (finish func()) {
	t.Helper()
	keys := keysOf(t, r.net.HostKey(i))
	s := hostile(t, r.net, i, to.id)
	h := goodHello(to.App())
	if st != nil {
		h.Statement = st.Sealed()
	}
	for _, f := range change {
		f(h)
	}
	require.NoError(t, wire.WriteFrame(s, h))
	var reply wire.HelloReply
	require.NoError(t, wire.NewReader(s, 16<<10).Next(&reply))
	require.Nil(t, reply.Refusal)
	return func() {
		require.NoError(t, wire.WriteFrame(s, &wire.HelloProof{
			Proof: wire.Sign(wire.DomainHello, keys.Device, transcript(reply.Hello.Nonce, h.Statement, r.net.ID(i), to.id)),
		}))
		require.NoError(t, s.CloseWrite())
		_, _ = s.Read(make([]byte, 1))
		_ = s.Close()
	}
}

func sendNotice(t *testing.T, r *rig, i int, to *node, raw []byte) {
	t.Helper()
	s, err := r.net.Host(i).NewStream(t.Context(), to.id, presence.NoticeProtocol)
	require.NoError(t, err)
	_, err = s.Write(raw)
	require.NoError(t, err)
	_ = s.CloseWrite()
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, _ = s.Read(make([]byte, 1))
	_ = s.Reset()
}

func noticeOf(t *testing.T, sealed []byte) []byte {
	t.Helper()
	b, err := wire.AppendFrame(nil, &wire.Notice{Statement: sealed})
	require.NoError(t, err)
	return b
}

func TestForgedNoticesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		a.login("alice")
		time.Sleep(time.Second)
		r.net.Connect(1, 0)
		user := a.keys.User
		other := &identity.Keys{Device: seeded(9), User: user} // only the genuine user can make these keys
		genuine := statementOf(t, other, testApp, func(*identity.Statement) {})
		sendNotice(t, r, 1, a, noticeOf(t, genuine.Sealed()))
		require.True(t, a.loggedIn(), "from a peer that has not said hello")
		greet(t, r, 1, a, nil)

		altered := genuine.Sealed()
		altered[10] ^= 1
		for name, raw := range map[string][]byte{
			"altered":           noticeOf(t, altered),
			"of another user":   noticeOf(t, statementOf(t, &identity.Keys{Device: seeded(9), User: seeded(8)}, testApp, func(*identity.Statement) {}).Sealed()),
			"of another app":    noticeOf(t, statementOf(t, other, identity.NewAppID("other"), func(*identity.Statement) {}).Sealed()),
			"from the future":   noticeOf(t, statementOf(t, other, testApp, func(s *identity.Statement) { s.Sequence += 1e9 }).Sealed()),
			"of an earlier":     noticeOf(t, statementOf(t, other, testApp, func(s *identity.Statement) { s.Sequence -= 1e6 }).Sealed()),
			"of one logged out": noticeOf(t, statementOf(t, other, testApp, func(s *identity.Statement) { s.LoggedIn, s.Sequence = false, genuine.Sequence-1 }).Sealed()),
			"its own":           noticeOf(t, a.Self().Sealed()),
			"garbage":           []byte("\x05abcde"),
			"nothing":           nil,
			"oversize":          []byte("\xff\xff\xff\x7f"),
		} {
			sendNotice(t, r, 1, a, raw)
			synctest.Wait()
			require.True(t, a.loggedIn(), name)
			require.Empty(t, of[presence.Replaced](a), name)
			require.Empty(t, of[presence.DuplicateDevice](a), name)
			time.Sleep(time.Second)
		}
		require.NotZero(t, a.Stats().BadNotice)
		sendNotice(t, r, 1, a, noticeOf(t, genuine.Sealed()))
		soon(t, time.Second, "the genuine one to count", func() bool { return !a.loggedIn() })
	})
}

func TestNoticesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		r.net.Connect(1, 0)
		greet(t, r, 1, a, nil)
		for range 100 {
			sendNotice(t, r, 1, a, []byte("\x01a"))
		}
		require.Greater(t, a.Stats().Limited, uint64(70))
	})
}

func TestAnOldLogInShownAgainDoesNotUndoALogOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		r.net.Connect(1, 0)
		// The other device's clock is a minute ahead. It has logged in and out, and the user is
		// logged in here.
		other := &identity.Keys{Device: keysOf(t, r.net.HostKey(1)).Device, User: a.keys.User}
		in := statementOf(t, other, testApp, func(s *identity.Statement) { s.Sequence += 60_000 })
		out := statementOf(t, other, testApp, func(s *identity.Statement) {
			s.Sequence, s.Issued, s.LoggedIn = in.Sequence, s.Issued.Add(time.Second), false
		})
		a.login("alice")
		require.Less(t, a.Self().Sequence, in.Sequence, "which outranks this log-in, unless it is over")
		greet(t, r, 1, a, out)
		sendNotice(t, r, 1, a, noticeOf(t, in.Sealed()))
		synctest.Wait()
		require.True(t, a.loggedIn())
		require.NoError(t, a.Logout(t.Context()))
		a.login("alice")
		require.Greater(t, a.Self().Sequence, in.Sequence, "the next log-in is above all that were seen")
	})
}

func TestAnotherKeyUnderTheOwnNameIsAConflictOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		require.NoError(t, a.SetUser("alice"))
		b.login("alice")
		r.meet(0, 1)
		soon(t, time.Second, "a conflict at both", func() bool {
			return len(of[presence.Conflict](a)) == 1 && len(of[presence.Conflict](b)) == 1
		})
		require.Equal(t, presence.Conflict{User: "alice", Pinned: a.keys.UserKey(), Other: b.me()}, of[presence.Conflict](a)[0])
		require.NoError(t, b.Logout(t.Context()))
		b.login("alice")
		require.NoError(t, r.net.Host(0).Network().ClosePeer(b.id))
		soon(t, time.Minute, "the end of the connection", func() bool { return !r.connected(0, 1) })
		r.meet(0, 1)
		time.Sleep(time.Second)
		require.Len(t, of[presence.Conflict](a), 1, "once per key")
		require.True(t, b.loggedIn(), "names are not unique: both stay")
	})
}

func TestAnotherKeyUnderAPinnedNameIsAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		b.login("bob")
		r.meet(0, 1)
		_, err := a.find("bob")
		require.NoError(t, err)
		require.NoError(t, b.Close())
		require.NoError(t, r.net.Host(1).Close())
		soon(t, time.Minute, "bob to be gone", func() bool { return len(a.Online()) == 0 })
		c.login("bob")
		r.meet(0, 2)
		soon(t, time.Second, "a conflict", func() bool { return len(of[presence.Conflict](a)) == 1 })
		require.Equal(t, presence.Conflict{User: "bob", Pinned: b.keys.UserKey(), Other: c.me()}, of[presence.Conflict](a)[0])
	})
}

func TestTwoStrangersOfOneNameAreAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		b.login("bob")
		c.login("bob")
		r.meet(0, 1)
		r.meet(0, 2)
		require.Equal(t, []presence.Conflict{{User: "bob", Other: c.me(), Rival: b.me()}}, of[presence.Conflict](a),
			"of the two neither is the one whom the name means")
	})
}

func TestTwoNodesWithOneDeviceKeyAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		twin := r.net.NewHost(r.net.HostKey(0))
		r.nodes = append(r.nodes, nil)
		require.Equal(t, r.net.ID(0), r.net.ID(twin))
		for i := range 3 {
			r.nodes[i] = r.start(i, keysOf(t, r.net.HostKey(i)), testApp)
		}
		a, b, c := r.nodes[0], r.nodes[twin], r.nodes[1]
		a.login("alice")
		time.Sleep(time.Second)
		b.login("alice")
		r.net.Connect(0, 1)
		soon(t, 5*time.Second, "the first", func() bool { return len(of[presence.PeerUp](c)) == 1 })
		r.net.Connect(twin, 1)
		soon(t, 20*time.Second, "the neighbour to see two", func() bool { return len(of[presence.DuplicateDevice](c)) == 1 })
		require.Equal(t, a.id, of[presence.DuplicateDevice](c)[0].Peer)
		soon(t, 20*time.Second, "the one that logged in earlier to hear of it", func() bool {
			return len(of[presence.DuplicateDevice](a)) == 1
		})
		require.Equal(t, a.id, of[presence.DuplicateDevice](a)[0].Peer, "it is its own")
		time.Sleep(time.Hour)
		require.Len(t, of[presence.DuplicateDevice](c), 1, "said once")
		require.Len(t, of[presence.DuplicateDevice](a), 1, "said once")
	})
}

func TestAStatementSeenElsewhereIsTakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 1)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		a.login("alice")
		time.Sleep(time.Second)
		a.Observe(nil)
		a.Observe(statementOf(t, &identity.Keys{Device: seeded(9), User: a.keys.User}, identity.NewAppID("other"), func(*identity.Statement) {}))
		require.True(t, a.loggedIn())
		a.Observe(statementOf(t, &identity.Keys{Device: seeded(9), User: a.keys.User}, testApp, func(*identity.Statement) {}))
		require.False(t, a.loggedIn())
		require.Len(t, of[presence.Replaced](a), 1)
	})
}

func TestTwoStrangersAreAConflictAgainOnceOneHasTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		pins := identity.NewPins()
		require.NoError(t, r.nodes[0].Close())
		r.nodes[0] = r.start(0, r.nodes[0].keys, testApp, presence.WithPins(pins))
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		b.login("bob")
		c.login("bob")
		comes := func(i int) {
			require.NoError(t, r.net.Host(0).Network().ClosePeer(r.net.ID(i)))
			soon(t, time.Minute, "the end of the connection", func() bool { return !r.connected(0, i) && !r.connected(i, 0) })
			r.meet(0, i)
		}
		r.meet(0, 1)
		r.meet(0, 2)
		// It does not matter which was connected for longer.
		for _, i := range []int{1, 2, 1} {
			comes(i)
		}
		require.Equal(t, []presence.Conflict{{User: "bob", Other: c.me(), Rival: b.me()}}, of[presence.Conflict](a), "said once, of both")
		pins.Pin("bob", b.keys.UserKey())
		comes(1)
		comes(2)
		comes(2)
		require.Equal(t, []presence.Conflict{{User: "bob", Pinned: b.keys.UserKey(), Other: c.me()}}, of[presence.Conflict](a)[1:])
	})
}

func TestALogOutUnderASharedNameIsNoConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4)
		defer r.close()
		a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
		b.login("bob")
		in := b.Self()
		r.meet(0, 1)
		require.NoError(t, b.Logout(t.Context()))
		c.login("bob")
		r.meet(0, 2)
		soon(t, time.Second, "the log-in", func() bool { return a.sees(c) })
		// A peer that does not know of the log-out may show it.
		a.Observe(in)
		require.Empty(t, of[presence.Conflict](a))
		found, err := a.find("bob")
		require.NoError(t, err)
		require.Equal(t, c.me(), found.Login)
		d.login("bob")
		r.meet(0, 3)
		require.Equal(t, []presence.Conflict{{User: "bob", Pinned: c.keys.UserKey(), Other: d.me()}}, of[presence.Conflict](a))
	})
}

// Two log-ins of one user do not meet: the later one ends, and the earlier one goes on. A node that
// knows both sees the user online.
func TestALogInOutlivesALaterOneThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 3)
		defer r.close()
		r.sameUser(0, 1)
		r.nodes[2] = r.start(2, keysOf(t, r.net.HostKey(2)), testApp)
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		c.login("carol")
		a.login("alice")
		time.Sleep(time.Second)
		b.login("alice")
		time.Sleep(time.Second)
		require.NoError(t, b.Logout(t.Context()))
		r.meet(0, 1)
		r.meet(0, 2)
		r.meet(1, 2)
		// What c learned by hello is old by then, and c has to ask.
		time.Sleep(25 * time.Second)
		s := c.status("alice")
		require.Equal(t, presence.Online, s.State, "%+v", s)
		require.Equal(t, a.me(), s.Login)
		require.Empty(t, of[presence.Replaced](a))
	})
}

// The earlier log-in ranks above the one that has ended, but not above an even later one.
func TestALogInThatOutlivesALaterOneStillYieldsToTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 3)
		defer r.close()
		r.sameUser(0, 1)
		r.nodes[2] = r.start(2, keysOf(t, r.net.HostKey(2)).WithUser(seeded(200)), testApp)
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		for _, n := range []*node{a, b} {
			n.login("alice")
			time.Sleep(time.Second)
		}
		require.NoError(t, b.Logout(t.Context()))
		c.login("alice")
		time.Sleep(time.Minute)
		r.meet(0, 1)
		time.Sleep(time.Second)
		require.True(t, a.loggedIn())
		r.meet(0, 2)
		winner, _ := oneLeft(t, time.Second, a, c)
		require.Same(t, c, winner)
	})
}
