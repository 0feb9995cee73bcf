package mesh

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

func TestAMemberKnownByItsGoodbyeAloneHasNoVoice(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		here, there := f.join(0, "ops"), f.join(1, "ops") // and they never meet
		_, err := there.PublishText(t.Context(), "unheard")
		require.NoError(t, err)
		sealed := captured(t, there, "parked")
		goodbye, err := there.signEntry(there.own.statement, false, there.own.sequence+1, "")
		require.NoError(t, err)
		e, err := here.openEnvelope(sealed)
		require.NoError(t, err)
		require.Greater(t, e.First, uint64(1), "the feed begins with the roster entry")
		here.receive(there.mesh.host.ID(), e, gossiped)
		here.mu.Lock()
		here.neighbours[there.mesh.host.ID()] = new(neighbour)
		here.mu.Unlock()
		require.NoError(t, here.hearRoster(there.mesh.host.ID(), &wire.RoomFrame_Roster{Entries: [][]byte{goodbye.sealed}, Last: true}))
		quiet(t, here, 2*parkedLife)
	})
}
