package mesh

import (
	"context"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
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

// holdBack is how long an envelope that is being validated waits before it is passed on.
type holdBack time.Duration

// forward is GossipSub's last validator of a room: it lets envelopes out to the topic mesh. It
// delays large ones that came from their author for a moment; the app has them already. The node's
// own, those that others pass on for their author, and those so small that nobody says whether it
// has them, go on at once.
func (r *Room) forward(ctx context.Context, _ peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
	wait, ok := msg.ValidatorData.(holdBack)
	if !ok {
		return pubsub.ValidationAccept
	}
	t := time.NewTimer(time.Duration(wait))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return pubsub.ValidationAccept
}
