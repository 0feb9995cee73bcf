package stay

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/vectors"
	"github.com/starling-mesh/starling/internal/wire"
)

func TestRoomsJudgeTheEnvelopesOfTheVectors(t *testing.T) {
	var v vectors.Envelopes
	vectors.Read(t, "envelope", &v)
	door := &Door{app: identity.AppID(v.App), tag: [32]byte(v.Room), unseal: wire.OpenEnvelope}
	for _, e := range append(append(v.Feed, v.Accepted...), v.Forks...) {
		got, err := door.OpenEnvelope(epoch, e.Sealed.Sealed)
		require.NoError(t, err, e.Name)
		require.Equal(t, FeedID(e.Feed), got.Feed, e.Name)
		require.Equal(t, [32]byte(e.Hash), got.hash, e.Name)
	}
	for _, c := range v.Refused {
		_, err := door.OpenEnvelope(epoch, c.Sealed)
		require.Error(t, err, "%s: accepted", c.Name)
	}
}

func TestFeedsTakeAndForkAsInTheVectors(t *testing.T) {
	var v vectors.Envelopes
	vectors.Read(t, "envelope", &v)
	door := &Door{app: identity.AppID(v.App), tag: [32]byte(v.Room), unseal: wire.OpenEnvelope}
	open := func(e vectors.Envelope) *Envelope {
		got, err := door.OpenEnvelope(epoch, e.Sealed.Sealed)
		require.NoError(t, err)
		return got
	}
	whole := Feed{next: 1}
	for _, e := range v.Feed {
		ready, how := whole.take(time.Now(), open(e))
		require.Len(t, ready, 1, e.Name)
		require.Equal(t, taken, how, e.Name)
	}
	for _, e := range v.Forks {
		f := Feed{next: 1}
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
	open := func(sealed []byte) (*Entry, error) {
		return NewDoor("", identity.AppID(v.App), [32]byte(v.Room), slog.New(slog.DiscardHandler), verifier, nil).open(sealed, now)
	}
	for _, e := range v.Accepted {
		got, err := open(e.Sealed.Sealed)
		require.NoError(t, err, e.Name)
		require.Equal(t, []any{FeedID(e.Feed), e.Sequence, e.Joined}, []any{got.Feed, got.Sequence, got.Joined}, e.Name)
		require.True(t, bytes.Equal(e.Info, got.Info), e.Name)
		require.Equal(t, []byte(e.Statement), got.Statement.Sealed(), e.Name)
		var addrs []string
		for _, raw := range got.Addrs {
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
	known := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "", time.Second)
	for _, sealed := range v.Digest.Entries {
		e, err := open(sealed)
		require.NoError(t, err)
		known.apply(now, e)
	}
	require.Equal(t, []byte(v.Digest.Digest), known.sum())
	for _, c := range v.BadParts {
		var f wire.RoomFrame
		require.NoError(t, wire.NewReader(bytes.NewReader(c.Bytes), MaxSyncReply).Next(&f))
		_, err := new(Door).OpenRoster(now, "p", f.GetRoster())
		require.ErrorIs(t, err, errBadRoster, c.Name)
	}
}

func TestHeadsAreThoseOfTheVectors(t *testing.T) {
	var v vectors.Sync
	vectors.Read(t, "sync", &v)
	for _, c := range v.Tags {
		tag := TagFeed(identity.PublicKey(c.Device), FeedID(c.Feed))
		require.Equal(t, []byte(c.Tag), tag[:])
	}
	j := newJournal(FeedTag{}, plenty)
	for _, p := range v.Heads.Positions {
		tag := FeedTag(p.Tag)
		j.feeds[tag] = &Feed{tag: tag, entry: &Entry{}, next: p.Last + 1}
	}
	require.Equal(t, []byte(v.Heads.Digest), j.sum())
}

func TestHeadsAndAnswersAreJudgedAsInTheVectors(t *testing.T) {
	var v vectors.Sync
	vectors.Read(t, "sync", &v)
	st, door := begunStayOf(t, identity.NewAppID("starling"), time.Now(), new(deafWorld))
	require.Equal(t, []byte(v.Room), st.Tag[:])
	heads := func(raw []byte) *wire.RoomFrame_Heads {
		var f wire.RoomFrame
		require.NoError(t, wire.NewReader(bytes.NewReader(raw), MaxSyncReply).Next(&f))
		return f.GetHeads()
	}
	require.NoError(t, st.HearHeads(time.Now(), "p", heads(v.Frame)))
	require.NoError(t, st.HearHeads(time.Now(), "p", heads(v.Unasked)))
	for _, c := range v.BadHeads {
		require.Error(t, st.HearHeads(time.Now(), "p", heads(c.Bytes)), c.Name)
	}
	ask := Pull{From: "p"}
	for _, w := range v.Request.Wants {
		ask.wants = append(ask.wants, want{&Feed{tag: FeedTag(w.Tag)}, span{w.First, w.Last}})
	}
	take := func(raw []byte) (Outcome, error) {
		var reply wire.SyncReply
		require.NoError(t, wire.NewReader(bytes.NewReader(raw), MaxSyncReply).Next(&reply))
		o := NewOutcome(ask)
		_, _, err := o.Open(time.Now(), door, plenty.Age, &reply)
		return o, err
	}
	o, err := take(v.Reply.Frame)
	require.NoError(t, err)
	require.Equal(t, map[FeedTag]uint64{FeedTag(v.Reply.Gone[0].Tag): v.Reply.Gone[0].Last}, o.gone)
	for _, c := range v.BadReplies {
		_, err := take(c.Bytes)
		require.Error(t, err, c.Name)
	}
}

func TestTheProtocolHasTheLimitsOfThisPackage(t *testing.T) {
	says := func(what, format string, args ...any) { vectors.Says(t, what, fmt.Sprintf(format, args...)) }
	comma := func(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }
	s := func(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }
	minutes := func(d time.Duration) string { return fmt.Sprintf("%g min", d.Minutes()) }

	says("user information in a room", "%d", maxInfo)
	says("sealed roster entry", "%s", comma(MaxEntry))
	says("multiaddrs of a device; each", "%d; %d", maxAddrs, maxAddrSize)
	says("seats in a room", "%d", MaxMembers)
	says("parked in a room", "%d envelopes, %d MiB", MaxParked, MaxParkedBytes>>20)
	says("held behind a gap in one feed", "%d envelopes, %d MiB", maxHeld, maxHeldBytes>>20)
	says("wants of a question; bytes of an answer", "%d; %d MiB, and the asker takes %d MiB", MaxWants+MaxSpans, SyncAnswer>>20, 2*SyncAnswer>>20)
	says("positions in Heads", "%s", comma(MaxPositions))
	says("feeds in a room; of one user", "%d; %d", MaxFeeds, maxStays)
	says("receipts in a frame; collectors", "%d; %d", MaxReceipts, maxCollectors)
	says("receipts are passed on for", "%d envelopes, %d of one feed", maxCarried, maxCarriedOfFeed)
	says("suspicions by one member", "%d at once, then %g/s; %d members under suspicion", maxAccused, 1/accuseEvery.Seconds(), maxAccused)
	says("a lost neighbour is suspected", "after %s, and %s to %s more at random", s(LostFor), s(LostFor), s(maxSpread))
	says("an echo of a lost neighbour; a neighbour is alive", "%s; %s", s(echoWait), s(freshFor))
	says("an accused member answers", "every %s at most", s(refuteEvery))
	says("questions by one member for those it has dropped", "%d at once, then %g/s", maxDoubted, 1/doubtedEvery.Seconds())
	says("after the grace: the last moment of a neighbour; a reprieve leaves", "%s; %s", s(lastWord), s(reprieve))
	says("a dropped member is asked for, by the word of a new neighbour; of another", "within %d ms; after %d ms to %s", doubtSpread.Milliseconds(), doubtWait.Milliseconds(), s(2*doubtWait))
	says("a dropped member is asked for again", "after %s, doubled each time up to %s", s(doubtAgain), minutes(doubtEvery))
	says("beat of a member that not all see; silence", "%s, or %s for each member; %d beats", minutes(BeatEvery), s(memberBeat), SilentBeats)
	says("a later stay waits for what is being fetched of an earlier one; for neighbours just met; for each of them; after a cut", "%s; %s; %d ms; %s", s(lackWait), s(2*meetWait), meetWait.Milliseconds(), s(returnWait))
	says("a gap waits for a member that has come back", "%s", s(backWait))
	says("a node counts as cut off", "after %s in which no neighbour has said anything", s(hearWait))
	says("a member counts as parted; is remembered for that", "%s; %s", s(ApartWait), minutes(partedFor))
	says("clocks: a neighbour's word of one replaces its last", "when it gives an earlier time, or one more than %s later", s(clockSet))
	says("an envelope that came by gossip is no older than; a member tells a clock by envelopes alone", "%s; after %s", s(maxUnderWay), s(2*maxUnderWay))
	says("gap given up", "%s, or %s while a neighbour may yet come to have it (%s at the earliest, see 9.8), or %s while a neighbour does not answer, was just lost or has just come back",
		s(lostWait), s(lackWait), s(goneWait), s(ApartWait))
	says("what is missing is asked for", "after %d to %d ms", pullWait.Milliseconds(), pullWait.Milliseconds()*3/2)
	says("a feed is quiet, and neighbours are told", "after %d ms; its author again after 1 s and 4 s", quietWait.Milliseconds())
	says(fmt.Sprintf("a neighbour is asked for its roster again; after an answer with something new; waited for, as one of %d", MaxAsking), "after %d ms to %s; %d ms at most; %d ms",
		askEvery.Milliseconds(), s(maxGap), newsGap.Milliseconds(), askPatience.Milliseconds())
	says("after a guess, a neighbour that mentions the feed is asked again", "after %s; when the guess is %s old, after %s", s(compareEvery), s(doubtTime), s(doubtTime))
	says("a baseline waits for neighbours; for one who is sure; for one who says anything; for its author; may be corrected; is refuted by gossip; from its author", "%d ms; %s; %s; %s; %s; after %s; after %s", BaselineWait.Milliseconds(), s(BaselineWait+sureWait), s(BaselineWait+2*sureWait), s(lackWait), s(baselineDoubt), s(baselineProof), s(authorProof))
	says("broadcasts wait for a subscription", "%d ms", newcomerWait.Milliseconds())
	says("parked envelope", "%s", s(ParkedLife))
	says("memory of those who left", "%s", minutes(tombstoneLife))
	says("sealed order", "%s", comma(identity.MaxOrder))
	says("orders in a room; of one signer", "%d; %d", MaxOrders, MaxOrdersOf)
	says("orders in the feed of one member that are verified", "%d at once, then %g/s", orderBurst, 1/orderEvery.Seconds())
	says("orders in a frame that may not hold before others are passed over", "%d", maxRefused)
	says("orders that a neighbour has sent are passed on to", "%d neighbours", orderPeers)
	says("devices that are put out", "%d", maxOutcasts)
	says("a kick or a dismissal is kept", "%g h", identity.OrderLife.Hours())
	says("a device that is put out is told again; a neighbour is sent the same orders again", "after %s; after %s", s(informEvery), s(offerEvery))
	says("joining: devices that were put out are waited for", "%d ms", keptWait.Milliseconds())
	says("receipts: gathered; asked for again; passed on", "%s; %s, %s; %s", s(gatherDelay), s(FirstAsk), s(SecondAsk), s(carryLife))
}
