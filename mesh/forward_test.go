package mesh

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// copies is how many envelopes all stations have written to peers.
func (f *flock) copies() (n uint64) {
	for _, s := range f.at {
		n += s.Stats().EnvelopeCopies
	}
	return n
}

func TestAMemberPassesOnOnlyWhatItsNeighboursLack(t *testing.T) {
	inBubble(t, 8, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		for _, r := range rooms {
			read(t, r, 7) // all the others have joined
		}
		time.Sleep(3 * time.Second) // the topic mesh forms
		before := f.copies()
		text := strings.Repeat("x", 2<<10)
		_, err := rooms[0].PublishText(t.Context(), text)
		require.NoError(t, err)
		for _, r := range rooms[1:] {
			require.Equal(t, []string{"u0:" + text}, read(t, r, 1))
		}
		time.Sleep(time.Second)
		require.EqualValues(t, 7, f.copies()-before, "one for each other member")
	})
}

func TestAnAppDoesNotWaitForWhatIsPassedOn(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Connect(0, 1)
		f.net.Connect(1, 2)
		rooms := f.joinAll("ops")
		read(t, rooms[1], 2)
		read(t, rooms[2], 2)
		_, err := rooms[0].PublishText(t.Context(), "the first takes longer, where its author is no neighbour")
		require.NoError(t, err)
		read(t, rooms[1], 1)
		read(t, rooms[2], 1)
		time.Sleep(3 * time.Second)
		text := strings.Repeat("x", 2<<10)
		start := time.Now()
		_, err = rooms[0].PublishAsync(t.Context(), []byte(text), AsText())
		require.NoError(t, err)
		require.Equal(t, []string{"u0:" + text}, read(t, rooms[1], 1))
		require.Less(t, time.Since(start), forwardDelay, "at the neighbour")
		require.Equal(t, []string{"u0:" + text}, read(t, rooms[2], 1))
		require.Less(t, time.Since(start), forwardDelay+20*time.Millisecond, "at the member behind it")
	})
}
