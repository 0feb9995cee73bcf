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

// forward is GossipSub's last validator of a room: it lets envelopes out to the topic mesh. It
// delays those of others for a moment; the app has them already.
func (r *Room) forward(ctx context.Context, from peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
	e, ok := msg.ValidatorData.(*envelope)
	if !ok || e.peer != from || e.size < pubsub.GossipSubIDontWantMessageThreshold {
		// It is the node's own; or others pass it on for its author; or it is so small that nobody
		// says whether it has it.
		return pubsub.ValidationAccept
	}
	t := time.NewTimer(min(forwardDelay+2*e.late, maxForwardDelay))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return pubsub.ValidationAccept
}

// transit estimates how much of an envelope's way it spent in queues: how much longer it took than
// the fastest one of its sender. The two clocks need not agree. The zero value knows no envelope.
type transit struct {
	known   bool
	fastest time.Duration
	// told is the shortest time between what the sender calls sent and when the envelope was
	// published, according to the ages that neighbours stated for fetched envelopes.
	heard bool
	told  time.Duration
}

// before reports whether what the sender calls sent was certainly before a time here.
func (t *transit) before(sent, at time.Time) bool { return t.known && sent.Add(t.fastest).Before(at) }

// onItsWay returns how long an envelope was under way, or more or less by the difference of the
// clocks. A sender's clock may show anything; the bound keeps differences of results from
// overflowing.
func onItsWay(sent, came time.Time) time.Duration {
	const bound = 100 * 365 * 24 * time.Hour
	return min(max(came.Sub(sent), -bound), bound)
}

// fetched takes an envelope's age as a neighbour stated it: the envelope was published at came.
func (t *transit) fetched(sent, came time.Time) {
	if took := onItsWay(sent, came); !t.heard || took < t.told {
		t.heard, t.told = true, took
	}
}

func (t *transit) late(sent, came time.Time) time.Duration {
	took := onItsWay(sent, came)
	if !t.known || took < t.fastest {
		t.known, t.fastest = true, took
	}
	return took - t.fastest
}
