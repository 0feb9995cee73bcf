package vectors

import (
	"bufio"
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
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
		r := s.hear(3)
		require.EqualValues(t, 1, r.varint(3), "all entries but the two members' own")
		require.Equal(t, s.own(), r.bytes(4), "it says whose question it answers")

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
		s.roster(nil, his.entry)
		require.Equal(t, "yan", await[*mesh.MemberJoined](t, room).Member.User)

		his.order++ // a good-bye that zoe has heard
		his.sign(2)
		s.roster(nil, his.entry)
		require.Equal(t, mesh.Quit, await[*mesh.MemberLeft](t, room).Reason)
	})
}

func TestAPeerFromTheDocumentAnswersWhoJoins(t *testing.T) {
	for name, right := range map[string]bool{"the stay that asks": true, "another stay of the same node": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net, n, z := world(t)
				require.NoError(t, n.SetUser("alice"))
				net.Connect(1, 0)
				z.greet(n.ID())
				type outcome struct {
					room *mesh.Room
					err  error
					took time.Duration
				}
				joined := make(chan outcome, 1)
				go func() {
					time.Sleep(time.Second)
					start := time.Now()
					room, err := n.Join(t.Context(), "ops")
					joined <- outcome{room, err, time.Since(start)}
				}()
				s := z.enter("ops", n.ID()) // and its topic knows the node
				yan := &stranger{t: t, host: z.host, device: key(7), user: key(7), name: "yan", app: z.app}
				yan.sign(false)
				his := &seat{z: yan, tag: s.tag, feed: bytes.Repeat([]byte{0x99}, 16), order: s.order}
				his.sign(1)
				var g message
				for g == nil || g.varint(4) == 0 {
					g = s.hear(2)
				}
				alices, why := plainEntry(g.bytes(1), z.app, s.tag[:], time.Now().UnixMilli())
				require.Empty(t, why)
				asker := feedTag(peerKey(n.ID()), alices.bytes(3))
				if !right {
					asker = feedTag(peerKey(n.ID()), bytes.Repeat([]byte{0x55}, 16))
				}
				s.answer(asker, his.entry)
				got := <-joined
				require.NoError(t, got.err)
				if right {
					require.Less(t, got.took, time.Second)
				} else {
					require.Equal(t, 15*time.Second, got.took, "it has waited for an answer")
				}
				var users []string
				for _, m := range got.room.Members() {
					users = append(users, m.User)
				}
				require.Equal(t, []string{"alice", "yan", "zoe"}, users, "entries count in any case")
			})
		})
	}
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
