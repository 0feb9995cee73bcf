//go:build linux

package netlab

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a chat may take to report something, unless the test measures that time.
const patience = 60 * time.Second

// buildDir holds the command while the tests run; TestMain removes it.
var buildDir string

// command builds the starling command, once and without the race detector: these tests are about
// processes, not about their code.
var command = sync.OnceValues(func() (path string, err error) {
	// go test caches a result while the files that the test has looked at are unchanged, but the
	// compiler looks at them in its own process.
	_ = filepath.WalkDir("../..", func(path string, _ fs.DirEntry, _ error) error {
		if filepath.Ext(path) == ".go" {
			_, _ = os.Stat(path) // the compiler reports missing files
		}
		return nil
	})
	if buildDir, err = os.MkdirTemp("", "starling-"); err != nil {
		return "", err
	}
	path = filepath.Join(buildDir, "starling")
	return path, run("go", "build", "-race=false", "-o", path, "github.com/starling-mesh/starling/cmd/starling")
})

// event has the fields of a line of `starling chat --json` that the tests check.
type event struct {
	Type    string
	Seq     uint64 `json:",string"`
	Time    time.Time
	Room    string
	User    string // ready
	Key     string // ready
	Peer    string // ready
	Addrs   []string
	From    struct{ User, Key, Peer string }
	Member  struct{ User, Key, Peer string }
	Text    string
	Feed    string // message, gap_lost
	Line    int    // input line; sent, error
	ID      uint64 `json:",string"`
	OK      bool
	To      string
	Error   string
	Reason  string
	State   string // status
	Source  string // status
	Code    any    // a number in bye, a word in error
	encoded string
}

// chat is a running `starling chat --json` and what it has reported so far.
type chat struct {
	*Process
	t       *testing.T
	user    string
	ready   event
	started time.Time
	lines   int // sent to it
	events  []event
}

// startChat starts a chat for user on a node and waits until it is ready. home is where the system
// keeps the user's configuration; "" means a new user.
func startChat(t *testing.T, n *Node, user, home string, args ...string) *chat {
	t.Helper()
	c := launchChat(t, n, user, home, args...)
	c.ready = c.until("ready", func(e event) bool { return e.Type == "ready" })
	require.Equal(t, user, c.ready.User)
	require.Len(t, c.events, 1, "ready comes first")
	return c
}

// launchChat starts a chat without waiting for it.
func launchChat(t *testing.T, n *Node, user, home string, args ...string) *chat {
	t.Helper()
	starling, err := command()
	require.NoError(t, err)
	if home == "" {
		home = t.TempDir()
	}
	argv := append([]string{starling, "chat", "--json", "--user", user}, args...)
	started := time.Now()
	p := n.Start(argv, "HOME="+home, "XDG_CONFIG_HOME="+home)
	return &chat{Process: p, t: t, user: user, started: started}
}

// say types a line.
func (c *chat) say(format string, args ...any) {
	c.t.Helper()
	require.NoError(c.t, c.Send(fmt.Sprintf(format, args...)))
	c.lines++
}

// until waits for the first event, among all that the chat has ever reported, for which is returns
// true.
func (c *chat) until(what string, is func(event) bool) event {
	c.t.Helper()
	return c.gather(what, 1, is)[0]
}

// gather waits until is returns true for n events, and returns them in the order in which they were
// reported.
func (c *chat) gather(what string, n int, is func(event) bool) []event {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var found []event
	for i := 0; ; i++ {
		if i == len(c.events) {
			if err := c.read(ctx); err != nil {
				c.t.Fatalf("%s: %d of %d × %q: %v; it told last:\n%s\nstandard error:\n%s",
					c.user, len(found), n, what, err, c.last(20), tail(c.Stderr(), 4<<10))
			}
		}
		if is(c.events[i]) {
			if found = append(found, c.events[i]); len(found) == n {
				return found
			}
		}
	}
}

// read waits for one more event.
func (c *chat) read(ctx context.Context) error {
	line, err := c.Line(ctx, len(c.events))
	if err != nil {
		return err
	}
	e := event{encoded: line}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	c.events = append(c.events, e)
	return nil
}

// told returns the events so far for which is returns true.
func (c *chat) told(is func(event) bool) []event {
	now, cancel := context.WithCancel(c.t.Context())
	cancel() // so that read does not wait
	for c.read(now) == nil {
	}
	var found []event
	for _, e := range c.events {
		if is(e) {
			found = append(found, e)
		}
	}
	return found
}

// exits waits until the process has ended, which it must within limit from now, and checks its last
// event.
func (c *chat) exits(limit time.Duration, code int, reason string) {
	c.t.Helper()
	start := time.Now()
	got, err := c.Wait(within(c.t, patience))
	took := time.Since(start)
	require.NoError(c.t, err)
	require.Equal(c.t, code, got, "exit code of %s, who told last:\n%s\nstandard error:\n%s", c.user, c.last(5), c.Stderr())
	require.LessOrEqual(c.t, took, limit, "%s has ended, but late", c.user)
	c.told(isType("bye")) // reads to the end
	bye := c.events[len(c.events)-1]
	require.Equal(c.t, "bye", bye.Type, "the last words of %s", c.user)
	require.Equal(c.t, reason, bye.Reason)
	require.EqualValues(c.t, code, bye.Code)
	c.t.Logf("%s ended in %v (%s)", c.user, took.Round(time.Millisecond), reason)
}

// last returns the last n events that the chat reported, without messages and results.
func (c *chat) last(n int) string {
	var told []string
	for i, e := range c.events {
		if (e.Type != "message" && e.Type != "sent") || i == len(c.events)-1 {
			told = append(told, e.encoded)
		}
	}
	return strings.Join(told[max(0, len(told)-n):], "\n")
}

func isType(typ string) func(event) bool {
	return func(e event) bool { return e.Type == typ }
}

func isMessage(from, text string) func(event) bool {
	return func(e event) bool { return e.Type == "message" && e.From.User == from && e.Text == text }
}

func isDirect(from, text string) func(event) bool {
	return func(e event) bool { return e.Type == "direct_message" && e.From.User == from && e.Text == text }
}

func isJoined(user string) func(event) bool {
	return func(e event) bool { return e.Type == "member_joined" && e.Member.User == user }
}

func isLeft(user string) func(event) bool {
	return func(e event) bool { return e.Type == "member_left" && e.Member.User == user }
}

func isSilent(user string) func(event) bool {
	return func(e event) bool { return e.Type == "member_silent" && e.Member.User == user }
}

// said types a line and waits for the result of sending it.
func (c *chat) said(format string, args ...any) event {
	c.t.Helper()
	c.say(format, args...)
	line := c.lines
	return c.until(fmt.Sprintf("result of line %d", line), func(e event) bool { return e.Type == "sent" && e.Line == line })
}

// meet waits until each of the chats has reported all others, and logs how long after the last
// start that was.
func meet(t *testing.T, chats ...*chat) {
	t.Helper()
	last := chats[0].started
	for _, c := range chats {
		if c.started.After(last) {
			last = c.started
		}
		for _, other := range chats {
			if other != c {
				e := c.until(other.user+" joined", isJoined(other.user))
				require.Equal(t, other.ready.Peer, e.Member.Peer)
				require.Equal(t, other.ready.Key, e.Member.Key)
			}
		}
	}
	t.Logf("%d chats met within %v of the start of the last", len(chats), time.Since(last).Round(time.Millisecond))
}

// talk makes every chat say n lines, and requires that each other chat reports each of them once
// and in order.
func talk(t *testing.T, n int, chats ...*chat) {
	t.Helper()
	start := time.Now()
	for i := range n {
		for _, c := range chats {
			c.say("%s says %d", c.user, i)
		}
	}
	for _, c := range chats {
		saying := func(e event) bool { return e.Type == "message" && strings.Contains(e.Text, " says ") }
		want := make(map[string]int) // the next number of each sender
		for _, e := range c.gather("message", n*(len(chats)-1), saying) {
			from := e.From.User
			require.Equal(t, fmt.Sprintf("%s says %d", from, want[from]), e.Text, "at %s", c.user)
			want[from]++
		}
		require.NotContains(t, want, c.user, "nobody hears himself")
		require.Len(t, want, len(chats)-1)
		for _, e := range c.gather("result", n, isType("sent")) {
			require.True(t, e.OK, "%s", e.encoded)
		}
	}
	t.Logf("%d messages to %d others each in %v", n*len(chats), len(chats)-1, time.Since(start).Round(time.Millisecond))
}

func TestEventsAreReadAsTheChatWritesThem(t *testing.T) {
	var e event
	require.NoError(t, json.Unmarshal([]byte(`{"type":"message","seq":"7","time":"2025-01-02T03:04:05.6Z","room":"ops",
		"from":{"user":"alice","key":"abc","peer":"12D3"},"kind":"text","text":"hi","feed":"ab00","number":"1"}`), &e))
	require.True(t, isMessage("alice", "hi")(e))
	require.False(t, isMessage("bob", "hi")(e))
	require.EqualValues(t, 7, e.Seq)
	require.Equal(t, "ab00", e.Feed)
}
