package mesh

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/vectors"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// The tests of this file check what mesh makes and judges against docs/vectors.

func TestTopicsAreThoseOfTheVectors(t *testing.T) {
	var v vectors.Names
	vectors.Read(t, "names", &v)
	for _, r := range v.Rooms {
		require.Equal(t, r.Topic, topicName([32]byte(r.Tag)))
		require.True(t, new(roomTopics).CanSubscribe(r.Topic))
	}
}

func TestMessagesHaveTheIDsOfTheVectors(t *testing.T) {
	var v vectors.Envelopes
	vectors.Read(t, "envelope", &v)
	for _, e := range append(append(v.Feed, v.Accepted...), v.Forks...) {
		require.Equal(t, string(e.MessageID), messageID(&pb.Message{Topic: &v.Topic, Data: e.Sealed.Sealed}), e.Name)
	}
}

// hostAt is a host that only says where it listens.
type hostAt struct {
	host.Host
	addrs []ma.Multiaddr
}

func (h hostAt) Addrs() []ma.Multiaddr { return h.addrs }

func TestRoomsSignTheRosterEntryOfTheVectors(t *testing.T) {
	var names vectors.Names
	vectors.Read(t, "names", &names)
	var v vectors.Roster
	vectors.Read(t, "roster", &v)
	want := v.Accepted[0]
	var addrs []ma.Multiaddr
	for _, a := range want.Addrs {
		addrs = append(addrs, ma.StringCast(a))
	}
	st, err := identity.Verify(want.Statement, identity.AppID(v.App), time.UnixMilli(v.AtMS))
	require.NoError(t, err)
	room := &Room{
		mesh: &Mesh{host: hostAt{addrs: addrs}, key: ed25519.NewKeyFromSeed(names.Keys[0].Seed)},
		tag:  [32]byte(v.Room), id: FeedID(want.Feed), info: want.Info,
	}
	got, err := room.signEntry(st, true, want.Sequence, "", 0)
	require.NoError(t, err)
	require.Equal(t, []byte(want.Sealed.Sealed), got.Sealed)
}

func TestRoomFramesAreThoseOfTheVectors(t *testing.T) {
	var v vectors.Roster
	vectors.Read(t, "roster", &v)
	read := func(raw []byte) *wire.RoomFrame {
		var f wire.RoomFrame
		require.NoError(t, wire.NewReader(bytes.NewReader(raw), maxRoomFrame).Next(&f))
		return &f
	}
	greeting := read(v.Greeting.Frame).GetGreeting()
	require.Equal(t, []byte(v.Greeting.Digest), greeting.Digest)
	part := read(v.Part.Frame).GetRoster()
	require.Len(t, part.Entries, len(v.Part.Entries))
	require.Equal(t, v.Part.Last, part.Last)
	require.NotNil(t, read(v.Query).GetQuery())
	require.NotNil(t, read(v.Absent).GetAbsent())
}

func TestTheProtocolHasTheLimitsOfThisPackage(t *testing.T) {
	says := func(what, format string, args ...any) { vectors.Says(t, what, fmt.Sprintf(format, args...)) }
	comma := func(n int) string {
		s := fmt.Sprint(n)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	}
	s := func(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }
	minutes := func(d time.Duration) string { return fmt.Sprintf("%g min", d.Minutes()) }

	says("message: a text or binary item, a direct payload", "%s", comma(wire.MaxMessage))
	says("sealed envelope; its `content`", "%s; %s", comma(wire.MaxEnvelope), comma(wire.MaxContent))
	says("frame: room", "%s", comma(maxRoomFrame))
	says("frame: direct; its answers", "%s; 256", comma(maxDirectFrame))
	says("GossipSub RPC", "%s", comma(maxRPC))
	says("frame: sync question; answer", "%s; %s", comma(maxSyncRequest), comma(stay.MaxSyncReply))
	says("sync questions at once", "1 of a neighbour, %d of all", maxAskers)
	says("sync answers to one neighbour", "%d MiB/s after %d MiB", serveRate>>20, serveBurst>>20)
	says("room frames of one peer",
		"%d/s after a burst of %d, and Heads %d/s, of which one with 32 feeds more counts one more; then they are read more slowly", linkRate, linkBurst, headsRate)
	says("members of a room that confirms a broadcast", "%d", MaxConfirmed)
	says("streams of one peer at once", "direct %d, room 1; a node allows 128 over all protocols", maxPeerStreams)
	says("room stream: to open it, to finish or take a frame", "%s", s(roomFrameTimeout))
	says("direct: OPEN; a frame", "%s; %s", s(openWithin), s(frameWithin))
	says("direct: no answer", "%s unless the caller says otherwise", s(defaultConfig().sendTimeout))
	says("direct: written again", "up to %s after the first time", minutes(resendHorizon))
	says("direct: a sender is remembered", "%s after its stream", minutes(seenFor))
	says("classes 1 and 2: waiting to be written", "%d ms", LateAfter.Milliseconds())
	says("grace of a member that fell silent", "%s", s(defaultConfig().grace))
	says("a Beat when nothing else was sent; more often to a neighbour that is silent, and on; the silence of one that has sent Beats ends its connection", "%s; every %d ms after %s, %s longer; %s",
		s(pulseEvery), pulseAgain.Milliseconds(), s(pulseQuiet), s(pulseStill), s(pulseMissed))
	says("a silent neighbour that has sent no Beat is asked; any is shown as silent", "after %s; after %s", s(pulseQuiet), s(pulseHush))
	says("sync: the next frame; serving one question; the whole answer", "%s; %s; %s", s(syncTimeout), s(serveTime), s(pullTime))
	says("retention", "%s, unless the app says otherwise", minutes(DefaultRetention.Age))
	says("GossipSub: heartbeat, seen messages", "%s, %s", s(defaultConfig().heartbeat), s(seenLife))

	p := (&Mesh{cfg: defaultConfig()}).gossipParams()
	vectors.Says(t, "D, Dlo, Dhi, Dout, Dscore", fmt.Sprintf("%d, %d, %d, %d, %d", p.D, p.Dlo, p.Dhi, p.Dout, p.Dscore), "no")
	vectors.Says(t, "heartbeat", s(p.HeartbeatInterval), "no")
	vectors.Says(t, "unsubscribe back-off", s(p.UnsubscribeBackoff), "no")
	vectors.Says(t, "outbound, validation and subscription queues", fmt.Sprintf("%d messages each", gossipQueue),
		"no, but with the usual 32 bursts are lost in silence")
	vectors.Says(t, "topics that are accepted", fmt.Sprintf("`%s…` with 52 characters only, at most %d of one peer", topicPrefix, maxSubscriptions), "no")
}
