package presence_test

import (
	"context"
	"encoding/binary"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/wire"
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
				require.EqualError(t, err, "presence: peer "+told.id.String()+" refused: it is a node of another app")
				_, err = told.Peer(t.Context(), judge.id)
				require.EqualError(t, err, "presence: peer "+judge.id.String()+" refuses us: it is a node of another app")

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

// hostile opens a hello stream from host i to node p.
func hostile(t *testing.T, net *meshtest.Net, i int, p peer.ID) network.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := net.Host(i).NewStream(ctx, p, presence.HelloProtocol)
	require.NoError(t, err)
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	return s
}

func readRefusal(t *testing.T, s network.Stream) *wire.Refusal {
	t.Helper()
	var reply wire.HelloReply
	require.NoError(t, wire.NewReader(s, 16<<10).Next(&reply))
	require.NotNil(t, reply.Refusal)
	_ = s.Close()
	return reply.Refusal
}

func goodHello(app identity.AppID) *wire.Hello {
	return &wire.Hello{App: app[:], Incarnation: 7, Nonce: make([]byte, 16)}
}

func TestHellosThatMakeNoSenseAreRefused(t *testing.T) {
	frame := func(h *wire.Hello) []byte {
		b, err := wire.AppendFrame(nil, h)
		require.NoError(t, err)
		return b
	}
	change := func(f func(*wire.Hello)) []byte {
		h := goodHello(testApp)
		f(h)
		return frame(h)
	}
	for _, tc := range []struct {
		name string
		send []byte
		code wire.Refusal_Code
		text string
	}{
		{"garbage", append([]byte{8}, "\xff\xff\xff\xff\xff\xff\xff\xff"...), wire.Refusal_BAD_FRAME, "malformed hello: "},
		{"oversize", binary.AppendUvarint(nil, 16<<10+1), wire.Refusal_BAD_FRAME, "malformed hello: frame of 16385 bytes is over the limit of 16384"},
		{"absurd size", binary.AppendUvarint(nil, 1<<62), wire.Refusal_BAD_FRAME, "malformed hello: frame of 4611686018427387904 bytes is over the limit of 16384"},
		{"endless size", []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), wire.Refusal_BAD_FRAME, "malformed hello: frame length is not a varint"},
		{"empty", []byte{0}, wire.Refusal_BAD_FRAME, "malformed hello"},
		{"short nonce", change(func(h *wire.Hello) { h.Nonce = h.Nonce[1:] }), wire.Refusal_BAD_FRAME, "malformed hello"},
		{"no app", change(func(h *wire.Hello) { h.App = nil }), wire.Refusal_OTHER_APP, "it is a node of another app"},
		{"garbage for a statement", change(func(h *wire.Hello) { h.Statement = make([]byte, 100) }), wire.Refusal_BAD_STATEMENT, "its statement: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
				a := r.nodes[0]
				r.net.Connect(1, 0)
				s := hostile(t, r.net, 1, a.id)
				_, err := s.Write(tc.send)
				require.NoError(t, err)
				got := readRefusal(t, s)
				require.Equal(t, tc.code, got.Code)
				require.Contains(t, got.Text, tc.text)
				soon(t, 3*time.Second, "the end of the connection", func() bool { return !r.connected(0, 1) })
				require.Len(t, of[presence.Refused](a), 1)
				require.Empty(t, of[presence.PeerUp](a))
				require.True(t, a.Foreign(r.net.ID(1)))
				require.Equal(t, uint64(1), a.Stats().Refused)
			})
		})
	}
}

// statementOf signs a current statement of alice with the given keys.
func statementOf(t *testing.T, keys *identity.Keys, app identity.AppID, change func(*identity.Statement)) *identity.Statement {
	t.Helper()
	now := time.Now()
	st := identity.Statement{
		App: app, User: "alice", LoggedIn: true, Sequence: identity.NextSequence(0, now),
		Issued: now, Expires: now.Add(time.Hour),
	}
	change(&st)
	signed, err := keys.Sign(st)
	require.NoError(t, err)
	return signed
}

func TestHellosWithWrongStatementsAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, own *identity.Keys) []byte
		code wire.Refusal_Code
		text string
	}{
		{"another device's", func(t *testing.T, own *identity.Keys) []byte {
			return statementOf(t, &identity.Keys{Device: seeded(9), User: own.User}, testApp, func(*identity.Statement) {}).Sealed()
		}, wire.Refusal_BAD_STATEMENT, "shown by peer"},
		{"of another app", func(t *testing.T, own *identity.Keys) []byte {
			return statementOf(t, own, identity.NewAppID("other"), func(*identity.Statement) {}).Sealed()
		}, wire.Refusal_OTHER_APP, "signed for another app"},
		{"from the future", func(t *testing.T, own *identity.Keys) []byte {
			return statementOf(t, own, testApp, func(s *identity.Statement) { s.Issued = time.Now().Add(10 * time.Minute) }).Sealed()
		}, wire.Refusal_CLOCK, "check the clock"},
		{"expired", func(t *testing.T, own *identity.Keys) []byte {
			return statementOf(t, own, testApp, func(s *identity.Statement) {
				s.Issued, s.Expires = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
			}).Sealed()
		}, wire.Refusal_BAD_STATEMENT, "expired 1m0"},
		{"altered", func(t *testing.T, own *identity.Keys) []byte {
			b := statementOf(t, own, testApp, func(*identity.Statement) {}).Sealed()
			b[len(b)-1] ^= 1
			return b
		}, wire.Refusal_BAD_STATEMENT, "its statement: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
				r.net.Connect(1, 0)
				s := hostile(t, r.net, 1, r.nodes[0].id)
				h := goodHello(testApp)
				h.Statement = tc.make(t, keysOf(t, r.net.HostKey(1)))
				require.NoError(t, wire.WriteFrame(s, h))
				got := readRefusal(t, s)
				require.Equal(t, tc.code, got.Code)
				require.Contains(t, got.Text, tc.text)
				require.LessOrEqual(t, len(got.Text), 256)
				soon(t, 3*time.Second, "the end of the connection", func() bool { return !r.connected(0, 1) })
				require.Empty(t, r.nodes[0].Online())
			})
		})
	}
}

func TestAHelloWithoutAProofOfTheKeyIsRefused(t *testing.T) {
	for name, proof := range map[string]func([]byte, *identity.Keys) []byte{
		"none":  func([]byte, *identity.Keys) []byte { return nil },
		"short": func([]byte, *identity.Keys) []byte { return make([]byte, 63) },
		"of another key": func(transcript []byte, _ *identity.Keys) []byte {
			return wire.Sign(wire.DomainHello, seeded(9), transcript)
		},
		"of another purpose": func(transcript []byte, k *identity.Keys) []byte {
			return wire.Sign(wire.DomainRoster, k.Device, transcript)
		},
		"of another nonce": func(transcript []byte, k *identity.Keys) []byte {
			transcript[0] ^= 1
			return wire.Sign(wire.DomainHello, k.Device, transcript)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
				r.net.Connect(1, 0)
				keys := keysOf(t, r.net.HostKey(1))
				s := hostile(t, r.net, 1, r.nodes[0].id)
				h := goodHello(testApp)
				h.Statement = statementOf(t, keys, testApp, func(*identity.Statement) {}).Sealed()
				require.NoError(t, wire.WriteFrame(s, h))
				var reply wire.HelloReply
				require.NoError(t, wire.NewReader(s, 16<<10).Next(&reply))
				require.Nil(t, reply.Refusal)
				tr := transcript(reply.Hello.Nonce, h.Statement, r.net.ID(1), r.nodes[0].id)
				require.NoError(t, wire.WriteFrame(s, &wire.HelloProof{Proof: proof(tr, keys)}))
				soon(t, 3*time.Second, "the end of the connection", func() bool { return !r.connected(0, 1) })
				require.Equal(t, "its proof of the device key does not verify", of[presence.Refused](r.nodes[0])[0].Reason)
				require.Empty(t, of[presence.PeerUp](r.nodes[0]))
			})
		})
	}
}

// transcript returns what a proof of hello signs, written independently from the description of the
// protocol.
func transcript(nonce, statement []byte, initiator, responder peer.ID) []byte {
	sum := sha256Sum(statement)
	return slices.Concat(nonce, sum, []byte(initiator), []byte(responder))
}

func TestAPeerWithAProofIsTakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		r.net.Connect(1, 0)
		keys := keysOf(t, r.net.HostKey(1))
		s := hostile(t, r.net, 1, a.id)
		h := goodHello(testApp)
		h.Capabilities = 1 << 63
		h.Statement = statementOf(t, keys, testApp, func(*identity.Statement) {}).Sealed()
		h.Addrs = [][]byte{{0xff, 0xff}, make([]byte, 300), r.net.Addr(1).Bytes()}
		h.ProtoReflect().SetUnknown([]byte{0xa2, 0x06, 0x03, 'n', 'e', 'w'})
		require.NoError(t, wire.WriteFrame(s, h))
		frames := wire.NewReader(s, 16<<10)
		var reply wire.HelloReply
		require.NoError(t, frames.Next(&reply))
		require.True(t, wire.Check(wire.DomainHello, a.keys.Device.Public().(ed25519PublicKey),
			transcript(h.Nonce, reply.Hello.Statement, r.net.ID(1), a.id), reply.Proof), "the other end proves its key too")
		require.NoError(t, wire.WriteFrame(s, &wire.HelloProof{
			Proof: wire.Sign(wire.DomainHello, keys.Device, transcript(reply.Hello.Nonce, h.Statement, r.net.ID(1), a.id)),
		}))
		require.NoError(t, s.CloseWrite())
		require.ErrorIs(t, frames.Next(&reply), io.EOF)
		got, err := a.Peer(t.Context(), r.net.ID(1))
		require.NoError(t, err)
		require.Equal(t, uint64(7), got.Incarnation)
		require.Equal(t, uint64(1<<63), got.Capabilities)
		require.Equal(t, "alice", got.Statement.User)
		require.Len(t, got.Addrs, 1, "addresses that make no sense are passed over")
	})
}

func TestASilentPeerIsGivenUpAtTheDeadline(t *testing.T) {
	t.Run("it opens a hello and says nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := bare(t, 2)
			defer r.close()
			r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
			r.net.Connect(1, 0)
			s := hostile(t, r.net, 1, r.nodes[0].id)
			_, err := s.Write([]byte{100, 1, 2}) // part of a frame
			require.NoError(t, err)
			start := time.Now()
			_, err = io.ReadAll(s)
			require.Error(t, err)
			require.InDelta(t, 5*time.Second, time.Since(start), float64(time.Second))
			require.True(t, r.connected(0, 1), "slow is no crime")
		})
	})
	t.Run("it takes a hello and says nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := bare(t, 2)
			defer r.close()
			var opened atomic.Int32
			r.net.Host(1).SetStreamHandler(presence.HelloProtocol, func(s network.Stream) {
				opened.Add(1)
				_, _ = io.Copy(io.Discard, s)
				_ = s.Reset()
			})
			r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
			r.net.Connect(0, 1)
			start := time.Now()
			_, err := r.nodes[0].Peer(t.Context(), r.net.ID(1))
			require.ErrorIs(t, err, presence.ErrNoHello)
			require.InDelta(t, 5*time.Second, time.Since(start), float64(100*time.Millisecond))
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			require.Greater(t, opened.Load(), int32(5), "it is tried again")
			require.Less(t, opened.Load(), int32(20), "and not in a hurry")
		})
	})
	t.Run("it does not speak hello", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := bare(t, 2)
			defer r.close()
			r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
			r.net.Connect(0, 1)
			_, err := r.nodes[0].Peer(t.Context(), r.net.ID(1))
			require.ErrorIs(t, err, presence.ErrNoHello)
			time.Sleep(time.Minute)
			require.True(t, r.connected(0, 1), "it may be a relay")
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err = r.nodes[0].Peer(ctx, r.net.ID(1))
			require.ErrorIs(t, err, presence.ErrNoHello, "now at once")
		})
	})
}

func TestAPeerWithTooManyHellosIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		r.net.Connect(1, 0)
		var streams []network.Stream
		for range 10 {
			s := hostile(t, r.net, 1, r.nodes[0].id)
			_, _ = s.Write([]byte{100})
			streams = append(streams, s)
		}
		time.Sleep(time.Second)
		alive := 0
		for _, s := range streams {
			_ = s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := s.Read(make([]byte, 1)); isTimeout(err) {
				alive++
			}
		}
		require.Equal(t, 4, alive)
		require.Equal(t, uint64(6), r.nodes[0].Stats().Limited)
		for _, s := range streams {
			_ = s.Reset()
		}
	})
}

func TestTheTextOfARefusalCannotHarmATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.net.Host(1).SetStreamHandler(presence.HelloProtocol, func(s network.Stream) {
			var h wire.Hello
			_ = wire.NewReader(s, 16<<10).Next(&h)
			_ = wire.WriteFrame(s, &wire.HelloReply{Refusal: &wire.Refusal{Code: wire.Refusal_BUSY, Text: "\x1b[2Jgo away\r\n\u202e" + string(make([]byte, 9999))}})
			_ = s.Close()
		})
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		r.net.Connect(0, 1)
		soon(t, time.Second, "a refusal", func() bool { return len(of[presence.Refused](r.nodes[0])) == 1 })
		require.Equal(t, "[2Jgo away", of[presence.Refused](r.nodes[0])[0].Reason)
		soon(t, time.Second, "the end of the connection", func() bool { return !r.connected(0, 1) })
	})
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
		r.nodes[1] = r.start(1, b.keys, testApp)
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

func TestAPeerThatBreaksEveryHelloOffAtItsEndCannotHurryUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 2)
		defer r.close()
		r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
		a := r.nodes[0]
		a.login("alice")
		keys := keysOf(t, r.net.HostKey(1))
		var opened atomic.Int32
		r.net.Host(1).SetStreamHandler(presence.HelloProtocol, func(s network.Stream) {
			opened.Add(1)
			var h wire.Hello
			frames := wire.NewReader(s, 16<<10)
			_ = frames.Next(&h)
			_ = wire.WriteFrame(s, &wire.HelloReply{
				Hello: goodHello(testApp),
				Proof: wire.Sign(wire.DomainHello, keys.Device, transcript(h.Nonce, nil, a.id, keys.PeerID())),
			})
			_ = frames.Next(&wire.HelloProof{})
			_ = s.Reset()
		})
		r.net.Connect(0, 1)
		time.Sleep(10 * time.Minute)
		require.Len(t, of[presence.PeerUp](a), 1, "its reply was good")
		require.Greater(t, opened.Load(), int32(5))
		require.Less(t, opened.Load(), int32(20))
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
