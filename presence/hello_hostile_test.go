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
