package presence

import (
	"math"
	"strconv"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// unstated stands for a duration that a hello does not state.
const unstated time.Duration = math.MinInt64

// limits returns what this node states of the settings that an app must have in common.
func (x *handshake) limits() *wire.Limits {
	l := &wire.Limits{MaxMessage: uint32(x.cfg.maxMessage), GraceMs: toMillis(x.cfg.grace)}
	if a := x.cfg.authority; a != nil {
		l.LeewayMs = toMillis(a.Leeway())
	}
	return l
}

func toMillis(d time.Duration) *uint32 {
	if d < 0 {
		return nil
	}
	ms := uint32(min(d.Milliseconds(), math.MaxUint32))
	return &ms
}

func fromMillis(ms *uint32) time.Duration {
	if ms == nil {
		return unstated
	}
	return time.Duration(*ms) * time.Millisecond
}

// differing returns an event for each setting in which a peer differs, if both sides state it.
func differing(p peer.ID, ours *wire.Limits, theirs identity.Session) (out []Event) {
	if a, b := int(ours.MaxMessage), theirs.MaxMessage; b != 0 && a != b {
		out = append(out, SettingDiffers{p, "max_message", strconv.Itoa(a), strconv.Itoa(b)})
	}
	for _, s := range []struct {
		name         string
		ours, theirs time.Duration
	}{
		{"grace", fromMillis(ours.GraceMs), theirs.Grace},
		{"leeway", fromMillis(ours.LeewayMs), theirs.Leeway},
	} {
		if s.ours >= 0 && s.theirs >= 0 && s.ours != s.theirs {
			out = append(out, SettingDiffers{p, s.name, s.ours.String(), s.theirs.String()})
		}
	}
	return out
}
