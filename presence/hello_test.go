package presence_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

func TestPeersGreetEachOtherWhenTheyConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, presence.WithMaxMessage(1234))
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		a.login("alice")
		require.NoError(t, b.SetUser("bob"))
		r.meet(0, 1)

		at, err := b.Peer(t.Context(), a.id)
		require.NoError(t, err)
		require.Equal(t, a.me(), at.Statement.Login())
		require.True(t, at.Statement.LoggedIn)
		require.Equal(t, a.Incarnation(), at.Incarnation)
		require.Equal(t, 1234, at.MaxMessage)
		require.Equal(t, 256<<10, at.MaxEnvelope)
		require.Equal(t, r.net.Host(0).Addrs(), at.Addrs)
		bt, err := a.Peer(t.Context(), b.id)
		require.NoError(t, err)
		require.Equal(t, b.me(), bt.Statement.Login())
		require.False(t, bt.Statement.LoggedIn)
		require.NotEqual(t, a.Incarnation(), b.Incarnation())

		require.Equal(t, []identity.Login{a.me()}, b.Online())
		require.Empty(t, a.Online(), "bob has a name, and is not logged in")
		soon(t, time.Second, "an event at both", func() bool { return len(a.heard()) == 1 && len(b.heard()) == 1 })
		require.Equal(t, []presence.Event{presence.PeerUp{Peer: a.id, Session: at}}, b.heard())
		require.Equal(t, []presence.Event{presence.PeerUp{Peer: b.id, Session: bt}}, a.heard())
	})
}

func TestPeersWithoutAUserGreetToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		r.meet(0, 1)
		s, err := r.nodes[0].Peer(t.Context(), r.nodes[1].id)
		require.NoError(t, err)
		require.Nil(t, s.Statement)
		_, has := s.Login()
		require.False(t, has)
		require.Nil(t, r.nodes[1].Self())
	})
}

func TestConnectionsFromBeforeTheDirectoryAreGreeted(t *testing.T) {
	for name, dialler := range map[string]int{"this node dialled": 0, "the other dialled": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				r.net.Connect(dialler, 1-dialler)
				for i := range 2 {
					r.nodes[i] = r.start(i, keysOf(t, r.net.HostKey(i)), testApp)
					time.Sleep(3 * time.Second) // the first node has no peer yet
				}
				soon(t, 10*time.Second, "a hello", func() bool {
					return len(of[presence.PeerUp](r.nodes[0])) == 1 && len(of[presence.PeerUp](r.nodes[1])) == 1
				})
			})
		})
	}
}

func TestLogInAndLogOutAreToldToConnectedPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		r.meet(0, 1)
		r.meet(2, 0) // dialled by the other side
		a.login("alice")
		soon(t, time.Second, "the log-in", func() bool { return b.sees(a) && c.sees(a) })

		start := time.Now()
		require.NoError(t, a.Logout(t.Context()))
		require.Less(t, time.Since(start), time.Second)
		require.False(t, b.sees(a), "whoever is connected has been told when Logout returns")
		require.False(t, c.sees(a))
		s, err := b.Peer(t.Context(), a.id)
		require.NoError(t, err)
		require.Equal(t, "alice", s.Statement.User, "the identity stays")

		a.login("alice")
		soon(t, time.Second, "the second log-in", func() bool { return b.sees(a) && c.sees(a) })
		require.Len(t, of[presence.PeerUp](b), 1)
		require.Len(t, of[presence.PeerChanged](b), 3)
	})
}

func TestALogOutDoesNotWaitForASilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		a.login("alice")
		r.meet(0, 1)
		r.meet(0, 2)
		r.net.Cut(0, 2)
		start := time.Now()
		require.NoError(t, a.Logout(t.Context()))
		require.InDelta(t, time.Second, time.Since(start), float64(50*time.Millisecond))
		require.False(t, b.sees(a))
		require.False(t, a.loggedIn())
	})
}

func TestAPeerOfAnotherAppIsRefusedOnBothSides(t *testing.T) {
	for name, dialler := range map[string]int{"dialled": 0, "dialling": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
				r.nodes[1] = r.start(1, keysOf(t, r.net.HostKey(1)), identity.NewAppID("other"))
				a, b := r.nodes[0], r.nodes[1]
				a.login("alice")
				b.login("bob")
				r.net.Connect(dialler, 1-dialler)
				soon(t, 3*time.Second, "the end of the connection", func() bool { return !r.connected(0, 1) && !r.connected(1, 0) })
				// One of them judges the hello, the other receives the refusal.
				judge, told := a, b
				if dialler == 0 {
					judge, told = b, a
				}
				soon(t, time.Second, "the events", func() bool { return len(judge.heard()) == 1 && len(told.heard()) == 1 })
				require.Equal(t, "it is a node of another app", of[presence.Refused](judge)[0].Reason)
				require.Equal(t, "it is a node of another app", of[presence.Refused](told)[0].Reason)
				require.False(t, of[presence.Refused](judge)[0].Err.Remote)
				require.True(t, of[presence.Refused](told)[0].Err.Remote)
				for _, n := range []*node{a, b} {
					require.ErrorIs(t, of[presence.Refused](n)[0].Err, identity.ErrOtherApp)
					require.Empty(t, n.Online())
				}
				_, err := judge.Peer(t.Context(), told.id)
				require.EqualError(t, err, "peer "+told.id.String()+" refused: it is a node of another app")
				_, err = told.Peer(t.Context(), judge.id)
				require.EqualError(t, err, "peer "+judge.id.String()+" refuses us: it is a node of another app")

				require.True(t, a.Foreign(b.id))
				require.True(t, b.Foreign(a.id))
				time.Sleep(5 * time.Minute)
				require.False(t, r.connected(0, 1), "nobody dials again")
				require.Len(t, a.heard(), 1)
				time.Sleep(6 * time.Minute)
				require.False(t, a.Foreign(b.id), "not for ever")
			})
		})
	}
}

func TestARestartedPeerIsKnownAgainAlsoWhileItsOldConnectionLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		b.login("bob")
		r.meet(0, 1)
		old := b.Incarnation()
		r.net.Kill(1) // node a does not notice
		require.NoError(t, b.Close())
		r.net.Restart(1)
		r.nodes[1] = r.start(1, b.keys, testApp, presence.WithMaxMessage(1234))
		b = r.nodes[1]
		b.login("bob")
		r.net.Connect(1, 0)
		soon(t, 10*time.Second, "the new incarnation", func() bool {
			s, err := a.Peer(t.Context(), b.id)
			return err == nil && s.Incarnation == b.Incarnation() && s.Statement != nil && s.Statement.LoggedIn
		})
		require.NotEqual(t, old, b.Incarnation())
		// This must arrive on the new connection, not on the dead one.
		a.login("alice")
		soon(t, time.Second, "the log-in", func() bool { return b.sees(a) })
		time.Sleep(2 * time.Minute) // the old connection ends
		s, err := a.Peer(t.Context(), b.id)
		require.NoError(t, err)
		require.Equal(t, b.Incarnation(), s.Incarnation)
		require.Empty(t, of[presence.DuplicateDevice](a), "a restart is not a second node: %s", describe(a.heard()))
		differs := of[presence.SettingDiffers](a)
		require.Len(t, differs, 1, "it came back with another setting")
		require.Equal(t, "1234", differs[0].Theirs)
	})
}

func TestAHelloThatWasOvertakenDoesNotTurnTheStatementBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		r.net.Connect(1, 0)
		keys := keysOf(t, r.net.HostKey(1))
		in := statementOf(t, keys, testApp, func(*identity.Statement) {})
		out := statementOf(t, keys, testApp, func(s *identity.Statement) {
			s.Issued, s.LoggedIn = s.Issued.Add(time.Millisecond), false
		})
		finish := beginHello(t, r, 1, a, in)
		greet(t, r, 1, a, out)
		finish()
		s, err := a.Peer(t.Context(), keys.PeerID())
		require.NoError(t, err)
		require.Equal(t, out.Sealed(), s.Statement.Sealed())
		require.Empty(t, a.Online())
		finish = beginHello(t, r, 1, a, nil)
		finish()
		s, err = a.Peer(t.Context(), keys.PeerID())
		require.NoError(t, err)
		require.NotNil(t, s.Statement, "who has shown an identity cannot have none")
	})
}

func TestPeerOpensTheHelloThatTheDiallerDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		opened := make(chan struct{}, 10)
		r.net.Host(1).SetStreamHandler(presence.HelloProtocol, func(s network.Stream) {
			opened <- struct{}{}
			_ = s.Reset()
		})
		r.net.Connect(1, 0)
		time.Sleep(time.Minute)
		require.Empty(t, opened, "it is the dialler's to open")
		_, err := r.nodes[0].Peer(t.Context(), r.net.ID(1))
		require.ErrorIs(t, err, presence.ErrNoHello)
		require.NotEmpty(t, opened)
	})
}

func TestEventsOfOnePeerComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		for range 20 {
			r.meet(1, 0)
			if !b.loggedIn() {
				b.login("bob")
			} else {
				require.NoError(t, b.Logout(t.Context()))
			}
			require.NoError(t, r.net.Host(1).Network().ClosePeer(a.id))
			soon(t, time.Minute, "the end of the connection", func() bool { return !r.connected(0, 1) })
		}
		soon(t, time.Minute, "all events", func() bool { return len(of[presence.PeerDown](a)) == 20 })
		up := false
		for i, ev := range a.heard() {
			switch ev.(type) {
			case presence.PeerUp:
				require.False(t, up, "event %d of %s", i, describe(a.heard()))
				up = true
			case presence.PeerChanged, presence.PeerDown:
				require.True(t, up, "event %d of %s", i, describe(a.heard()))
				_, down := ev.(presence.PeerDown)
				up = !down
			}
		}
		require.Len(t, of[presence.PeerUp](a), 20)
		_, err := a.Peer(t.Context(), b.id)
		require.ErrorIs(t, err, presence.ErrNotConnected)
	})
}

func TestTheObserverMayCallTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		defer r.close()
		i := r.net.NewHost(nil)
		keys := keysOf(t, r.net.HostKey(i))
		var d *presence.Directory
		ready := make(chan struct{})
		heard := make(chan identity.Session, 1)
		d, err := presence.New(r.net.Host(i), testApp, keys, presence.WithObserver(func(ev presence.Event) {
			<-ready
			if up, ok := ev.(presence.PeerUp); ok {
				s, err := d.Peer(context.Background(), up.Peer)
				if err == nil && d.Login(context.Background(), "bob") == nil && d.Logout(context.Background()) == nil {
					d.Online()
					heard <- s
				}
			}
		}))
		require.NoError(t, err)
		defer d.Close()
		close(ready)
		r.net.Connect(i, 0)
		select {
		case s := <-heard:
			require.Equal(t, r.nodes[0].Incarnation(), s.Incarnation)
		case <-time.After(10 * time.Second):
			t.Fatal("deadlock")
		}
	})
}
