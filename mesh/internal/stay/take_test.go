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
