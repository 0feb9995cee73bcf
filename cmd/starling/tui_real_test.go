package main

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/node"
)

// realDesk is a desk whose session is a real one, on loopback.
type realDesk struct {
	*desk
	mu    sync.Mutex // guards the desk
	lines chan session.Typed
	addr  string
}

func (r *realDesk) Show(event session.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.happens(event)
	return nil
}

func (r *realDesk) Shown(string) (identity.Login, bool) { return identity.Login{}, false }
func (r *realDesk) Guard(f func())                      { f() }

// sitDown starts a chat with a screen but no terminal.
func sitDown(t *testing.T, user string, opts ...node.Option) *realDesk {
	t.Helper()
	r := &realDesk{desk: &desk{t: t}, lines: make(chan session.Typed, 64)}
	r.ui = newTUI(func(l session.Typed) bool {
		r.lines <- l
		return true
	}, func() {})
	r.size(120, 40)
	n, err := node.New(append(slices.Clip(opts), node.WithoutMDNS(), node.WithListen("/ip4/127.0.0.1/tcp/0"))...)
	require.NoError(t, err)
	r.addr = n.Addrs()[0].String()
	c := session.New(n, r, nil)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.Run(ctx, user, session.Ready{Rooms: []string{"lobby"}}, func(context.Context) <-chan session.Typed { return r.lines })
	}()
	t.Cleanup(func() {
		stop()
		<-done
		require.NoError(t, c.Close())
	})
	r.until("you are in lobby")
	return r
}

// do runs f as the user in front of the screen.
func (r *realDesk) do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *realDesk) seen() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.screen()
}

// until waits until the screen shows something.
func (r *realDesk) until(what string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return strings.Contains(r.seen(), what) }, patience, 5*time.Millisecond, "%q is not on the screen", what)
}

// says types a line and waits for its mark.
func (r *realDesk) says(text, mark string) {
	r.t.Helper()
	r.do(func() { r.types(text + "\n") })
	require.Eventually(r.t, func() bool {
		_, after, typed := strings.Cut(r.seen(), text)
		return typed && strings.Contains(after, mark)
	}, patience, 5*time.Millisecond, "%q is not marked with %s", text, mark)
}

// texts returns the direct messages that a chat has received.
func (k *talker) texts() (all []string) {
	for _, ev := range k.seen("direct_message") {
		all = append(all, ev.Text)
	}
	return all
}

func TestAStrangerWhoComesLeavesAndComesBackGetsNoConversation(t *testing.T) {
	hers, his := t.TempDir(), t.TempDir()
	bob := sitDown(t, "bob", node.WithDataDir(t.TempDir()))
	come := func(dir string) *talker {
		k := chatHere(t, "--user", "alice", "--data", dir, "--peer", bob.addr)
		k.expect("member_joined", member("bob"))
		return k
	}
	leave := func(k *talker) {
		k.in.Close()
		require.Equal(t, cli.ExitOK, k.ended())
	}
	got := func(k *talker, text string) {
		t.Helper()
		require.Equal(t, text, k.expect("direct_message", nil).Text)
	}
	alice := come(hers)
	alice.say("/msg bob hi there")
	bob.until("DIRECT")
	bob.do(func() { bob.press(ctrl('n')) })
	bob.until("hi there")
	bob.says("hello", "✓✓")
	got(alice, "hello")
	stranger := come(his)
	bob.says("who is this?", "✓✓")
	got(alice, "who is this?")
	leave(stranger)
	require.Empty(t, stranger.texts())
	stranger = come(his)
	bob.says("are you still there?", "✓✓")
	got(alice, "are you still there?")
	leave(alice)
	bob.says("my secret", "✗")
	require.Contains(t, bob.seen(), "alice#"+stranger.seen("ready")[0].Key)
	leave(stranger)
	require.Empty(t, stranger.texts())
	stranger = come(his)
	stranger.say("/msg bob it is me, alice")
	stranger.result(1)
	bob.says("my other secret", "✗")

	alice = come(hers)
	bob.says("is it you?", "✓✓")
	got(alice, "is it you?")
	leave(stranger)
	require.Empty(t, stranger.texts())
}
