package stay

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

func TestAFeedThatGoesOnFromTheStoreMustContinueIt(t *testing.T) {
	end := [32]byte{1}
	f := &Feed{stored: 5, end: &end}
	f.begin(6)
	_, v := f.take(time.Now(), &Envelope{Envelope: &wire.Envelope{First: 6, Count: 1, Previous: make([]byte, 32)}})
	require.Equal(t, forked, v)
	f = &Feed{stored: 5, end: &end}
	f.begin(7) // what lies between is from before this stay
	_, v = f.take(time.Now(), &Envelope{Envelope: &wire.Envelope{First: 7, Count: 1, Previous: make([]byte, 32)}})
	require.Equal(t, taken, v)
}

// What is to be written is read without the lock of the stay, which goes on publishing.
func TestWhatIsToBeWrittenStaysAsItWasTaken(t *testing.T) {
	now := time.Now()
	st, _ := begunStay(t, now, new(deafWorld))
	st.journal.ring.changes = changes{make(map[FeedTag]struct{}), func() {}}
	st.Begin(now)
	publish := func(what string) {
		raw := []byte(what)
		st.Published(now, st.head.Next(1, raw), 1, raw, now, nil)
	}
	publish("one")
	budget := int64(1 << 20)
	list, _ := st.Unsaved(now, 0, &budget)
	require.Len(t, list, 1)
	end := bytes.Clone(list[0].Feed.End[:])
	publish("two")
	require.Equal(t, end, list[0].Feed.End[:])
}
