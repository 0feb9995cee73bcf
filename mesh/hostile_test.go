package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// attacker is a bare host that sends what it likes over GossipSub and the room protocol.
type attacker struct {
	t     *testing.T
	f     *flock
	host  host.Host
	key   ed25519.PrivateKey
	tag   [32]byte
	topic *pubsub.Topic
}

// attack adds a bare host to a flock, connected to the given members or to all, subscribed to the
// room's topic.
func (f *flock) attack(room string, to ...int) *attacker {
	f.t.Helper()
	i := f.net.NewHost(nil)
	h := f.net.Host(i)
	a := &attacker{t: f.t, f: f, host: h, tag: f.all.app.RoomTag(room, "")}
	var err error
	a.key, err = deviceKey(h)
	require.NoError(f.t, err)
	ctx, stop := context.WithCancel(context.Background())
	f.t.Cleanup(stop)
	ps, err := pubsub.NewGossipSub(ctx, h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(messageID), pubsub.WithFloodPublish(true), pubsub.WithMaxMessageSize(maxRPC), pubsub.WithPeerOutboundQueueSize(gossipQueue))
	require.NoError(f.t, err)
	a.topic, err = ps.Join(topicName(a.tag))
	require.NoError(f.t, err)
	sub, err := a.topic.Subscribe()
	require.NoError(f.t, err)
	go func() {
		for {
			if _, err := sub.Next(ctx); err != nil {
				return
			}
		}
	}()
	if len(to) == 0 {
		for j := range f.at {
			to = append(slices.Clip(to), j)
		}
	}
	for _, j := range to {
		f.net.Connect(i, j)
	}
	time.Sleep(2 * time.Second)
	return a
}

func (a *attacker) publish(sealed []byte) {
	a.t.Helper()
	require.NoError(a.t, a.topic.Publish(context.Background(), sealed))
}

// captured takes the next envelope that a member publishes off the wire.
func captured(t *testing.T, r *Room, text string) []byte {
	t.Helper()
	h := r.inside().Head
	sealed, err := wire.SealEnvelope(r.mesh.key, &wire.Envelope{
		App: r.mesh.app[:], Room: r.tag[:], Device: r.device[:], Feed: r.id[:],
		First: h.Last + 1, Count: 1, Previous: h.Previous(), SentMs: time.Now().UnixMilli(),
		Content: wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte(text)),
	})
	require.NoError(t, err)
	r.pretend(h.Next(1, sealed))
	return sealed
}

// pretend sets what a member considers the end of its own feed.
func (r *Room) pretend(h stay.Head) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stay.Pretend(h)
}

func TestForgeriesAreNeverDeliveredAndDoNotBlockTheGenuineMessage(t *testing.T) {
	reseal := func(alter func(*wire.Envelope, *attacker)) func(*attacker, []byte) []byte {
		return func(a *attacker, genuine []byte) []byte {
			var e wire.Envelope
			require.NoError(a.t, proto.Unmarshal(genuine[wire.SignatureSize:], &e))
			alter(&e, a)
			sealed, err := wire.SealEnvelope(a.key, &e)
			require.NoError(a.t, err)
			return sealed
		}
	}
	for name, forge := range map[string]func(a *attacker, genuine []byte) []byte{
		"another key's signature": reseal(func(*wire.Envelope, *attacker) {}),
		"an altered text": func(_ *attacker, genuine []byte) []byte {
			return bytes.Replace(genuine, []byte("genuine"), []byte("altered"), 1)
		},
		"an extra byte behind": func(_ *attacker, genuine []byte) []byte { return append(bytes.Clone(genuine), 0) },
		"an extra field behind": func(_ *attacker, genuine []byte) []byte {
			return append(bytes.Clone(genuine), 0xf8, 0x3f, 0x01)
		},
		"an extra byte before": func(_ *attacker, genuine []byte) []byte { return append([]byte{0}, genuine...) },
		"a device that is in no roster, on the victim's feed": reseal(func(e *wire.Envelope, a *attacker) {
			e.Device = a.key.Public().(ed25519.PublicKey)
		}),
		"another app": reseal(func(e *wire.Envelope, a *attacker) {
			e.Device, e.App = a.key.Public().(ed25519.PublicKey), bytes.Repeat([]byte{1}, 32)
		}),
		"another room": reseal(func(e *wire.Envelope, a *attacker) {
			e.Device, e.Room = a.key.Public().(ed25519.PublicKey), bytes.Repeat([]byte{1}, 32)
		}),
		"nothing": func(*attacker, []byte) []byte { return nil },
		"garbage": func(*attacker, []byte) []byte { return bytes.Repeat([]byte("garbage"), 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				rooms := f.joinAll("ops")
				a := f.attack("ops")
				read(t, rooms[1], 1)

				genuine := captured(t, rooms[0], "genuine")
				a.publish(forge(a, genuine)) // first
				time.Sleep(100 * time.Millisecond)
				a.publish(genuine)
				require.Equal(t, []string{"u0:genuine"}, read(t, rooms[1], 1))
				a.publish(forge(a, genuine)) // and again
				quiet(t, rooms[1], 20*time.Second)

				_, err := rooms[0].PublishText(t.Context(), "and on")
				require.NoError(t, err)
				require.Equal(t, []string{"u0:and on"}, read(t, rooms[1], 1))
			})
		})
	}
}

// GossipSub remembers the messages of all topics together.
func TestTheBytesOfOneRoomUnderTheTopicOfAnotherBlockNothing(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		f.joinAll("lobby")
		a := f.attack("lobby")
		read(t, rooms[1], 1)
		before := f.at[1].Stats().EnvelopesRejected
		genuine := captured(t, rooms[0], "genuine")
		a.publish(genuine) // on the lobby's topic
		time.Sleep(100 * time.Millisecond)
		require.Greater(t, f.at[1].Stats().EnvelopesRejected, before, "it came")
		require.NoError(t, rooms[0].topic.Publish(t.Context(), genuine, pubsub.WithValidatorData(ownEnvelope(1))))
		require.Equal(t, []string{"u0:genuine"}, read(t, rooms[1], 1))
	})
}

func TestOldMessagesAreNotReplayedToAMemberWithoutABaseline(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.Connect(0, 1)
		r := f.join(0, "ops")
		old := captured(t, r, "long ago")
		time.Sleep(10 * time.Minute)
		a := f.attack("ops")
		f.all.sessions[a.host.ID()] = identity.Session{Incarnation: 1}
		f.net.Cut(0, 1)
		disconnect(t, f, 0, 1)
		late := f.join(1, "ops") // learns of u0 from the attacker alone
		frame, err := wire.AppendFrame(nil, &wire.RoomFrame{Room: a.tag[:], Body: &wire.RoomFrame_Roster_{
			Roster: &wire.RoomFrame_Roster{Entries: [][]byte{r.stay.Own().Sealed}, Last: true},
		}})
		require.NoError(t, err)
		s, err := a.host.NewStream(t.Context(), f.at[1].host.ID(), RoomProtocol)
		require.NoError(t, err)
		_, err = s.Write(frame)
		require.NoError(t, err)
		require.Equal(t, []string{"+u0"}, read(t, late, 1))
		a.publish(old)
		quiet(t, late, time.Second)
		require.Positive(t, f.at[1].Stats().EnvelopesStale)
		a.publish(captured(t, r, "now"))
		require.Equal(t, []string{"u0:now"}, read(t, late, 1))
	})
}

func TestReplaysAreNeverDelivered(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		a := f.attack("ops")
		read(t, rooms[1], 1)
		old := captured(t, rooms[0], "once")
		a.publish(old)
		require.Equal(t, []string{"u0:once"}, read(t, rooms[1], 1))

		time.Sleep(5 * time.Minute) // GossipSub has forgotten that it saw it
		stale := f.at[1].Stats().EnvelopesStale
		a.publish(old)
		time.Sleep(time.Second)
		require.Greater(t, f.at[1].Stats().EnvelopesStale, stale, "it came through GossipSub, and was recognised")

		// Also into the next stay of its sender.
		require.NoError(t, rooms[0].Leave(t.Context()))
		rooms[0] = f.join(0, "ops")
		time.Sleep(5 * time.Minute)
		a.publish(old)
		time.Sleep(time.Minute)
		_, err := rooms[0].PublishText(t.Context(), "twice")
		require.NoError(t, err)
		for _, line := range read(t, rooms[1], 1) {
			if line == "-u0 quit" {
				line = read(t, rooms[1], 2)[1]
			}
			require.Equal(t, "u0:twice", line)
		}
		quiet(t, rooms[1], time.Minute)
	})
}

func TestAMemberThatTellsDifferentThingsIsEvicted(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		a := f.attack("ops")
		read(t, rooms[1], 1)
		r := rooms[0]
		before := r.inside().Head
		a.publish(captured(t, r, "yes"))
		after := captured(t, r, "so") // names "yes" as the one before
		r.pretend(before)
		no := captured(t, r, "no")
		_ = after
		a.publish(captured(t, r, "hence")) // names "no"
		_ = no
		require.Equal(t, []string{"u0:yes", "-u0 evicted"}, read(t, rooms[1], 2))
		require.EqualValues(t, 1, f.at[1].Stats().Forks)
		require.Equal(t, []string{"u1"}, users(rooms[1]))
	})
}

func TestStrangersCannotFillTheMemory(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		a := f.attack("ops")
		for i := range stay.MaxParked + 100 {
			e := &wire.Envelope{
				App: f.all.app[:], Room: a.tag[:], Device: a.key.Public().(ed25519.PublicKey), Feed: make([]byte, 16),
				First: uint64(i + 2), Count: 1, Previous: make([]byte, 32), SentMs: 1,
				Content: wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte("x")),
			}
			_, _ = rand.Read(e.Feed)
			sealed, err := wire.SealEnvelope(a.key, e)
			require.NoError(t, err)
			a.publish(sealed)
		}
		time.Sleep(time.Second)
		r := rooms[1]
		parked := r.inside().Parked
		require.Equal(t, stay.MaxParked, parked)
		time.Sleep(stay.ParkedLife + time.Second)
		in := r.inside()
		parked, size := in.Parked, in.Bytes
		require.Zero(t, parked)
		require.Zero(t, size)
		_, err := rooms[0].PublishText(t.Context(), "unmoved")
		require.NoError(t, err)
		require.Equal(t, []string{"+u0", "u0:unmoved"}, read(t, r, 2))
	})
}

// entryOf signs a roster entry of the attacker, altered by alter.
func (a *attacker) entryOf(user string, alter func(*wire.RosterEntry)) []byte {
	a.t.Helper()
	now := time.Now()
	keys := &identity.Keys{Device: a.key, User: a.key}
	st, err := keys.Sign(identity.Statement{App: a.f.all.app, User: user, Sequence: uint64(now.UnixMilli()), Issued: now, Expires: now.Add(time.Hour)})
	require.NoError(a.t, err)
	e := &wire.RosterEntry{
		Statement: st.Sealed(), Room: a.tag[:], Feed: bytes.Repeat([]byte{9}, 16), Sequence: uint64(now.UnixMilli()), State: wire.RosterEntry_JOINED,
	}
	alter(e)
	body, err := proto.Marshal(e)
	require.NoError(a.t, err)
	return wire.Seal(wire.DomainRoster, a.key, body)
}

func TestBadRosterEntriesAndFramesAreRefused(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		a := f.attack("ops")
		f.all.sessions[a.host.ID()] = identity.Session{Incarnation: 1}
		read(t, rooms[1], 1)
		greet := func(entry []byte) []byte {
			frame, err := wire.AppendFrame(nil, &wire.RoomFrame{Room: a.tag[:], Body: &wire.RoomFrame_Greeting_{
				Greeting: &wire.RoomFrame_Greeting{Entry: entry},
			}})
			require.NoError(t, err)
			return frame
		}
		heads := func(list ...*wire.Position) []byte {
			frame, err := wire.AppendFrame(nil, &wire.RoomFrame{Room: a.tag[:], Body: &wire.RoomFrame_Heads_{
				Heads: &wire.RoomFrame_Heads{Feeds: list},
			}})
			require.NoError(t, err)
			return frame
		}
		keep := func(*wire.RosterEntry) {}
		good := a.entryOf("mallory", keep)
		for name, frame := range map[string][]byte{
			"another's entry":       greet(rooms[0].stay.Own().Sealed),
			"an altered entry":      greet(append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1)),
			"an entry without feed": greet(a.entryOf("mallory", func(e *wire.RosterEntry) { e.Feed = nil })),
			"of another room":       greet(a.entryOf("mallory", func(e *wire.RosterEntry) { e.Room = make([]byte, 32) })),
			"without a state":       greet(a.entryOf("mallory", func(e *wire.RosterEntry) { e.State = 0 })),
			"with too much info":    greet(a.entryOf("mallory", func(e *wire.RosterEntry) { e.Info = make([]byte, 201) })),
			"from the future":       greet(a.entryOf("mallory", func(e *wire.RosterEntry) { e.Sequence += 180_000 })),
			"a position of no feed": heads(&wire.Position{Feed: []byte{1}}),
			"a position at the end": heads(&wire.Position{Feed: make([]byte, 16), Last: 1<<64 - 1}),
			"a beginning beyond it": heads(&wire.Position{Feed: make([]byte, 16), Last: 3, First: 5}),
			"too many positions":    heads(slices.Repeat([]*wire.Position{{Feed: make([]byte, 16)}}, stay.MaxPositions+1)...),
			"a short tag":           {4, 0x0a, 2, 1, 2},
			"not protobuf":          {3, 0xff, 0xff, 0xff},
			"over the limit":        {0xff, 0xff, 0xff, 0x7f},
		} {
			before := f.at[1].Stats().RoomViolations
			s, err := a.host.NewStream(t.Context(), f.at[1].host.ID(), RoomProtocol)
			require.NoError(t, err)
			_, err = s.Write(frame)
			require.NoError(t, err)
			_, err = s.Read(make([]byte, 1))
			require.Error(t, err, "%s: the stream is reset", name)
			require.Equal(t, before+1, f.at[1].Stats().RoomViolations, name)
			_ = s.Reset()
		}
		require.Equal(t, []string{"u0", "u1"}, users(rooms[1]))

		// A half-open frame is given up, and a genuine greeting is taken all the same.
		s, err := a.host.NewStream(t.Context(), f.at[1].host.ID(), RoomProtocol)
		require.NoError(t, err)
		_, err = s.Write(greet(good)[:20])
		require.NoError(t, err)
		time.Sleep(roomFrameTimeout + time.Second)
		_, err = s.Read(make([]byte, 1))
		require.Error(t, err)
		s, err = a.host.NewStream(t.Context(), f.at[1].host.ID(), RoomProtocol)
		require.NoError(t, err)
		_, err = s.Write(greet(good))
		require.NoError(t, err)
		require.Equal(t, []string{"+mallory"}, read(t, rooms[1], 1))
		_ = s.Reset()
		synctest.Wait()
	})
}

func TestSubscriptionsAreCountedPerPeer(t *testing.T) {
	f := &roomTopics{counts: make(map[peer.ID]int)}
	sub := func(n int, on bool) []*pb.RPC_SubOpts {
		out := make([]*pb.RPC_SubOpts, n)
		for i := range out {
			topic := topicName([32]byte{byte(i), byte(i >> 8)})
			out[i] = &pb.RPC_SubOpts{Subscribe: &on, Topicid: &topic}
		}
		return out
	}
	got, err := f.FilterIncomingSubscriptions("p", sub(maxSubscriptions, true))
	require.NoError(t, err)
	require.Len(t, got, maxSubscriptions)
	_, err = f.FilterIncomingSubscriptions("p", sub(1, true))
	require.ErrorIs(t, err, pubsub.ErrTooManySubscriptions)
	_, err = f.FilterIncomingSubscriptions("p", sub(5, false))
	require.NoError(t, err)
	_, err = f.FilterIncomingSubscriptions("p", sub(5, true))
	require.NoError(t, err)
	f.forget("p")
	require.Empty(t, f.counts)
	require.False(t, f.CanSubscribe(topicPrefix+"short"))
	require.False(t, f.CanSubscribe(topicName([32]byte{})+"x"))
}
