package mesh

import (
	"context"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// forwardDelay is how long a member keeps a large envelope that its author sent it before it passes it on. The
	// author has sent it to its other neighbours as well, and whoever has it says so (IDONTWANT): it then costs no
	// further copy. Without the delay every member got 2.5 to 3 copies of everything.
	forwardDelay = 10 * time.Millisecond
	// maxForwardDelay bounds the delay when there is a queue on the way. In that time GossipSub has not begun to
	// repair: it does on its heartbeats.
	maxForwardDelay = 200 * time.Millisecond
)

// forward is GossipSub's last validator of a room: it lets envelopes out to the topic mesh. Those of others it keeps
// for a moment; the app has them already.
func (r *Room) forward(ctx context.Context, from peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
	e, ok := msg.ValidatorData.(*envelope)
	if !ok || e.peer != from || e.size < pubsub.GossipSubIDontWantMessageThreshold {
		// The node's own; or of an author that has others pass it on; or so small that nobody says whether it has it.
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

// transit tells how much of an envelope's way it spent in queues: what it took longer than the fastest one of its
// sender. The two clocks need not agree. The zero value knows of none.
type transit struct {
	known   bool
	fastest time.Duration
	// told is the least that lay between what the sender called sent and when it was published by the ages that neighbours told of
	// what was fetched.
	heard bool
	told  time.Duration
}

// before reports whether what the sender calls sent was surely sent before a time here.
func (t *transit) before(sent, at time.Time) bool { return t.known && sent.Add(t.fastest).Before(at) }

// toldBefore reports whether what the sender calls sent was published before a time here, by the ages that neighbours have told.
func (t *transit) toldBefore(sent, at time.Time) bool { return t.heard && sent.Add(t.told).Before(at) }

// fetched takes the age of an envelope that a neighbour has told: it was published when it came.
func (t *transit) fetched(sent, came time.Time) {
	if took := came.Sub(sent); !t.heard || took < t.told {
		t.heard, t.told = true, took
	}
}

// published is when an envelope was published that came by gossip, as far as can be told: as much earlier as it took longer than others
// of its sender, or by the ages of those.
func (t *transit) published(sent, came time.Time, late time.Duration) time.Time {
	if t.heard {
		late = max(late, came.Sub(sent)-t.told)
	}
	return came.Add(-min(late, maxGossipAge))
}

func (t *transit) late(sent, came time.Time) time.Duration {
	took := came.Sub(sent)
	if !t.known || took < t.fastest {
		t.known, t.fastest = true, took
	}
	return took - t.fastest
}
