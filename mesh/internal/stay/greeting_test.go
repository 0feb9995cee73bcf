package stay

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// mailbox keeps the frames that a stay sends, and what it hands up.
type mailbox struct {
	readings
	frames []*wire.RoomFrame
}

func (w *mailbox) Tell(_ peer.ID, f *wire.RoomFrame) { w.frames = append(w.frames, f) }

// carry gives a stay what another one has sent.
func (w *mailbox) carry(t *testing.T, now time.Time, from peer.ID, to *Stay) {
	t.Helper()
	frames := w.frames
	w.frames = nil
	for _, f := range frames {
		require.NoError(t, hearFrame(now, from, to, f))
	}
}

// publishes makes a stay publish a text, and returns the envelope as others open it.
func publishes(t *testing.T, st *Stay, now time.Time) *Envelope {
	t.Helper()
	h, _, _ := st.Next(false)
	own := st.Own()
	sealed, err := wire.SealEnvelope(st.Key, &wire.Envelope{
		App: own.Statement.App[:], Room: st.Tag[:], Device: own.Statement.Device[:], Feed: own.Feed[:], First: h.Last + 1, Count: 1,
		Previous: h.Previous(), SentMs: now.UnixMilli(), Content: wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte("x")),
	})
	require.NoError(t, err)
	st.Published(now, h.Next(1, sealed), 1, sealed, now.Add(time.Minute), nil)
	e, err := st.Door.OpenEnvelope(now, sealed)
	require.NoError(t, err)
	e.came = now
	return e
}

// A member leaves and joins again while a neighbour's answer to its stay before is under way. That
// stay wanted more of the past, and had named what it knew of the roster.
func TestAnAnswerToAnEarlierStayDoesNotCountAsOneToThis(t *testing.T) {
	for name, c := range map[string]struct {
		already bool // the stay before had been answered before
		known   bool // the neighbour waits for the rest of that stay's feed
	}{
		"it knew nothing":            {},
		"it knew all":                {already: true},
		"the neighbour has its feed": {known: true},
		"and it knew all":            {already: true, known: true},
	} {
		t.Run(name, func(t *testing.T) {
			app := identity.NewAppID("test")
			now, theirs, former, w := time.Now(), new(mailbox), new(mailbox), new(mailbox)
			neighbour, _ := enter(t, app, "u1", FeedID{1}, now.Add(-time.Second), theirs)
			third, _ := enter(t, app, "u2", FeedID{1}, now, new(mailbox))
			neighbour.Begin(now)
			neighbour.apply(now, third.Own())
			neighbour.Subscribed(now, third.Self)
			theirs.frames = nil
			before, _ := enter(t, app, "u0", FeedID{1}, now, former)
			self, p := before.Self, neighbour.Self
			neighbour.Subscribed(now, self)
			before.Subscribed(now, p)
			if c.already {
				former.carry(t, now, self, neighbour)
				theirs.carry(t, now, p, before)
				require.True(t, before.Agreed(now, []peer.ID{p}))
			}
			now = now.Add(100 * ms)
			old := publishes(t, third, now)
			neighbour.Receive(now, third.Self, old, Gossiped)
			require.Len(t, theirs.numbers, 1)
			theirs.frames = nil
			if c.known {
				neighbour.apply(now, before.Own())
				neighbour.Receive(now, self, publishes(t, before, now), Gossiped)
				theirs.frames = nil
			}
			now = now.Add(time.Second)
			before.Again(now, p)
			former.carry(t, now, self, neighbour)

			st, _ := enter(t, app, "u0", FeedID{2}, now, w)
			st.Subscribed(now, p)
			theirs.carry(t, now, p, st) // what the stay before has asked for
			require.False(t, st.Agreed(now, []peer.ID{p}), "this stay has not been answered")
			w.carry(t, now, self, neighbour)
			theirs.carry(t, now, p, st)
			require.True(t, st.Agreed(now, []peer.ID{p}))
			require.NotNil(t, st.roster.devices[third.Self], "the whole roster has come")
			st.Begin(now)
			st.Receive(now, p, old, Repaired)
			require.Empty(t, w.numbers, "published before this stay")
			news := publishes(t, third, now.Add(100*ms))
			st.Receive(now.Add(100*ms), p, news, Gossiped)
			require.Equal(t, []uint64{news.First}, w.numbers)
		})
	}
}

// Every part of a roster says whose question it answers, and so do heads.
func TestAllFramesOfAnAnswerNameTheAsker(t *testing.T) {
	app := identity.NewAppID("test")
	now, w, asked := time.Now(), new(mailbox), new(mailbox)
	st, _ := enter(t, app, "u1", FeedID{1}, now, w)
	st.Begin(now)
	publishes(t, st, now)
	for seed := range byte(100) {
		keys, login := user(t, app, fmt.Sprint("member", seed), 100+seed)
		e, err := SignEntry(keys.Device, st.Tag, Entry{Statement: login, Feed: FeedID{9}, Sequence: uint64(now.UnixMilli()), Joined: true, Info: make([]byte, identity.MaxInfo)})
		require.NoError(t, err)
		st.apply(now, e)
	}
	asker, _ := enter(t, app, "u0", FeedID{2}, now, asked)
	asker.Subscribed(now, st.Self)
	asked.carry(t, now, asker.Self, st)
	tag, rosters, heads := asker.own.Tag(), 0, 0
	for _, f := range w.frames {
		switch body := f.Body.(type) {
		case *wire.RoomFrame_Roster_:
			require.Equal(t, tag[:], body.Roster.Answers)
			rosters++
		case *wire.RoomFrame_Heads_:
			require.Equal(t, tag[:], body.Heads.Answers)
			heads++
		}
	}
	require.Greater(t, rosters, 1)
	require.Positive(t, heads)
}

// What answers another stay is no more than what a neighbour says of its own accord.
func TestHeadsThatAnswerAnotherStayAreHints(t *testing.T) {
	world := new(askedWorld)
	st, f, now := guessed(t, world)
	asks := func(pos *wire.Position, own bool) int {
		now = now.Add(time.Minute)
		world.asked = nil
		h := positions(st, pos)
		if !own {
			h.Answers = bytes.Repeat([]byte{7}, len(FeedTag{}))
		}
		h.AgeMs = 1 // long under way
		require.NoError(t, st.HearHeads(now, "c", h))
		st.inquiries(now)
		return len(world.asked)
	}
	guess := &wire.Position{Feed: f.tag[:], Last: 5, First: 4, Unsure: true}
	unknown := &wire.Position{Feed: bytes.Repeat([]byte{8}, len(FeedTag{})), Last: 5, First: 4}
	require.Equal(t, 1, asks(guess, false), "it does not say where the feed begins")
	require.Equal(t, 1, asks(unknown, false))
	require.Zero(t, st.neighbours["c"].slack)
	require.Nil(t, st.journal.feeds[FeedTag(unknown.Feed)])
	require.Zero(t, asks(guess, true))
	require.Positive(t, st.neighbours["c"].slack)
	require.Zero(t, asks(unknown, true))
	require.NotNil(t, st.journal.feeds[FeedTag(unknown.Feed)])
}
