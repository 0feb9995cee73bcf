package vectors

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// lane is a stream of direct messages that the stranger opened.
type lane struct {
	z *stranger
	network.Stream
	*bufio.Reader
}

func (z *stranger) open(n *node.Node, receiver, class uint64) lane {
	s, r := z.stream(n.ID(), "/starling/direct/1.0.0")
	z.write(s, putInt(putFixed(putFixed(putInt(nil, 1, 1), 9, z.incarnation), 10, receiver), 11, class))
	return lane{z, s, r}
}

func (l lane) send(seq, kind uint64, room []byte, to, payload string) {
	m := putInt(putInt(putInt(nil, 1, 2), 2, seq), 3, kind)
	if room != nil {
		m = put(m, 4, room)
	}
	m = putInt(put(put(m, 5, []byte(to)), 6, []byte(payload)), 7, uint64(time.Now().UnixMilli()))
	l.z.write(l.Stream, m)
}

// answer returns the next frame's type, sequence and reason.
func (l lane) answer() [3]uint64 {
	l.z.t.Helper()
	m := l.z.read(l.Reader)
	return [3]uint64{m.varint(1), m.varint(2), m.varint(8)}
}

func TestAPeerFromTheDocumentSendsToOneUser(t *testing.T) {
	const ack, refuse = 3, 4
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.Login(t.Context(), "alice"))
		room, err := n.Join(t.Context(), "ops")
		require.NoError(t, err)
		net.Connect(1, 0)
		inc := z.greet(n.ID()).incarnation
		other := bytes.Repeat([]byte{1}, 32)
		tag := roomTag(z.app, "ops", "")

		l := z.open(n, inc, 0)
		l.send(5, 2, nil, "alice", "lunch?") // sequences rise, and may begin anywhere
		require.Equal(t, [3]uint64{ack, 5, 0}, l.answer())
		got := await[*mesh.DirectMessage](t, n)
		require.Equal(t, []any{"zoe", "lunch?", mesh.Text}, []any{got.From.User, string(got.Data), got.Kind})

		for i, c := range []struct {
			kind        uint64
			room        []byte
			to, payload string
			reason      uint64
		}{
			{1, nil, "bob", "x", 4},                           // WRONG_USER
			{1, other, "alice", "x", 3},                       // NOT_MEMBER: the receiver is not in that room
			{1, tag, "alice", "x", 3},                         // NOT_MEMBER: zoe is not
			{1, nil, "alice", "", 6},                          // MALFORMED
			{9, nil, "alice", "x", 6},                         // MALFORMED: a kind of a later version
			{2, nil, "alice", "\xff", 6},                      // MALFORMED: not UTF-8
			{1, other[:5], "alice", "x", 6},                   // MALFORMED: not a room tag
			{1, nil, "alice", string(make([]byte, 65537)), 5}, // TOO_LONG
		} {
			l.send(uint64(10+i), c.kind, c.room, c.to, c.payload)
			require.Equal(t, [3]uint64{refuse, uint64(10 + i), c.reason}, l.answer(), "case %d", i)
		}
		s := z.enter("ops", n.ID())
		s.publish(Item{3, s.entry})
		require.Equal(t, "zoe", await[*mesh.MemberJoined](t, room).Member.User)
		l.send(20, 1, tag, "alice", "psst")
		require.Equal(t, [3]uint64{ack, 20, 0}, l.answer())
		require.Equal(t, "psst", string(await[*mesh.DirectMessage](t, room).Data))

		// The stream broke: unanswered messages are written again.
		again := z.open(n, inc, 0)
		again.send(13, 1, nil, "alice", "")
		require.Equal(t, [3]uint64{refuse, 13, 6}, again.answer(), "the same answer as before")
		again.send(20, 1, tag, "alice", "psst")
		require.Equal(t, [3]uint64{ack, 20, 0}, again.answer())
		again.send(21, 1, tag, "alice", "new")
		require.Equal(t, [3]uint64{ack, 21, 0}, again.answer())
		require.Equal(t, "new", string(await[*mesh.DirectMessage](t, room).Data), "psst has come once")
		_, err = next(l.Reader)
		require.Error(t, err, "a newer stream of one class ends the older")

		turned := z.open(n, inc+1, 0)
		turned.send(22, 1, nil, "alice", "to a process that has ended")
		require.Equal(t, [3]uint64{refuse, 0, 7}, turned.answer())
		unordered := z.open(n, inc, 2)
		unordered.send(1, 1, nil, "alice", "another class, another count")
		require.Equal(t, [3]uint64{ack, 1, 0}, unordered.answer())

		for name, breach := range map[string][]byte{
			"a sequence that does not rise": framed(putInt(putInt(nil, 1, 2), 2, 1)),
			"no frame of a sender's":        framed(putInt(putInt(nil, 1, 3), 2, 1)),
			"a frame over the limit":        {0x81, 0x80, 0x05},
		} {
			l := z.open(n, inc, 1)
			l.send(1, 1, nil, "alice", "y")
			require.Equal(t, [3]uint64{ack, 1, 0}, l.answer(), name)
			_, err := l.Write(breach)
			require.NoError(t, err)
			_, err = next(l.Reader)
			require.Error(t, err, name)
			require.False(t, errors.Is(err, io.EOF), "%s: the stream is reset", name)
		}
	})
}

func TestAPeerFromTheDocumentTakesDirectMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.Login(t.Context(), "alice"))
		got := make(chan message, 64)
		z.host.SetStreamHandler("/starling/direct/1.0.0", func(s network.Stream) {
			r := bufio.NewReader(s)
			open, err := next(r)
			if err != nil || open.varint(1) != 1 || open.fixed64(10) != z.incarnation {
				_ = s.Reset()
				return
			}
			got <- open
			for {
				m, err := next(r)
				if err != nil {
					_ = s.Reset()
					return
				}
				answer := putInt(putInt(nil, 1, 3), 2, m.varint(2))
				if m.text(6) == "no" {
					answer = putInt(putInt(putInt(nil, 1, 4), 2, m.varint(2)), 8, 1)
				}
				got <- m
				if _, err := s.Write(framed(put(answer, 100, []byte("later")))); err != nil {
					return
				}
			}
		})
		net.Connect(0, 1)
		alice := <-z.greeted
		_, err := n.SendText(t.Context(), "zoe", "lunch?")
		require.NoError(t, err)
		open := <-got
		require.Equal(t, []uint64{alice.incarnation, 0}, []uint64{open.fixed64(9), open.varint(11)})
		first := <-got
		require.Equal(t, []any{uint64(2), uint64(2), "zoe", "lunch?", 0},
			[]any{first.varint(1), first.varint(3), first.text(5), first.text(6), len(first.bytes(4))})
		_, err = n.Send(t.Context(), "zoe", []byte("no"))
		var refused *mesh.RefusedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, mesh.QueueFull, refused.Reason)
		require.Greater(t, (<-got).varint(2), first.varint(2))
		_, err = n.Send(t.Context(), "zoe", []byte("late is well"), mesh.WithMode(mesh.UnreliableOrdered))
		require.NoError(t, err)
		open = <-got
		require.EqualValues(t, 1, open.varint(11), "a class of its own, a stream of its own")
	})
}

func TestAPeerFromTheDocumentAsksAndNotifies(t *testing.T) {
	user, err := identity.MarshalKey(key(6))
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t, node.WithUserKey(user))
		third := net.NewHost(nil)
		carol, err := node.New(node.WithHost(net.Host(third)), node.WithoutMDNS())
		require.NoError(t, err)
		defer carol.Close()
		require.NoError(t, carol.Login(t.Context(), "carol"))
		require.NoError(t, n.Login(t.Context(), "alice"))
		net.Connect(third, 0)
		await[*node.PeerUp](t, n)
		net.Connect(1, 0)
		z.greet(n.ID())

		s, r := z.stream(n.ID(), "/starling/whois/1.0.0")
		z.write(s, put(put(nil, 1, z.app), 2, []byte("carol")))
		require.NoError(t, s.CloseWrite())
		reply := z.read(r)
		require.Len(t, reply.all(1), 1)
		located, ok := parse(reply.bytes(1))
		require.True(t, ok)
		st, why := plainStatement(located.bytes(1), z.app, time.Now().UnixMilli())
		require.Empty(t, why)
		require.Equal(t, []byte(carol.ID()), peerIDBytes(st.bytes(5)))
		require.Contains(t, multiaddrs(t, located.all(2)), net.Addr(third).String())

		// Alice logs in on another device; only zoe knows of it.
		time.Sleep(time.Second)
		tablet := &stranger{t: t, host: z.host, device: key(5), user: key(6), name: "alice", app: z.app}
		tablet.sign(true)
		s, r = z.stream(n.ID(), "/starling/notice/1.0.0")
		z.write(s, put(nil, 1, tablet.statement))
		require.NoError(t, s.CloseWrite())
		_, err = next(r)
		require.ErrorIs(t, err, io.EOF, "the node has taken it")
		out := await[*node.LoggedOut](t, n)
		require.Equal(t, node.Replaced, out.Reason)
		require.Equal(t, fingerprint(pub(tablet.user)), out.By.Key.Fingerprint())
	})
}
