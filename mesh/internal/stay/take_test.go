package stay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// What is too old to be told from a replay is not handed up. A reader that goes on where it was
// must learn that, since it counts on getting everything.
func TestAReaderThatGoesOnIsToldWhatIsTooOld(t *testing.T) {
	now, w := time.Now(), new(losses)
	st, _ := begunStay(t, now, w)
	_, author := user(t, identity.NewAppID("test"), "u1", 1)
	entry := &Entry{Statement: author, Feed: FeedID{7}, Sequence: uint64(now.UnixMilli()), Joined: true}
	st.journal.resume = map[FeedTag]uint64{entry.Tag(): 4}
	st.Begin(now)
	st.TakeEntry(now, "p", entry)
	old := func(first uint64) *Envelope {
		e := &wire.Envelope{First: first, Count: 2, SentMs: now.Add(-time.Hour).UnixMilli()}
		return &Envelope{Envelope: e, device: author.Device, Peer: author.Peer, Feed: entry.Feed, tag: entry.Tag(), came: now}
	}
	st.Receive(now, "p", old(3), Repaired)
	require.Empty(t, w.lost, "it has been read")
	st.Receive(now, "p", old(7), Repaired)
	require.Equal(t, [][2]uint64{{5, 8}}, w.lost)
	st.Receive(now, "p", old(7), Repaired)
	require.Len(t, w.lost, 1)
}

// readings records what a stay hands up, and what else it tells.
type readings struct {
	deafWorld
	numbers []uint64
	notices []Notice
}

func (w *readings) Deliver(_ identity.Login, _ *Envelope, items []Item) bool {
	for _, i := range items {
		w.numbers = append(w.numbers, i.Number)
	}
	return true
}

func (w *readings) Notice(n Notice) {
	if _, ok := n.(Ready); !ok {
		w.notices = append(w.notices, n)
	}
}

// While this node joins, a neighbour says that the last messages of a member are for it. Another
// neighbour's first answer has the member's goodbye, so the stay was over when that neighbour heard
// of this node. If the goodbye comes in any other way, the member may have seen this node before it
// published the messages.
func TestNothingOfAStayThatWasOverWhenANeighbourHeardOfThisOneIsHandedUp(t *testing.T) {
	app := identity.NewAppID("test")
	for name, c := range map[string]struct {
		way     string
		begun   bool // the author has said itself that the messages are for this node
		history bool
		handed  []uint64
	}{
		"a neighbour's first answer":             {way: "answer"},
		"the app wants what was before":          {way: "answer", history: true, handed: []uint64{4, 5}},
		"the author has said that they are ours": {way: "answer", begun: true, handed: []uint64{4, 5}},
		"a later answer":                         {way: "later answer", handed: []uint64{4, 5}},
		"the first answer comes very late":       {way: "late answer", handed: []uint64{4, 5}},
		"gossip":                                 {way: "gossip", handed: []uint64{4, 5}},
		"an answer after Join":                   {way: "after Join", handed: []uint64{4, 5}},
		"the goodbye comes in its place":         {handed: []uint64{4, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			now, w := time.Now(), new(readings)
			st, _ := begunStayOf(t, app, now, w)
			st.journal.history = c.history
			keys, author := user(t, app, "u1", 1)
			sign := func(after time.Duration, joined bool) *Entry {
				e, err := SignEntry(keys.Device, st.Tag, Entry{Statement: author, Feed: FeedID{7}, Sequence: uint64(now.Add(after).UnixMilli()), Joined: joined})
				require.NoError(t, err)
				return e
			}
			entry, goodbye := sign(-time.Minute, true), sign(0, false)
			item := chain(1, 1, 1, 1, 1, 1)
			for i, e := range item {
				e.device, e.Peer, e.Feed, e.tag, e.came, e.SentMs = author.Device, author.Peer, entry.Feed, entry.Tag(), now, now.UnixMilli()
				e.sealed = []byte{byte(e.First)}
				e.Content = wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte("x"))
				if i == len(item)-1 {
					e.Content = wire.AppendItem(nil, wire.Kind_KIND_ROSTER, goodbye.Sealed)
				}
			}
			all := &wire.RoomFrame_Roster{Last: true, Answers: st.journal.self[:]}
			answer := func(at time.Time) { st.HearRoster(at, "q", all, []*Entry{goodbye}) }
			st.adopt(now, "p")
			st.adopt(now, "q")
			st.HearRoster(now, "p", all, []*Entry{entry})
			st.journal.claim(now, "p", entry.Tag(), 5, 4, true)
			if c.begun {
				st.journal.claim(now, author.Peer, entry.Tag(), 5, 4, true)
			}
			// Something of the feed is held, so the goodbye waits for it.
			st.Receive(now, "q", item[4], Gossiped)
			switch c.way {
			case "answer":
				answer(now)
			case "later answer":
				st.HearRoster(now, "q", all, nil)
				answer(now)
			case "late answer":
				now = now.Add(firstAnswer)
				answer(now)
			case "gossip":
				st.Receive(now, "q", item[5], Gossiped)
			}
			st.Begin(now)
			if c.way == "after Join" {
				answer(now)
			}
			held, _ := st.Part(now, []*wire.Want{{Feed: item[4].tag[:], First: 5, Last: 5}}, SyncPart, new(int))
			require.Equal(t, [][]byte{{5}}, held.Envelopes, "others may lack it")
			for _, e := range item[3:] {
				st.Receive(now, "q", e, Repaired)
			}
			require.Equal(t, c.handed, w.numbers)
			st.Tick(now.Add(time.Minute))
			if c.handed == nil {
				require.Empty(t, w.notices, "it was over before this one was ready")
				return
			}
			require.Len(t, w.notices, 2, "nothing is lost")
			require.IsType(t, Joined{}, w.notices[0])
			require.Equal(t, Quit, w.notices[1].(Left).Reason)
		})
	}
}
