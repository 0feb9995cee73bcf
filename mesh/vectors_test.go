package mesh

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/vectors"
	"github.com/starling-mesh/starling/internal/wire"
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

func TestRoomsJudgeTheEnvelopesOfTheVectors(t *testing.T) {
	var v vectors.Envelopes
	vectors.Read(t, "envelope", &v)
	door := &door{app: identity.AppID(v.App), tag: [32]byte(v.Room)}
	for _, e := range append(append(v.Feed, v.Accepted...), v.Forks...) {
		got, err := door.openEnvelope(epoch, e.Sealed.Sealed)
		require.NoError(t, err, e.Name)
		require.Equal(t, FeedID(e.Feed), got.feed, e.Name)
		require.Equal(t, [32]byte(e.Hash), got.hash, e.Name)
		require.Equal(t, string(e.MessageID), messageID(&pb.Message{Topic: &v.Topic, Data: e.Sealed.Sealed}), e.Name)
	}
	for _, c := range v.Refused {
		_, err := door.openEnvelope(epoch, c.Sealed)
		require.Error(t, err, "%s: accepted", c.Name)
	}
}

func TestFeedsTakeAndForkAsInTheVectors(t *testing.T) {
	var v vectors.Envelopes
	vectors.Read(t, "envelope", &v)
	door := &door{app: identity.AppID(v.App), tag: [32]byte(v.Room)}
	open := func(e vectors.Envelope) *envelope {
		got, err := door.openEnvelope(epoch, e.Sealed.Sealed)
		require.NoError(t, err)
		return got
	}
	whole := feed{next: 1}
	for _, e := range v.Feed {
		ready, how := whole.take(time.Now(), open(e))
		require.Len(t, ready, 1, e.Name)
		require.Equal(t, taken, how, e.Name)
	}
	for _, e := range v.Forks {
		f := feed{next: 1}
		_, how := f.take(time.Now(), open(v.Feed[0]))
		require.Equal(t, taken, how)
		_, how = f.take(time.Now(), open(e))
		require.Equal(t, forked, how, e.Name)
	}
}

func TestRostersAreThoseOfTheVectors(t *testing.T) {
	var v vectors.Roster
	vectors.Read(t, "roster", &v)
	now, verifier := time.UnixMilli(v.AtMS), identity.NewVerifier(identity.AppID(v.App))
	open := func(sealed []byte) (*rosterEntry, error) {
		return newDoor("", identity.AppID(v.App), [32]byte(v.Room), slog.New(slog.DiscardHandler), verifier, nil).open(sealed, now)
	}
	for _, e := range v.Accepted {
		got, err := open(e.Sealed.Sealed)
		require.NoError(t, err, e.Name)
		require.Equal(t, []any{FeedID(e.Feed), e.Sequence, e.Joined}, []any{got.feed, got.sequence, got.joined}, e.Name)
		require.True(t, bytes.Equal(e.Info, got.info), e.Name)
		require.Equal(t, []byte(e.Statement), got.statement.Sealed(), e.Name)
		var addrs []string
		for _, raw := range got.addrs {
			a, err := ma.NewMultiaddrBytes(raw)
			require.NoError(t, err)
			addrs = append(addrs, a.String())
		}
		require.Equal(t, e.Addrs, addrs, e.Name)
	}
	for _, c := range v.Refused {
		_, err := open(c.Sealed)
		require.Error(t, err, "%s: accepted", c.Name)
		switch c.Why {
		case "signature":
			require.True(t, errors.Is(err, wire.ErrSignature) || errors.Is(err, identity.ErrSignature), "%s: %v", c.Name, err)
		case "expired":
			require.ErrorIs(t, err, identity.ErrExpired, c.Name)
		}
	}
	for _, p := range v.Order {
		n, err := open(p.Newer)
		require.NoError(t, err, p.Name)
		o, err := open(p.Older)
		require.NoError(t, err, p.Name)
		require.True(t, n.newer(o), p.Name)
		require.False(t, o.newer(n), p.Name)
	}
	known := newRoster(&door{}, newJournal(feedTag{}, DefaultRetention), "", time.Second)
	for _, sealed := range v.Digest.Entries {
		e, err := open(sealed)
		require.NoError(t, err)
		known.apply(now, e)
	}
	require.Equal(t, []byte(v.Digest.Digest), known.sum())
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
	got, err := room.signEntry(st, true, want.Sequence, "")
	require.NoError(t, err)
	require.Equal(t, []byte(want.Sealed.Sealed), got.sealed)
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

func TestHeadsAreThoseOfTheVectors(t *testing.T) {
	var v vectors.Sync
	vectors.Read(t, "sync", &v)
	for _, c := range v.Tags {
		require.Equal(t, []byte(c.Tag), bytesOf(tagFeed(identity.PublicKey(c.Device), FeedID(c.Feed))))
	}
	j := newJournal(feedTag{}, DefaultRetention)
	for _, p := range v.Heads.Positions {
		tag := feedTag(p.Tag)
		j.feeds[tag] = &feed{tag: tag, entry: &rosterEntry{}, next: p.Last + 1}
	}
	require.Equal(t, []byte(v.Heads.Digest), j.sum())
}

func bytesOf(tag feedTag) []byte { return tag[:] }

func TestHeadsAndAnswersAreJudgedAsInTheVectors(t *testing.T) {
	var v vectors.Sync
	vectors.Read(t, "sync", &v)
	synctest.Test(t, func(t *testing.T) {
		all := newHellos()
		all.app = identity.NewAppID("starling")
		st := all.station(t, meshtest.New(t, meshtest.Options{Hosts: 1}).Host(0), "zoe")
		r, err := st.Join(t.Context(), "ops")
		require.NoError(t, err)
		require.Equal(t, []byte(v.Room), r.tag[:])
		heads := func(raw []byte) *wire.RoomFrame_Heads {
			var f wire.RoomFrame
			require.NoError(t, wire.NewReader(bytes.NewReader(raw), maxRoomFrame).Next(&f))
			return f.GetHeads()
		}
		require.NoError(t, r.hearHeads("p", heads(v.Frame)))
		for _, c := range v.BadHeads {
			require.Error(t, r.hearHeads("p", heads(c.Bytes)), c.Name)
		}
		ask := pull{from: "p"}
		for _, w := range v.Request.Wants {
			ask.wants = append(ask.wants, want{&feed{tag: feedTag(w.Tag)}, span{w.First, w.Last}})
		}
		take := func(raw []byte) (outcome, error) {
			var reply wire.SyncReply
			require.NoError(t, wire.NewReader(bytes.NewReader(raw), maxSyncReply).Next(&reply))
			o := newOutcome(ask)
			err := r.takeReply(ask.from, &reply, &o)
			return o, err
		}
		o, err := take(v.Reply.Frame)
		require.NoError(t, err)
		require.Equal(t, map[feedTag]uint64{feedTag(v.Reply.Gone[0].Tag): v.Reply.Gone[0].Last}, o.gone)
		for _, c := range v.BadReplies {
			_, err := take(c.Bytes)
			require.Error(t, err, c.Name)
		}
	})
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

	says("user information in a room", "%d", maxInfo)
	says("message: a text or binary item, a direct payload", "%s", comma(wire.MaxMessage))
	says("sealed roster entry", "%s", comma(maxEntry))
	says("sealed envelope; its `content`", "%s; %s", comma(wire.MaxEnvelope), comma(wire.MaxContent))
	says("frame: room", "%s", comma(maxRoomFrame))
	says("frame: direct; its answers", "%s; 256", comma(maxDirectFrame))
	says("GossipSub RPC", "%s", comma(maxRPC))
	says("multiaddrs of a device; each", "%d; %d", maxAddrs, maxAddrSize)
	says("seats in a room", "%d", maxMembers)
	says("parked in a room", "%d envelopes, %d MiB", maxParked, maxParkedBytes>>20)
	says("held behind a gap in one feed", "%d envelopes, %d MiB", maxHeld, maxHeldBytes>>20)
	says("frame: sync question; answer", "%s; %s", comma(maxSyncRequest), comma(maxSyncReply))
	says("wants of a question; bytes of an answer", "%d; %d MiB, and the asker takes %d MiB", maxWants+maxSpans, SyncAnswer>>20, 2*SyncAnswer>>20)
	says("sync questions at once", "1 of a neighbour, %d of all", maxAskers)
	says("sync answers to one neighbour", "%d MiB/s after %d MiB", serveRate>>20, serveBurst>>20)
	says("positions in Heads", "%s", comma(maxPositions))
	says("feeds in a room; of one user", "%d; %d", maxFeeds, maxStays)
	says("room frames of one peer",
		"%d/s after a burst of %d, and Heads %d/s, of which one with 32 feeds more counts one more; then they are read more slowly", linkRate, linkBurst, headsRate)
	says("members of a room that confirms a broadcast", "%d", MaxConfirmed)
	says("receipts in a frame; collectors", "%d; %d", maxReceipts, maxCollectors)
	says("receipts are passed on for", "%d envelopes, %d of one feed", maxCarried, maxCarriedOfFeed)
	says("streams of one peer at once", "direct %d, room 1; a node allows 128 over all protocols", maxPeerStreams)

	says("room stream: to open it, to finish or take a frame", "%s", s(roomFrameTimeout))
	says("direct: OPEN; a frame", "%s; %s", s(openWithin), s(frameWithin))
	says("direct: no answer", "%s unless the caller says otherwise", s(defaultConfig().sendTimeout))
	says("direct: written again", "up to %s after the first time", minutes(resendHorizon))
	says("direct: a sender is remembered", "%s after its stream", minutes(seenFor))
	says("classes 1 and 2: waiting to be written", "%d ms", LateAfter.Milliseconds())
	says("grace of a member that fell silent", "%s", s(defaultConfig().grace))
	says("suspicions by one member", "%d at once, then %g/s; %d members under suspicion", maxAccused, 1/accuseEvery.Seconds(), maxAccused)
	says("a lost neighbour is suspected", "after %s, and %s to %s more at random", s(lostFor), s(lostFor), s(maxSpread))
	says("an echo of a lost neighbour; a neighbour is alive", "%s; %s", s(echoWait), s(freshFor))
	says("an accused member answers", "every %s at most", s(refuteEvery))
	says("questions by one member for those it has dropped", "%d at once, then %g/s", maxDoubted, 1/doubtedEvery.Seconds())
	says("after the grace: the last moment of a neighbour; a reprieve leaves", "%s; %s", s(lastWord), s(reprieve))
	says("a dropped member is asked for, by the word of a new neighbour; of another", "within %d ms; after %d ms to %s", doubtSpread.Milliseconds(), doubtWait.Milliseconds(), s(2*doubtWait))
	says("a dropped member is asked for again", "after %s, doubled each time up to %s", s(doubtAgain), minutes(doubtEvery))
	says("a Beat when nothing else was sent; more often to a neighbour that is silent, and on; the silence of one that has sent Beats ends its connection", "%s; every %d ms after %s, %s longer; %s",
		s(pulseEvery), pulseAgain.Milliseconds(), s(pulseQuiet), s(pulseStill), s(pulseMissed))
	says("beat of a member that not all see; silence", "%s, or %s for each member; %d beats", minutes(beatEvery), s(memberBeat), silentBeats)
	says("a later stay waits for what is being fetched of an earlier one; for neighbours just met; for each of them", "%s; %s; %d ms", s(lackWait), s(2*meetWait), meetWait.Milliseconds())
	says("a member counts as parted; is remembered for that", "%s; %s", s(apartWait), minutes(partedFor))
	says("clocks: a neighbour's word of one replaces its last", "when it gives an earlier time, or one more than %s later", s(clockSet))
	says("an envelope that came by gossip is no older than; a member tells a clock by envelopes alone", "%s; after %s", s(maxUnderWay), s(2*maxUnderWay))
	says("gap given up", "%s, or %s while a neighbour may yet come to have it (%s at the earliest, see 9.8), or %s while a neighbour does not answer or was just lost",
		s(lostWait), s(lackWait), s(goneWait), s(apartWait))
	says("what is missing is asked for", "after %d to %d ms", pullWait.Milliseconds(), pullWait.Milliseconds()*3/2)
	says("sync: the next frame; serving one question; the whole answer", "%s; %s; %s", s(syncTimeout), s(serveTime), s(pullTime))
	says("a feed is quiet, and neighbours are told", "after %d ms; its author again after 1 s and 4 s", quietWait.Milliseconds())
	says(fmt.Sprintf("a neighbour is asked for its roster again; after an answer with something new; waited for, as one of %d", maxAsking), "after %d ms to %s; %d ms at most; %d ms",
		askEvery.Milliseconds(), s(maxGap), newsGap.Milliseconds(), askPatience.Milliseconds())
	says("a baseline waits for neighbours; for one who is sure; for one who says anything; may be corrected; is refuted by gossip", "%d ms; %s; %s; %s; after %s", baselineWait.Milliseconds(), s(baselineWait+sureWait), s(baselineWait+2*sureWait), s(baselineDoubt), s(baselineProof))
	says("retention", "%s, unless the app says otherwise", minutes(DefaultRetention.Age))
	says("GossipSub: heartbeat, seen messages", "%s, %s", s(defaultConfig().heartbeat), s(seenLife))
	says("broadcasts wait for a subscription", "%d ms", newcomerWait.Milliseconds())
	says("parked envelope", "%s", s(parkedLife))
	says("memory of those who left", "%s", minutes(tombstoneLife))
	says("receipts: gathered; asked for again; passed on", "%s; %s, %s; %s", s(gatherDelay), s(firstAsk), s(secondAsk), s(carryLife))

	p := (&Mesh{cfg: defaultConfig()}).gossipParams()
	vectors.Says(t, "D, Dlo, Dhi, Dout, Dscore", fmt.Sprintf("%d, %d, %d, %d, %d", p.D, p.Dlo, p.Dhi, p.Dout, p.Dscore), "no")
	vectors.Says(t, "heartbeat", s(p.HeartbeatInterval), "no")
	vectors.Says(t, "unsubscribe back-off", s(p.UnsubscribeBackoff), "no")
	vectors.Says(t, "outbound, validation and subscription queues", fmt.Sprintf("%d messages each", gossipQueue),
		"no, but with the usual 32 bursts are lost in silence")
	vectors.Says(t, "topics that are accepted", fmt.Sprintf("`%s…` with 52 characters only, at most %d of one peer", topicPrefix, maxSubscriptions), "no")
}
