//go:build linux

package netlab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// status asks for the status of a user and returns the answer.
func (c *chat) status(user string) event {
	c.t.Helper()
	asked := time.Now()
	c.say("/status %s", user)
	line := c.lines
	e := c.until("status of "+user, func(e event) bool { return e.Type == "status" && e.Line == line })
	require.True(c.t, e.OK, "%s", e.encoded)
	require.LessOrEqual(c.t, time.Since(asked), 6*time.Second, "an answer within 5 s, on a busy machine")
	return e
}

// becomes asks until the user has the given state within limit of start, and logs how long that
// took. None of the states before it may be in never.
func (c *chat) becomes(user, state string, start time.Time, limit time.Duration, never ...string) {
	c.t.Helper()
	for {
		e := c.status(user)
		if e.State == state {
			c.t.Logf("%s is %s (%s) after %v", user, state, e.Source, time.Since(start).Round(time.Millisecond))
			require.LessOrEqual(c.t, time.Since(start), limit, "%s became %s, but late", user, state)
			return
		}
		require.NotContains(c.t, never, e.State, "%s", e.encoded)
		require.LessOrEqual(c.t, time.Since(start), limit, "%s is not %s: %s", user, state, e.encoded)
		time.Sleep(100 * time.Millisecond) // between two questions
	}
}

func TestStatusOfRealProcesses(t *testing.T) {
	lab := New(t)
	alice := startChat(t, lab.Node("alice"), "alice", "")
	bob := startChat(t, lab.Node("bob"), "bob", "")
	carol := startChat(t, lab.Node("carol"), "carol", "")
	there := lab.Node("dave")
	dave := startChat(t, there, "dave", "")
	meet(t, alice, bob, carol, dave)

	alice.becomes("alice", "online", time.Now(), time.Second)
	for _, user := range []string{"bob", "carol", "dave"} {
		alice.becomes(user, "online", time.Now(), 5*time.Second)
	}

	bob.say("/quit")
	quit := time.Now()
	alice.becomes("bob", "offline", quit, 2*time.Second)
	require.Equal(t, "goodbye", alice.status("bob").Source)

	killed := time.Now()
	require.NoError(t, carol.Kill())
	alice.becomes("carol", "unreachable", killed, 10*time.Second)
	for time.Since(killed) < 20*time.Second {
		require.NotEqual(t, "online", alice.status("carol").State, "not again")
		time.Sleep(500 * time.Millisecond)
	}

	there.Unplug()
	cut := time.Now()
	alice.becomes("dave", "unreachable", cut, 15*time.Second, "offline")
	for time.Since(cut) < 25*time.Second {
		require.Equal(t, "unreachable", alice.status("dave").State)
		time.Sleep(500 * time.Millisecond)
	}
	there.Plug()
	alice.becomes("dave", "online", time.Now(), 30*time.Second, "offline")
	dave.becomes("alice", "online", time.Now(), 10*time.Second, "offline")
}
