package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/presence"
)

func TestStatusIsToldInWords(t *testing.T) {
	bob := login(t, "bob", 1)
	in := Input{line: 1, Verb: "status", Name: "bob"}
	for want, s := range map[string]presence.Status{
		"  bob is online (last heard from 1.2s ago)":                   {State: presence.Online, Login: bob, Source: presence.Connected, Age: 1234 * time.Millisecond},
		"  bob is online (asked just now)":                             {State: presence.Online, Login: bob, Source: presence.Probed},
		"  bob is online (that is you)":                                {State: presence.Online, Login: bob, Source: presence.Self},
		"  bob is offline (logged out 3s ago)":                         {State: presence.Offline, Login: bob, Source: presence.Goodbye, Age: 3 * time.Second},
		"  bob is offline (nobody knows of a log-in)":                  {Source: presence.Stored},
		"  bob is unreachable (logged in 9s ago, and does not answer)": {State: presence.Unreachable, Login: bob, Source: presence.Stored, Age: 9 * time.Second},
		"  bob is unreachable (not all who might know can be reached)": {State: presence.Unreachable, Source: presence.Nothing},
	} {
		require.Equal(t, want+"\n", shown(t, statusOf(in, s, nil)))
	}
	require.Equal(t, "! not logged in\n", shown(t, statusOf(in, presence.Status{}, presence.ErrNotLoggedIn)))
}
