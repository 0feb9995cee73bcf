package mesh

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// A neighbour need not send beats. One that answers what it is asked is not silent.
func TestANeighbourThatAnswersAQuestionHasSpoken(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		read(t, rooms[0], 1)
		there := f.net.ID(1)
		for range 20 { // beats come seldom
			time.Sleep(time.Second)
			before := f.at[0].pulses.spokeAt(there)
			o := rooms[0].exchange(stay.Pull{From: there})
			require.NoError(t, o.Err)
			require.Greater(t, f.at[0].pulses.spokeAt(there), before)
		}
	})
}
