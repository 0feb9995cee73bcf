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
	if r := x.cfg.rates; r != nil {
		l.Rates = &wire.Rates{
			DirectMessages: uint64(r.Direct.Messages), DirectBytes: uint64(r.Direct.Bytes),
			BroadcastMessages: uint64(r.Broadcast.Messages), BroadcastBytes: uint64(r.Broadcast.Bytes),
			RoomMessages: uint64(r.Room), LargeRoomMessages: uint64(r.LargeRoom),
		}
	}
	return l
}

// toRates returns the rates that a hello states; nil: none.
func toRates(r *wire.Rates) *identity.Rates {
	if r == nil {
		return nil
	}
	n := func(v uint64) int { return int(min(v, 1<<62)) }
	return &identity.Rates{
		Direct:    identity.Rate{Messages: n(r.DirectMessages), Bytes: n(r.DirectBytes)},
		Broadcast: identity.Rate{Messages: n(r.BroadcastMessages), Bytes: n(r.BroadcastBytes)},
		Room:      n(r.RoomMessages), LargeRoom: n(r.LargeRoomMessages),
	}
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

func sameRates(a, b *identity.Rates) bool { return a == b || a != nil && b != nil && *a == *b }

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
	a, b := toRates(ours.Rates), theirs.Rates
	if a == nil || b == nil {
		return out
	}
	for _, s := range []struct {
		name         string
		ours, theirs int
	}{
		{"direct_messages", a.Direct.Messages, b.Direct.Messages},
		{"direct_bytes", a.Direct.Bytes, b.Direct.Bytes},
		{"broadcast_messages", a.Broadcast.Messages, b.Broadcast.Messages},
		{"broadcast_bytes", a.Broadcast.Bytes, b.Broadcast.Bytes},
		{"room_messages", a.Room, b.Room},
		{"large_room_messages", a.LargeRoom, b.LargeRoom},
	} {
		if s.ours != s.theirs {
			out = append(out, SettingDiffers{p, s.name, strconv.Itoa(s.ours), strconv.Itoa(s.theirs)})
		}
	}
	return out
}
