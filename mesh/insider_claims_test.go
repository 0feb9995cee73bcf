package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// chat publishes from each of the rooms, and checks that all the others get it, whatever else goes
// on.
func chat(t *testing.T, rooms []*Room, name string, n int) {
	t.Helper()
	var want []string
	for i, r := range rooms {
		want = append(want, published(t, r, fmt.Sprint("u", i), name, n)...)
	}
	for i, r := range rooms {
		var others []string
		for j, line := range want {
			if j/n != i {
				others = append(others, line)
			}
		}
		require.ElementsMatch(t, others, honest(t, r, len(others)), "member %d", i)
	}
}

// honest reads messages that are not mallory's. A gap in an honest feed fails the test.
func honest(t *testing.T, r *Room, n int) (got []string) {
	t.Helper()
	for len(got) < n {
		switch ev := next(t, r).(type) {
		case *Message:
			if ev.From.User != "mallory" {
				got = append(got, line(ev))
			}
		case *GapLost:
			require.Equal(t, "mallory", ev.From.User, line(ev))
		case *Lagged:
			t.Fatal(line(ev))
		}
	}
	return got
}

// until reads events until one is wanted.
func until(t *testing.T, r *Room, want string) {
	t.Helper()
	for {
		ev, err := recv(t, r)
		require.NoError(t, err, "waiting for %q", want)
		if line(ev) == want {
			return
		}
	}
}

func TestAnEquivocationToldByAnAnswerAloneIsAnEquivocation(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		m := f.insider("ops")
		first := m.follow("one")
		m.publish(first)
		for _, r := range rooms {
			until(t, r, "mallory:one")
		}
		// A continuation that all get, different from what member 1 gets when it asks.
		yes := m.follow("yes")
		no := m.seal(2, sum(first), "no")
		after := m.follow("after yes")
		m.answers(func(s network.Stream, q *wire.SyncRequest) {
			if s.Conn().RemotePeer() == f.at[1].host.ID() {
				reply(s, &wire.SyncReply{Envelopes: [][]byte{no}})
			} else {
				reply(s, &wire.SyncReply{Envelopes: [][]byte{yes}})
			}
			_ = s.Close()
			m.pause(time.Second)
		})
		m.publish(after) // nobody has had item 2: each asks
		until(t, rooms[0], "mallory:after yes")
		until(t, rooms[1], "-mallory evicted")
		require.EqualValues(t, 1, f.at[1].Stats().Forks)
		require.Zero(t, f.at[0].Stats().Forks)
		chat(t, rooms, "unmoved", 20)
	})
}

func sum(sealed []byte) []byte {
	h := sha256.Sum256(sealed)
	return h[:]
}

func TestClaimsThatNothingProvesCostNoMessage(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		m := f.insider("ops")
		m.answers(func(s network.Stream, q *wire.SyncRequest) { _ = s.CloseWrite(); m.pause(time.Second) })
		chat(t, rooms, "first", 3)
		for round, last := range []uint64{0, 1, 1 << 40, math.MaxUint64 - 1, 7} {
			for _, s := range f.at {
				for _, r := range rooms {
					m.claim(s.host.ID(), r.stay.Own().Tag(), last, 0)
					m.claim(s.host.ID(), r.stay.Own().Tag(), last, min(last, 1))
					m.claim(s.host.ID(), r.stay.Own().Tag(), last, last+1)
				}
				m.claim(s.host.ID(), m.own(), last, 0)
			}
			for i := range 100 { // one member is told about feeds that do not exist
				var unknown stay.FeedTag
				_, _ = rand.Read(unknown[:])
				m.claim(f.at[0].host.ID(), unknown, last, last*uint64(i%2)+uint64(1-i%2))
			}
			chat(t, rooms, fmt.Sprint("round ", round), 5)
			time.Sleep(5 * time.Second)
			chat(t, rooms, fmt.Sprint("after ", round), 5)
		}
		time.Sleep(20 * time.Second)
		var digests [][]byte
		for _, r := range rooms {
			in := r.inside()
			require.LessOrEqual(t, len(in.Feeds), stay.MaxFeeds)
			require.Zero(t, in.Lacking, "nobody asks on for what nobody has")
			require.Zero(t, in.Waiting)
			for _, p := range in.Positions {
				require.NotEmpty(t, p.Author, "what one member makes up does not go around")
			}
			digests = append(digests, in.Digest)
		}
		require.Equal(t, digests[0], digests[1], "all agree on what there is")
		require.Equal(t, digests[0], digests[2])
	})
}

func TestAFalseBeginningKeepsNothingFromANewcomer(t *testing.T) {
	for name, first := range map[string]uint64{"far ahead": 1 << 40, "a little ahead": 5, "at the end": math.MaxUint64 - 1} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.Connect(0, 1)
				rooms := []*Room{f.join(0, "ops"), f.join(1, "ops")}
				m := f.insider("ops", 2)
				m.answers(func(s network.Stream, q *wire.SyncRequest) { _ = s.CloseWrite(); m.pause(time.Second) })
				time.Sleep(time.Minute)
				newcomer := f.join(2, "ops") // it hears about the others' feeds from mallory alone, and a second later from member 1
				m.tell(f.at[2].host.ID(), &wire.RoomFrame{Body: &wire.RoomFrame_Greeting_{Greeting: &wire.RoomFrame_Greeting{Entry: m.entry}}})
				m.tell(f.at[2].host.ID(), &wire.RoomFrame{Body: &wire.RoomFrame_Roster_{
					Roster: &wire.RoomFrame_Roster{Entries: [][]byte{rooms[0].stay.Own().Sealed}, Last: true, Answers: m.asker(f.at[2].host.ID())},
				}})
				m.claim(f.at[2].host.ID(), rooms[0].stay.Own().Tag(), first, first)
				time.Sleep(time.Second)
				want := published(t, rooms[0], "u0", "for all", 10)
				f.net.Connect(1, 2)
				require.Equal(t, want, honest(t, newcomer, len(want)))
				more := published(t, rooms[0], "u0", "on", 10)
				require.Equal(t, more, honest(t, newcomer, len(more)))
			})
		})
	}
}

func TestAFalseClockKeepsNothingFromANewcomerWithAnotherNeighbour(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"10 s": 10 * time.Second, "1 h": time.Hour, "behind": -time.Hour, "100 years": 876_000 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.Connect(0, 1)
				f.net.Connect(1, 2)
				rooms := []*Room{f.join(0, "ops"), f.join(1, "ops")}
				m := f.insider("ops", 2)
				m.answers(func(s network.Stream, q *wire.SyncRequest) { _ = s.CloseWrite(); m.pause(time.Second) })
				time.Sleep(time.Minute)
				old := published(t, rooms[0], "u0", "old", 3)
				time.Sleep(time.Second)
				newcomer := f.join(2, "ops")
				tag := rooms[0].stay.Own().Tag()
				lie := func() {
					m.tell(f.at[2].host.ID(), &wire.RoomFrame{Body: &wire.RoomFrame_Heads_{Heads: &wire.RoomFrame_Heads{Answers: m.asker(f.at[2].host.ID()), Feeds: []*wire.Position{
						{Feed: tag[:], Last: 4, First: 5, ClockMs: uint64(time.Now().Add(ahead).UnixMilli())},
					}}}})
				}
				lie()
				var want []string
				for i := range 20 {
					want = append(want, published(t, rooms[0], "u0", fmt.Sprint("news ", i), 1)...)
					time.Sleep(300 * time.Millisecond)
					lie()
				}
				require.Equal(t, want, honest(t, newcomer, len(want)), "and nothing of %v", old)
			})
		})
	}
}

func TestABeginningToldBeforeTheFeedBeginsKeepsNothingBack(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Connect(0, 1) // member 2 gets what member 1 passes on
		rooms := []*Room{f.join(0, "ops"), f.join(1, "ops")}
		f.net.Connect(1, 2)
		third := f.join(2, "ops")
		m := f.insider("ops")
		require.NoError(t, rooms[0].Leave(t.Context()))
		time.Sleep(time.Second)
		again, err := f.at[0].newRoom("ops", joinConfig{})
		require.NoError(t, err)
		m.claim(f.at[2].host.ID(), again.stay.Own().Tag(), 1<<40, 1<<40) // by a guess at what cannot be guessed
		time.Sleep(2 * stay.BaselineWait)
		require.NoError(t, again.start())
		require.NoError(t, again.Ready(t.Context()))
		want := published(t, again, "u0", "news", 10)
		require.Equal(t, want, honest(t, third, len(want)))
	})
}

func TestAMemberThatJumpsAheadLosesItsOwnAlone(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		m := f.insider("ops")
		m.publish(m.follow("one"))
		for _, first := range []uint64{1 << 40, math.MaxUint64 - 2, math.MaxUint64 - 1} {
			m.publish(m.seal(first, make([]byte, 32), "far"))
			chat(t, rooms, fmt.Sprint("beside ", first), 5)
		}
		for _, r := range rooms {
			until(t, r, "mallory:far")
		}
		time.Sleep(time.Minute)
		chat(t, rooms, "and on", 5)
		for _, r := range rooms {
			require.Zero(t, r.inside().Lacking)
		}
	})
}

// The member was there long ago, and somebody has kept its envelopes from then.
func TestAnOldStayIsNotReplayedToANewcomerByRepair(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Connect(0, 1)
		old := f.join(0, "ops")
		f.join(1, "ops")
		published(t, old, "u0", "long ago", 3)
		time.Sleep(time.Second)
		tag, entry := old.stay.Own().Tag(), old.stay.Own().Sealed
		list := old.retained(tag, 1)
		require.NotEmpty(t, list)
		last := list[len(list)-1].Last()
		require.NoError(t, old.Leave(t.Context()))
		time.Sleep(3 * time.Hour)

		m := f.insider("ops", 2)
		var asked atomic.Int32
		m.answers(func(s network.Stream, q *wire.SyncRequest) {
			asked.Add(1)
			out := &wire.SyncReply{Entries: [][]byte{entry}}
			for _, k := range list {
				out.Envelopes = append(out.Envelopes, k.Sealed)
			}
			reply(s, out)
			_ = s.Close()
			m.pause(time.Second)
		})
		newcomer := f.join(2, "ops")
		m.tell(f.at[2].host.ID(), &wire.RoomFrame{Body: &wire.RoomFrame_Greeting_{Greeting: &wire.RoomFrame_Greeting{Entry: m.entry}}})
		for range 5 {
			m.claim(f.at[2].host.ID(), tag, last, 1)
			time.Sleep(2 * time.Second)
		}
		require.Positive(t, asked.Load())
		for _, k := range list { // and by gossip
			m.publish(k.Sealed)
		}
		f.net.Connect(1, 2)
		fresh := f.join(0, "ops")
		f.net.Connect(0, 2)
		text := published(t, fresh, "u0", "today", 1)
		require.Equal(t, text, honest(t, newcomer, 1), "nothing of then")
		quietOf(t, newcomer, time.Minute)
	})
}

// quietOf checks that no message comes within d.
func quietOf(t *testing.T, r *Room, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for {
		ev, err := passing(ctx, r)
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return
		}
		if m, ok := ev.(*Message); ok {
			t.Fatalf("a message nobody should get: %s", line(m))
		}
	}
}

// junk returns n valid envelopes of senders that are not in the room.
func (a *attacker) junk(n int) (out [][]byte) {
	a.t.Helper()
	e := &wire.Envelope{
		App: a.f.all.app[:], Room: a.tag[:], Device: a.key.Public().(ed25519.PublicKey), Feed: make([]byte, 16),
		First: 2, Count: 1, Previous: make([]byte, 32), SentMs: 1, Content: wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte("junk")),
	}
	for range n {
		_, _ = rand.Read(e.Feed)
		sealed, err := wire.SealEnvelope(a.key, e)
		require.NoError(a.t, err)
		out = append(out, sealed)
	}
	return out
}

// blast hands a member envelopes as fast as it takes them, and reports how many RPCs were sent.
func (a *attacker) blast(ctx context.Context, to peer.ID, envelopes [][]byte) (rpcs int) {
	a.t.Helper()
	topic := topicName(a.tag)
	s, err := a.host.NewStream(ctx, to, pubsub.GossipSubID_v11)
	require.NoError(a.t, err)
	defer s.Reset()
	for part := range slices.Chunk(envelopes, 200) {
		rpc := new(pb.RPC)
		for _, sealed := range part {
			rpc.Publish = append(rpc.Publish, &pb.Message{Topic: &topic, Data: sealed})
		}
		raw, err := proto.Marshal(rpc)
		require.NoError(a.t, err)
		if _, err = s.Write(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...)); err != nil {
			return rpcs
		}
		rpcs++
	}
	return rpcs
}

// Over real connections, since verifying takes time: a queue of GossipSub overflows, and drops
// whatever comes.
func TestAFloodOfStrangersJunkLosesNothing(t *testing.T) {
	all := newHellos()
	rooms := make([]*Room, 2)
	at := make([]*station, 2)
	for i := range at {
		at[i] = all.station(t, tcpHost(t), fmt.Sprint("u", i))
	}
	connect(t, at[0].host, at[1].host)
	for i := range at {
		var err error
		rooms[i], err = at[i].Join(t.Context(), "ops")
		require.NoError(t, err)
	}
	for _, r := range rooms {
		require.NoError(t, r.WaitPeers(t.Context(), 1))
	}
	a := &attacker{t: t, f: &flock{t: t, all: all}, host: tcpHost(t), tag: rooms[0].tag}
	var err error
	a.key, err = deviceKey(a.host)
	require.NoError(t, err)
	connect(t, a.host, at[1].host)
	junk := a.junk(82 * 200) // four times what a queue holds
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	over := make(chan int)
	go func() { over <- a.blast(ctx, at[1].host.ID(), junk) }()
	var want []string
	for i := range 20 { // one after the other, each when the one before has arrived
		p, err := rooms[0].PublishText(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
		require.Equal(t, 1, p.Acked)
		want = append(want, fmt.Sprint("u0:", i))
	}
	require.Equal(t, len(junk)/200, <-over, "the flood was taken")
	require.Equal(t, want, honest(t, rooms[1], len(want)))
	s := at[1].Stats()
	t.Logf("%d envelopes dropped, %d fetched", s.EnvelopesDropped, s.EnvelopesPulled)
	in := rooms[1].inside()
	require.LessOrEqual(t, in.Parked, stay.MaxParked)
	require.LessOrEqual(t, in.Bytes, stay.MaxParkedBytes)
	require.Len(t, in.Feeds, 2, "strangers have no feeds")
}

func TestAPeerThatHasGoneIsNotRememberedAsMute(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.at[0].tell(peer.ID("gone"), &wire.RoomFrame{})
		time.Sleep(roomFrameTimeout + time.Second)
		f.at[0].links.mu.Lock()
		defer f.at[0].links.mu.Unlock()
		require.Empty(t, f.at[0].links.mute)
	})
}
