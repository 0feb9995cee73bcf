package vectors

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// await reads events until one is of type T, and drops the others.
func await[T mesh.Event](t *testing.T, from interface {
	Recv(context.Context) (mesh.Event, error)
}) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		ev, err := from.Recv(ctx)
		require.NoError(t, err, "no %T came", *new(T))
		if got, ok := ev.(T); ok {
			return got
		}
	}
}

func TestAPeerFromTheDocumentIsGreetedWhoeverDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.Login(t.Context(), "alice"))
		net.Connect(1, 0)
		g := z.greet(n.ID())
		require.Equal(t, "alice", g.statement.text(2))
		require.EqualValues(t, 1, g.statement.varint(9))
		up := await[*node.PeerUp](t, n)
		require.Equal(t, "zoe", up.Peer.User)
		require.Equal(t, fingerprint(pub(z.user)), up.Peer.Key.Fingerprint())
		require.True(t, up.Peer.LoggedIn)

		require.NoError(t, n.Logout(t.Context())) // the node reports it by its own hello
		g = <-z.greeted
		require.Equal(t, "alice", g.statement.text(2))
		require.Zero(t, g.statement.varint(9))
	})
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		net.Connect(0, 1)
		g := <-z.greeted
		require.Nil(t, g.statement, "nobody yet")
		require.NotZero(t, g.incarnation)
		require.Equal(t, "zoe", await[*node.PeerUp](t, n).Peer.User)
		z.sign(false)
		z.greet(n.ID())
		require.False(t, await[*node.PeerChanged](t, n).Peer.LoggedIn)
	})
}

func TestAPeerFromTheDocumentIsRefusedAsItSays(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*stranger)
		code  uint64
	}{
		"another app":        {func(z *stranger) { z.app = appID("other") }, 1},
		"an altered name":    {func(z *stranger) { z.statement = bytes.Replace(z.statement, []byte("zoe"), []byte("zob"), 1) }, 2},
		"another's device":   {func(z *stranger) { z.device = key(8); z.sign(true); z.device = key(9) }, 2},
		"a clock ahead":      {func(z *stranger) { z.ahead = 3 * time.Minute; z.sign(true) }, 3},
		"half an app":        {func(z *stranger) { z.statement = nil; z.app = z.app[:31] }, 1},
		"an old certificate": {func(z *stranger) { z.user = key(8); z.sign(true); z.statement[len(z.statement)-1] ^= 1 }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net, n, z := world(t)
				c.spoil(z)
				net.Connect(1, 0)
				g := z.greet(n.ID())
				require.Equal(t, c.code, g.refusal.varint(1))
				require.NotEmpty(t, g.refusal.text(2))
				time.Sleep(3 * time.Second)
				require.NotEqual(t, network.Connected, n.Host().Network().Connectedness(z.host.ID()))
			})
		})
	}
}

// clocked checks that a position says what its author's clock shows, which is the clock here, and
// returns it without that.
func clocked(t *testing.T, p Position) Position {
	t.Helper()
	require.InDelta(t, time.Now().UnixMilli(), p.ClockMS, 1000, "in milliseconds")
	p.ClockMS = 0
	return p
}

func TestAPeerFromTheDocumentTakesPartInARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.Login(t.Context(), "alice"))
		room, err := n.Join(t.Context(), "ops", mesh.WithInfo([]byte("at home")))
		require.NoError(t, err)
		_, err = room.PublishText(t.Context(), "before zoe came")
		require.NoError(t, err)

		net.Connect(1, 0)
		z.greet(n.ID())
		s := z.enter("ops", n.ID())
		s.greeting(make([]byte, 32), make([]byte, 32), 0)
		s.publish(Item{3, s.entry}, Item{2, Hex("hello from zoe")})
		require.Equal(t, "zoe", await[*mesh.MemberJoined](t, room).Member.User)

		var g message
		// The node also greets newcomers on its own initiative.
		for g == nil || g.varint(4) == 1 {
			g = s.hear(2)
		}
		alices, why := plainEntry(g.bytes(1), z.app, s.tag[:], time.Now().UnixMilli())
		require.Empty(t, why)
		require.Equal(t, "at home", alices.text(6))
		hers := feedTag(peerKey(n.ID()), alices.bytes(3))
		require.Equal(t, Position{Tag: hers, Last: 2, First: 3}, clocked(t, s.position(hers)), "her entry and a text, before zoe's time")
		require.EqualValues(t, 1, s.hear(3).varint(3), "all entries but the two members' own")

		mine, _ := parse(s.entry[64:])
		_, digest := rosterDigest([]message{alices, mine})
		require.Equal(t, digest, g.bytes(2), "both know the same")
		require.Equal(t, Position{Tag: s.own(), Last: 2}, s.position(s.own()), "zoe's entry and her text have arrived")

		msg := await[*mesh.Message](t, room)
		require.Equal(t, []any{"zoe", mesh.Text, "hello from zoe", uint64(2)}, []any{msg.From.User, msg.Kind, string(msg.Data), msg.Number})
		for range 100 {
			s.publish(Item{1, Hex{0, 0xff}}, Item{200, Hex("unknown")}, Item{2, Hex("and on")})
		}
		for i := range 100 {
			b, txt := await[*mesh.Message](t, room), await[*mesh.Message](t, room)
			require.Equal(t, []any{mesh.Binary, "\x00\xff", mesh.Text, "and on"}, []any{b.Kind, string(b.Data), txt.Kind, string(txt.Data)})
			require.Equal(t, []uint64{uint64(3 + 3*i), uint64(5 + 3*i)}, []uint64{b.Number, txt.Number})
		}

		for s.position(s.own()).Last < s.next-1 { // the last one is acknowledged too
		}

		// Earlier items, which the greeting did not ask for.
		a, err := s.fetch(n.ID(), Position{Tag: hers, First: 1, Last: 2})
		require.NoError(t, err)
		require.Len(t, a.all(1), 1)
		require.Equal(t, g.bytes(1), a.bytes(1), "her entry")
		old := a.all(2)
		require.NotEmpty(t, old, "her entry and the text, in one envelope if it came while that was under way")
		tip := sum(old[len(old)-1])
		p, err := room.PublishAsync(t.Context(), []byte("welcome"), mesh.AsText())
		require.NoError(t, err)
		e := s.envelope()
		require.Equal(t, []any{alices.bytes(3), uint64(3), tip}, []any{e.bytes(4), e.varint(5), e.bytes(7)})
		require.Equal(t, []Item{{2, Hex("welcome")}}, itemsOf(t, e))
		// The author sends its heads to neighbours that have not acknowledged it.
		for s.position(hers).Last < 3 {
		}
		select {
		case <-p.Done():
			t.Fatal("nobody has acknowledged it")
		default:
		}
		s.heads(Position{Tag: hers, Last: 3})
		done, err := p.Result()
		require.NoError(t, err)
		require.Equal(t, 1, done.Acked)

		s.sign(2)
		s.publish(Item{3, s.entry})
		left := await[*mesh.MemberLeft](t, room)
		require.Equal(t, []any{"zoe", mesh.Quit}, []any{left.Member.User, left.Reason})
		require.NoError(t, room.Leave(t.Context()))
		items, ok := plainItems(s.envelope().bytes(11))
		require.True(t, ok)
		bye, why := plainEntry(items[len(items)-1].Payload, z.app, s.tag[:], time.Now().UnixMilli())
		require.Empty(t, why)
		require.EqualValues(t, 2, bye.varint(5))
	})
}

func peerKey(id peer.ID) []byte { return []byte(id)[6:] }

func TestAPeerFromTheDocumentGetsHistoryByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.SetUser("alice"))
		room, err := n.Join(t.Context(), "ops")
		require.NoError(t, err)
		for range 3 { // items 2 to 4
			time.Sleep(10 * time.Second)
			_, err = room.PublishText(t.Context(), "news")
			require.NoError(t, err)
		}
		time.Sleep(5 * time.Second)
		net.Connect(1, 0)
		z.greet(n.ID())
		s := z.enter("ops", n.ID())
		hers := Hex(nil)
		for i, c := range []struct {
			age   time.Duration
			first uint64
		}{{0, 5}, {14 * time.Second, 4}, {16 * time.Second, 3}, {time.Hour, 1}} {
			s.greeting(make([]byte, 32), bytes.Repeat([]byte{byte(i)}, 32), c.age)
			for g := message(nil); g == nil || g.varint(4) == 1; {
				g = s.hear(2)
				alices, why := plainEntry(g.bytes(1), z.app, s.tag[:], time.Now().UnixMilli())
				require.Empty(t, why)
				hers = feedTag(peerKey(n.ID()), alices.bytes(3))
			}
			require.Equal(t, Position{Tag: hers, Last: 4, First: c.first}, clocked(t, s.position(hers)), c.age)
		}
		list := []Position{{Tag: hers, Last: 4}}
		_, digest := headsDigest(list)
		s.greeting(make([]byte, 32), digest, 0)
		time.Sleep(time.Second)
		for len(s.in) > 0 {
			m := <-s.in
			require.Empty(t, m[6], "equal digests need no heads")
		}

		a, err := s.fetch(n.ID(), Position{Tag: hers, First: 3}, Position{Tag: make([]byte, 16), First: 1}, Position{Tag: hers, First: 4, Last: 3})
		require.NoError(t, err)
		require.Len(t, a.all(2), 2)
		ages, ok := a.varints(3)
		require.True(t, ok)
		require.InDeltaSlice(t, []float64{16_100, 6_100}, []float64{float64(ages[0]), float64(ages[1])}, 200)
		require.Empty(t, a.all(4))
	})
}

func TestAPeerFromTheDocumentIsAskedForWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.SetUser("alice"))
		room, err := n.Join(t.Context(), "ops")
		require.NoError(t, err)
		net.Connect(1, 0)
		z.greet(n.ID())
		s := z.enter("ops", n.ID())
		_, err = s.fetch(n.ID(), Position{Tag: s.own(), First: 1})
		require.Error(t, err, "zoe is no member yet")
		s.publish(Item{3, s.entry})
		await[*mesh.MemberJoined](t, room)

		asked := make(chan message, 8)
		missed := s.write(Item{2, Hex("missed")})
		s.serve(asked, missed)
		s.publish(Item{2, Hex("heard")})
		require.Equal(t, "missed", string(await[*mesh.Message](t, room).Data))
		require.Equal(t, "heard", string(await[*mesh.Message](t, room).Data))
		q := <-asked
		require.Equal(t, s.tag[:], q.bytes(1))
		require.Len(t, q.all(2), 1)
		w, ok := parse(q.bytes(2))
		require.True(t, ok)
		require.Equal(t, []any{s.own(), uint64(2), uint64(2)}, []any{w.bytes(1), w.varint(2), w.varint(3)})

		last := s.write(Item{2, Hex("the last one")}) // only heads show that it is missing
		s.serve(asked, last)
		s.heads(Position{Tag: s.own(), Last: 4})
		require.Equal(t, "the last one", string(await[*mesh.Message](t, room).Data))
		for s.position(s.own()).Last < 4 {
		}
	})
}

func TestAPeerFromTheDocumentPassesOnARoster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.SetUser("alice"))
		room, err := n.Join(t.Context(), "ops")
		require.NoError(t, err)
		net.Connect(1, 0)
		z.greet(n.ID())
		s := z.enter("ops", n.ID())
		yan := &stranger{t: t, host: z.host, device: key(7), user: key(7), name: "yan", app: z.app}
		yan.sign(false)
		his := &seat{z: yan, tag: s.tag, feed: bytes.Repeat([]byte{0x99}, 16), order: s.order}
		his.sign(1)
		s.roster(his.entry)
		require.Equal(t, "yan", await[*mesh.MemberJoined](t, room).Member.User)

		his.order++ // a good-bye that zoe has heard
		his.sign(2)
		s.roster(his.entry)
		require.Equal(t, mesh.Quit, await[*mesh.MemberLeft](t, room).Reason)
	})
}

func TestAPeerFromTheDocumentAsksAndSaysWhoIsInARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.SetUser("alice"))
		asked := make(chan message, 8)
		z.host.SetStreamHandler("/starling/room/1.0.0", func(in network.Stream) {
			defer in.Reset()
			for r := bufio.NewReader(in); ; {
				m, err := next(r)
				if err != nil {
					return
				}
				asked <- m
			}
		})
		net.Connect(1, 0)
		z.greet(n.ID())
		out, _ := z.stream(n.ID(), "/starling/room/1.0.0")
		ops, dev := roomTag(z.app, "ops", ""), roomTag(z.app, "dev", "")
		z.write(out, put(put(nil, 1, dev), 4, nil))
		answer := <-asked
		require.Equal(t, []any{dev, 1}, []any{answer.bytes(1), len(answer[5])}, "the node is in no room")

		start := time.Now()
		go func() {
			if m := <-asked; len(m[4]) == 1 {
				time.Sleep(100 * time.Millisecond)
				z.write(out, put(put(nil, 1, m.bytes(1)), 5, nil))
			}
		}()
		room, err := n.Join(t.Context(), "ops")
		require.NoError(t, err)
		require.InDelta(t, 110*time.Millisecond, time.Since(start), float64(20*time.Millisecond), "Join waits for the answer, and no longer")
		require.Len(t, room.Members(), 1)
		// A member does not answer a query: GossipSub shows who is one.
		z.write(out, put(put(nil, 1, ops), 4, nil))
		time.Sleep(time.Second)
		require.Empty(t, asked)
	})
}

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
		require.Equal(t, node.Duplicate, out.Reason)
		require.Equal(t, fingerprint(pub(tablet.user)), out.By.Key.Fingerprint())
	})
}

// dhtMessage returns a message of libp2p's Kademlia: a type and a key, to which further fields can
// be appended.
func dhtMessage(kind uint64, key string) []byte { return put(putInt(nil, 1, kind), 2, []byte(key)) }

func TestAPeerFromTheDocumentIsANodeOfTheDirectory(t *testing.T) {
	const putValue, getValue, addProvider = 0, 1, 2
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		proto := protocol.ID("/starling/dht/" + dhtTag(z.app) + "/lan/kad/1.0.0")
		stored, provided := make(chan message, 16), make(chan message, 16)
		values := make(map[string][]byte)
		var mu sync.Mutex
		z.host.SetStreamHandler(proto, func(s network.Stream) {
			defer s.Reset()
			for r := bufio.NewReader(s); ; {
				m, err := next(r)
				if err != nil {
					return
				}
				answer := dhtMessage(m.varint(1), m.text(2))
				mu.Lock()
				switch m.varint(1) {
				case putValue:
					values[m.text(2)] = m.bytes(3)
					answer = put(answer, 3, m.bytes(3))
					stored <- m
				case getValue:
					if rec := values[m.text(2)]; rec != nil {
						answer = put(answer, 3, rec)
					}
				}
				mu.Unlock()
				if m.varint(1) == addProvider { // it has no answer
					provided <- m
					continue
				}
				if _, err := s.Write(framed(answer)); err != nil {
					return
				}
			}
		})
		net.Connect(1, 0)
		z.greet(n.ID())
		time.Sleep(5 * time.Second)
		require.NoError(t, n.Login(t.Context(), "alice"))

		key := recordPath(dhtHash(z.app, "key", n.Self().Key.Fingerprint()))
		at := Place{App: z.app, Key: key}
		m := <-stored
		require.Equal(t, key, m.text(2))
		rec, ok := parse(m.bytes(3))
		require.True(t, ok)
		first, why := plainRecord(rec.bytes(2), at, nil, time.Now().UnixMilli(), 180_000)
		require.Empty(t, why)
		require.Equal(t, []string{net.Addr(0).String()}, multiaddrs(t, first.all(2)))
		require.Equal(t, string(append([]byte{0x12, 0x20}, dhtHash(z.app, "name", "alice")...)), (<-provided).text(2))
		time.Sleep(10 * time.Second)
		for len(stored) > 0 {
			<-stored
		}
		require.NoError(t, n.Logout(t.Context()))
		m = <-stored
		rec, _ = parse(m.bytes(3))
		last, why := plainRecord(rec.bytes(2), at, nil, time.Now().UnixMilli(), 180_000)
		require.Empty(t, why)
		require.True(t, betterRecord(last, first))
		_, _, st, _ := open(last.bytes(1))
		require.Zero(t, st.varint(9), "a tombstone")

		// The other direction: zoe's record at the node, and one of hers that it must refuse.
		hers := recordPath(dhtHash(z.app, "key", fingerprint(pub(z.user))))
		now := uint64(time.Now().UnixMilli())
		record := put(nil, 1, z.statement)
		for _, a := range z.host.Addrs() {
			record = put(record, 2, a.Bytes())
		}
		sealed := seal(z.device, "starling/record/1\x00", putInt(putInt(record, 3, now), 4, now+180_000))
		ask := func(kind uint64, key string, value []byte) (message, error) {
			s, r := z.stream(n.ID(), proto)
			defer s.Reset()
			m := dhtMessage(kind, key)
			if value != nil {
				m = put(m, 3, put(put(nil, 1, []byte(key)), 2, value))
			}
			z.write(s, m)
			return next(r)
		}
		_, err := ask(putValue, hers, sealed)
		require.NoError(t, err)
		got, err := ask(getValue, hers, nil)
		require.NoError(t, err)
		kept, ok := parse(got.bytes(3))
		require.True(t, ok)
		require.Equal(t, sealed, kept.bytes(2))
		_, err = ask(putValue, key, sealed)
		require.Error(t, err, "under alice's key")
	})
}

func TestAPeerFromTheDocumentWatchesAndIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.Login(t.Context(), "alice"))
		net.Connect(1, 0)
		z.greet(n.ID())

		s, r := z.stream(n.ID(), "/starling/watch/1.0.0")
		z.write(s, put(nil, 1, z.app))
		says := func() (loggedIn uint64) {
			st, why := plainStatement(z.read(r).bytes(1), z.app, time.Now().UnixMilli())
			require.Empty(t, why)
			require.Equal(t, "alice", st.text(2))
			return st.varint(9)
		}
		require.EqualValues(t, 1, says())
		start := time.Now()
		require.Empty(t, z.read(r).all(1), "a beat")
		require.InDelta(t, 2*time.Second, time.Since(start), float64(20*time.Millisecond))
		require.NoError(t, n.Logout(t.Context()))
		require.Zero(t, says())
		require.NoError(t, n.Login(t.Context(), "alice"))
		require.EqualValues(t, 1, says())

		news := make(chan []byte)
		asked := make(chan message, 1)
		first := z.statement
		z.host.SetStreamHandler("/starling/watch/1.0.0", func(s network.Stream) {
			defer s.Reset()
			m, err := next(bufio.NewReader(s))
			if err != nil {
				return
			}
			asked <- m
			for st := first; ; st = <-news {
				frame := []byte(nil)
				if st != nil {
					frame = put(frame, 1, st)
				}
				if _, err := s.Write(framed(frame)); err != nil || st == nil {
					return
				}
			}
		})
		// identify reports the new protocol at the next connection.
		z.host.Network().ClosePeer(n.ID())
		time.Sleep(100 * time.Millisecond)
		net.Connect(1, 0)
		z.greet(n.ID())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		states := make(chan presence.State, 16)
		go func() {
			for status, err := range n.Watch(ctx, "zoe") {
				if err != nil {
					return
				}
				states <- status.State
			}
		}()
		require.Equal(t, presence.Online, <-states)
		require.Equal(t, z.app, (<-asked).bytes(1))
		time.Sleep(time.Second)
		z.sign(false)
		news <- z.statement
		z.greet(n.ID())
		start = time.Now()
		require.Equal(t, presence.Offline, <-states)
		require.Less(t, time.Since(start), time.Second)
		cancel()
		select { // a later watch by the node may wait for news
		case news <- nil:
		case <-time.After(time.Second):
		}
	})
}
