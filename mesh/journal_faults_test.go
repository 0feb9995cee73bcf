package mesh

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

func TestAMemberKnownByItsGoodbyeAloneHasNoVoice(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		here, there := f.join(0, "ops"), f.join(1, "ops") // and they never meet
		_, err := there.PublishText(t.Context(), "unheard")
		require.NoError(t, err)
		sealed := captured(t, there, "parked")
		goodbye, err := there.signEntry(there.stay.Own().Statement, false, there.stay.Own().Sequence+1, "")
		require.NoError(t, err)
		e, err := here.door.OpenEnvelope(time.Now(), sealed)
		require.NoError(t, err)
		require.Greater(t, e.First, uint64(1), "the feed begins with the roster entry")
		here.receive(time.Now(), there.mesh.host.ID(), e, stay.Gossiped)
		here.mu.Lock()
		here.stay.Subscribed(time.Now(), there.mesh.host.ID())
		here.mu.Unlock()
		require.NoError(t, here.hearRoster(there.mesh.host.ID(), &wire.RoomFrame_Roster{Entries: [][]byte{goodbye.Sealed}, Last: true}))
		quiet(t, here, 2*stay.ParkedLife)
	})
}
