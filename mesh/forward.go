package mesh

import (
	"context"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

const (
	// forwardDelay is how long a member keeps a large envelope that its author sent it before it
	// passes it on. The author has sent it to its other neighbours as well, and each that has it
	// says so (IDONTWANT) and then costs no further copy. Without the delay every member got 2.5 to
	// 3 copies of everything.
	forwardDelay = 10 * time.Millisecond
	// maxForwardDelay bounds the delay if there is a queue on the way. By then GossipSub has not
	// begun to repair: it does that on its heartbeats.
	maxForwardDelay = 200 * time.Millisecond
)

// forward is GossipSub's last validator of a room: it lets envelopes out to the topic mesh. It
// delays those of others for a moment; the app has them already.
func (r *Room) forward(ctx context.Context, from peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
	e, ok := msg.ValidatorData.(*stay.Envelope)
	if !ok || e.Peer != from || e.Size < pubsub.GossipSubIDontWantMessageThreshold {
		// It is the node's own; or others pass it on for its author; or it is so small that nobody
		// says whether it has it.
		return pubsub.ValidationAccept
	}
	t := time.NewTimer(min(forwardDelay+2*e.Late, maxForwardDelay))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return pubsub.ValidationAccept
}
