package stay

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

func TestSuspicionsAreOpenedOrRefused(t *testing.T) {
	keys, _ := user(t, identity.NewAppID("test"), "u1", 1)
	device, feed := keys.Device.Public().(ed25519.PublicKey), make([]byte, 16)
	open := func(s *wire.Suspicion) (accusation, bool) {
		raw, err := proto.Marshal(s)
		require.NoError(t, err)
		return openSuspicion(raw)
	}
	a, ok := open(&wire.Suspicion{Device: device, Feed: feed, Sequence: 7})
	require.True(t, ok)
	require.Equal(t, accusation{device: keys.PeerID(), sequence: 7}, a)
	for name, s := range map[string]*wire.Suspicion{
		"nothing":          {},
		"a short device":   {Device: device[1:], Feed: feed, Sequence: 7},
		"a long feed":      {Device: device, Feed: append(feed[:16:16], 0), Sequence: 7},
		"without sequence": {Device: device, Feed: feed},
		"without a feed":   {Device: device, Sequence: 7},
		"without a device": {Feed: feed, Sequence: 7},
	} {
		_, ok := open(s)
		require.False(t, ok, name)
	}
}

// losses is a world that notes what is lost.
type losses struct {
	deafWorld
	lost [][2]uint64
}

func (w *losses) Notice(n Notice) {
	if l, ok := n.(Lost); ok {
		w.lost = append(w.lost, [2]uint64{l.First, l.Last})
	}
}

func TestWhatALaterVersionSealedIsLostOnlyAsFarAsItIsMissed(t *testing.T) {
	w := new(losses)
	st, _ := begunStay(t, time.Now(), w)
	st.Begin(time.Now())
	_, author := user(t, identity.NewAppID("test"), "u1", 1)
	sealed := func(floor, first uint64, count uint32) {
		of := &Feed{entry: &Entry{Statement: author}, next: floor, floor: floor}
		st.deliver(time.Now(), of, []*Envelope{{Envelope: &wire.Envelope{Scheme: 9, First: first, Count: count}}})
	}
	sealed(1, 1, 1) // where the author's entry is, which is known
	sealed(6, 4, 2) // from before this node's time
	require.Empty(t, w.lost)
	sealed(1, 1, 3)
	sealed(6, 5, 3)
	require.Equal(t, [][2]uint64{{2, 3}, {6, 7}}, w.lost)
	require.Equal(t, 4, w.counts[CountMessagesLost])
}

// tellingWorld notes to whom something was said.
type tellingWorld struct {
	deafWorld
	queries []peer.ID
}

func (w *tellingWorld) Tell(p peer.ID, f *wire.RoomFrame) {
	if f.GetQuery() != nil {
		w.queries = append(w.queries, p)
	}
}

func TestANeighbourThatOthersMissIsAskedAndCountsAsGoneIfItSaysSo(t *testing.T) {
	world := new(tellingWorld)
	st, _ := begunStay(t, epoch, world)
	for i, u := range []string{"b", "c"} {
		st.apply(epoch, entry("user "+u, u, 100, byte(i+2), true))
		st.Subscribed(epoch, peer.ID(u))
	}
	s := st.roster.devices["b"]
	missed := accusation{device: "b", feed: s.entry.Feed, sequence: s.entry.Sequence}
	st.Absent(epoch, "b")
	require.NotNil(t, st.neighbours["b"], "said before it was a neighbour")

	st.miss(epoch, epoch, missed)
	require.Empty(t, world.queries, "it has just been heard")
	now := epoch.Add(2 * time.Second)
	st.miss(now, now, accusation{device: "b", feed: FeedID{99}})
	require.Empty(t, world.queries, "another stay")
	question := missed
	question.question = true
	st.miss(now, now, question)
	require.Empty(t, world.queries, "it will answer that")
	for range 3 {
		st.miss(now, now, missed)
	}
	require.Equal(t, []peer.ID{"b"}, world.queries)
	st.Absent(now, "b")
	require.Nil(t, st.neighbours["b"])
	require.False(t, s.accuseAt.IsZero(), "and it will be accused")
}
