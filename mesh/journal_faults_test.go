package mesh

import (
	"strings"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsub_pb "github.com/libp2p/go-libp2p-pubsub/pb"
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
		goodbye, err := there.signEntry(there.stay.Own().Statement, false, there.stay.Own().Sequence+1, "", 0)
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

// An envelope whose sender is not known yet waits for its entry while GossipSub passes it on. Only
// the race detector can see what this test is about.
func TestAnEnvelopeIsPassedOnWhileItWaitsForItsSender(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		here, there := f.join(0, "ops"), f.join(1, "ops") // and they never meet
		from, topic := there.mesh.host.ID(), topicName(here.tag)
		msg := &pubsub.Message{Message: &pubsub_pb.Message{Data: captured(t, there, strings.Repeat("x", pubsub.GossipSubIDontWantMessageThreshold)), Topic: &topic}}
		require.Equal(t, pubsub.ValidationAccept, here.mesh.validate(t.Context(), from, msg))
		require.Equal(t, 1, here.inside().Parked)
		var passed sync.WaitGroup
		passed.Go(func() { here.forward(t.Context(), from, msg) })
		there.mu.Lock()
		entry := there.stay.Own().Sealed
		there.mu.Unlock()
		here.mu.Lock()
		here.stay.Subscribed(time.Now(), from)
		here.mu.Unlock()
		require.NoError(t, here.hearRoster(from, &wire.RoomFrame_Roster{Entries: [][]byte{entry}, Last: true}))
		passed.Wait()
		require.Zero(t, here.inside().Parked)
	})
}
