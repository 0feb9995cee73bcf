package presence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

func TestSettingsThatBothStateAreCompared(t *testing.T) {
	ms := func(n uint32) *uint32 { return &n }
	all := &wire.Limits{MaxMessage: 100, GraceMs: ms(10_000), LeewayMs: ms(0)}
	for name, c := range map[string]struct {
		ours   *wire.Limits
		theirs identity.Session
		want   []Event
	}{
		"the same":             {all, identity.Session{MaxMessage: 100, Grace: 10 * time.Second}, nil},
		"nothing stated there": {all, identity.Session{Grace: unstated, Leeway: unstated}, nil},
		"nothing stated here":  {&wire.Limits{MaxMessage: 100}, identity.Session{MaxMessage: 100, Grace: 1, Leeway: 1}, nil},
		"all others": {all, identity.Session{MaxMessage: 99, Grace: 0, Leeway: time.Minute}, []Event{
			SettingDiffers{"p", "max_message", "100", "99"},
			SettingDiffers{"p", "grace", "10s", "0s"},
			SettingDiffers{"p", "leeway", "0s", "1m0s"},
		}},
		"all rates": {
			&wire.Limits{MaxMessage: 1, Rates: &wire.Rates{DirectMessages: 1, DirectBytes: 2, BroadcastMessages: 3, BroadcastBytes: 1 << 40, RoomMessages: 5}},
			identity.Session{Grace: unstated, Leeway: unstated, Rates: &identity.Rates{Room: 50, LargeRoom: 6}},
			[]Event{
				SettingDiffers{"p", "direct_messages", "1", "0"},
				SettingDiffers{"p", "direct_bytes", "2", "0"},
				SettingDiffers{"p", "broadcast_messages", "3", "0"},
				SettingDiffers{"p", "broadcast_bytes", "1099511627776", "0"},
				SettingDiffers{"p", "room_messages", "5", "50"},
				SettingDiffers{"p", "large_room_messages", "0", "6"},
			},
		},
		"the same rates": {
			&wire.Limits{MaxMessage: 1, Rates: &wire.Rates{DirectMessages: 1}},
			identity.Session{Grace: unstated, Leeway: unstated, Rates: &identity.Rates{Direct: identity.Rate{Messages: 1}}}, nil,
		},
		"rates that are not stated": {&wire.Limits{MaxMessage: 1, Rates: &wire.Rates{DirectMessages: 1}}, identity.Session{Grace: unstated, Leeway: unstated}, nil},
	} {
		require.Equal(t, c.want, differing("p", c.ours, c.theirs), name)
	}
}

func TestDurationsTravelInWholeMilliseconds(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		unstated: unstated, 0: 0, 1: 0, time.Millisecond: time.Millisecond, 10 * time.Second: 10 * time.Second,
		1 << 62: (1<<32 - 1) * time.Millisecond,
	} {
		require.Equal(t, want, fromMillis(toMillis(d)), d)
	}
}
