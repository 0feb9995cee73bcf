package presence_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/presence"
)

// down waits for the end of the last connection to one peer, and returns why it has ended.
func down(t *testing.T, n *node) presence.DownReason {
	t.Helper()
	soon(t, time.Minute, "the end of the connection", func() bool { return len(of[presence.PeerDown](n)) > 0 })
	all := of[presence.PeerDown](n)
	require.Len(t, all, 1)
	return all[0].Reason
}

func TestAGoodbyeIsToldFromALoss(t *testing.T) {
	for name, c := range map[string]struct {
		part func(r *rig)
		want presence.DownReason
	}{
		"a node that has no user closes": {func(r *rig) { r.nodes[1].Close(); r.net.Host(1).Close() }, presence.SaidGoodbye},
		"a node that has logged in closes": {func(r *rig) {
			r.nodes[1].login("bob")
			time.Sleep(time.Second)
			r.nodes[1].Close()
			r.net.Host(1).Close()
		}, presence.SaidGoodbye},
		"a node that has logged out crashes": {func(r *rig) {
			r.nodes[1].login("bob")
			require.NoError(r.t, r.nodes[1].Logout(context.Background()))
			r.net.Kill(1)
		}, presence.Lost},
		"a host closes without a goodbye": {func(r *rig) { r.net.Host(1).Close() }, presence.Lost},
		"the link is cut":                 {func(r *rig) { r.net.Cut(0, 1) }, presence.Lost},
		"the other side has too many":     {func(r *rig) { trim(r, 1, 0) }, presence.Trimmed},
		"this side has too many":          {func(r *rig) { trim(r, 0, 1) }, presence.Trimmed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 2)
				defer r.close()
				r.meet(0, 1)
				c.part(r)
				require.Equal(t, c.want, down(t, r.nodes[0]))
			})
		})
	}
}

// trim closes the connection from one host to another as a connection manager does.
func trim(r *rig, from, to int) {
	for _, c := range r.net.Host(from).Network().ConnsToPeer(r.net.ID(to)) {
		_ = c.CloseWithError(network.ConnGarbageCollected)
	}
}

func TestAGoodbyeOutlastsALaterHelloButNotARestart(t *testing.T) {
	for name, c := range map[string]struct {
		incarnation uint64
		want        presence.DownReason
	}{
		"the same incarnation": {7, presence.SaidGoodbye},
		"another incarnation":  {8, presence.Lost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 2)
				defer r.close()
				r.nodes[0] = r.start(0, keysOf(t, r.net.HostKey(0)), testApp)
				a := r.nodes[0]
				r.net.Connect(1, 0)
				bye := goodHello(testApp)
				bye.Closing = true
				speak(t, r, bye)
				require.True(t, of[presence.PeerUp](a)[0].Session.Closing)
				later := goodHello(testApp)
				later.Incarnation = c.incarnation
				speak(t, r, later)
				r.net.Host(1).Close()
				require.Equal(t, c.want, down(t, a))
			})
		})
	}
}

// speak runs a whole hello from host 1 to node 0.
func speak(t *testing.T, r *rig, h *wire.Hello) {
	t.Helper()
	s := hostile(t, r.net, 1, r.nodes[0].id)
	require.NoError(t, wire.WriteFrame(s, h))
	frames := wire.NewReader(s, 16<<10)
	var reply wire.HelloReply
	require.NoError(t, frames.Next(&reply))
	require.Nil(t, reply.Refusal)
	signed := transcript(reply.Hello.Nonce, h.Statement, r.net.ID(1), r.nodes[0].id)
	key := keysOf(t, r.net.HostKey(1)).Device
	require.NoError(t, wire.WriteFrame(s, &wire.HelloProof{Proof: wire.Sign(wire.DomainHello, key, signed)}))
	require.NoError(t, s.CloseWrite())
	require.Error(t, frames.Next(&wire.HelloProof{}), "the end of the hello")
}

func TestANodeThatSaysGoodbyeDoesNotLogInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		b.login("bob")
		r.meet(0, 1)
		require.True(t, b.Goodbye(context.Background()), "it was logged in")
		require.False(t, b.Goodbye(context.Background()), "once")
		require.False(t, a.sees(b))
		require.ErrorIs(t, b.Login(context.Background(), "bob"), presence.ErrClosed)
		begun := time.Now()
		require.NoError(t, b.Close())
		require.Less(t, time.Since(begun), 100*time.Millisecond, "it has said goodbye already")
	})
}

func TestOverRealTransportsATrimmedConnectionIsNoLoss(t *testing.T) {
	for name, listen := range transports {
		t.Run(name, func(t *testing.T) {
			a, b := startReal(t, listen, testApp, nil), startReal(t, listen, testApp, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			require.NoError(t, a.host.Connect(ctx, *host.InfoFromHost(b.host)))
			next[presence.PeerUp](t, a)
			next[presence.PeerUp](t, b)
			quiet := func(h host.Host) bool {
				return !slices.ContainsFunc(h.Network().Conns(), func(c network.Conn) bool { return len(c.GetStreams()) > 0 })
			}
			// TCP resets a connection that is closed while something is unread, and the code is
			// lost.
			require.Eventually(t, func() bool { return quiet(a.host) && quiet(b.host) }, 10*time.Second, 10*time.Millisecond)
			for _, c := range b.host.Network().ConnsToPeer(a.host.ID()) {
				require.NoError(t, c.CloseWithError(network.ConnGarbageCollected))
			}
			require.Equal(t, presence.Trimmed, next[presence.PeerDown](t, a).Reason)
			require.Equal(t, presence.Trimmed, next[presence.PeerDown](t, b).Reason)
		})
	}
}

func TestAGoodbyeIsToldWhileTheConnectionLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		r.meet(0, 1)
		r.nodes[1].Goodbye(context.Background())
		changed := of[presence.PeerChanged](r.nodes[0])
		require.Len(t, changed, 1)
		require.True(t, changed[0].Session.Closing)
	})
}
