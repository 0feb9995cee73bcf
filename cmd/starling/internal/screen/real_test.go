package screen

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// patience bounds every wait of these tests. Only a test that fails uses it up.
const patience = 30 * time.Second

// realDesk is a desk whose session is a real one, on loopback.
type realDesk struct {
	*desk
	mu    sync.Mutex // guards the desk
	lines chan session.Typed
	node  *node.Node
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
	r.node, r.addr = n, n.Addrs()[0].String()
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

// meets waits until the user's node knows that a visitor is there: the visitor knows it earlier.
func (r *realDesk) meets(v *visitor) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return slices.Contains(r.node.Online(), v.node.Self()) }, patience, 5*time.Millisecond, "%v is not online", v.node.Self())
}

// visitor is another user in the lobby, who has a node and no screen.
type visitor struct {
	t    *testing.T
	node *node.Node
	done chan struct{} // closed when its events have ended

	mu    sync.Mutex
	texts []string // of direct messages
}

// visit makes a node called alice with the keys of a directory, and meets bob in the lobby.
func visit(t *testing.T, dir, addr string) *visitor {
	t.Helper()
	n, err := node.New(node.WithDataDir(dir), node.WithPeers(addr), node.WithoutMDNS(), node.WithListen("/ip4/127.0.0.1/tcp/0"))
	require.NoError(t, err)
	v := &visitor{t: t, node: n, done: make(chan struct{})}
	t.Cleanup(v.leave)
	go func() {
		defer close(v.done)
		for ev, err := range n.Events(context.Background()) {
			if m, ok := ev.(*mesh.DirectMessage); ok && err == nil {
				v.mu.Lock()
				v.texts = append(v.texts, string(m.Data))
				v.mu.Unlock()
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, n.Login(ctx, "alice"))
	room, err := n.Join(ctx, "lobby")
	require.NoError(t, err)
	require.NoError(t, room.WaitPeers(ctx, 1))
	return v
}

// say sends bob a message outside rooms.
func (v *visitor) say(text string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	_, err := v.node.SendText(ctx, "bob", text)
	require.NoError(v.t, err)
}

// heard returns the direct messages that have come since it was asked last.
func (v *visitor) heard() (texts []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	texts, v.texts = v.texts, nil
	return texts
}

// got waits for the next direct message, which must be text.
func (v *visitor) got(text string) {
	v.t.Helper()
	var texts []string
	require.Eventually(v.t, func() bool {
		texts = v.heard()
		return len(texts) > 0
	}, patience, 5*time.Millisecond, "%q has not come", text)
	require.Equal(v.t, []string{text}, texts)
}

func (v *visitor) leave() {
	v.t.Helper()
	require.NoError(v.t, v.node.Close())
	<-v.done
}

func TestAStrangerWhoComesLeavesAndComesBackGetsNoConversation(t *testing.T) {
	hers, his := t.TempDir(), t.TempDir()
	bob := sitDown(t, "bob", node.WithDataDir(t.TempDir()))
	come := func(dir string) *visitor {
		v := visit(t, dir, bob.addr)
		bob.meets(v)
		return v
	}
	alice := come(hers)
	alice.say("hi there")
	bob.until("DIRECT")
	bob.do(func() { bob.press(ctrl('n')) })
	bob.until("hi there")
	bob.says("hello", "✓✓")
	alice.got("hello")
	stranger := come(his)
	bob.says("who is this?", "✓✓")
	alice.got("who is this?")
	stranger.leave()
	require.Empty(t, stranger.heard())
	stranger = come(his)
	bob.says("are you still there?", "✓✓")
	alice.got("are you still there?")
	alice.leave()
	bob.says("my secret", "✗")
	require.Contains(t, bob.seen(), "alice#"+stranger.node.Self().Key.Fingerprint())
	stranger.leave()
	require.Empty(t, stranger.heard())
	stranger = come(his)
	stranger.say("it is me, alice")
	bob.says("my other secret", "✗")

	alice = come(hers)
	bob.says("is it you?", "✓✓")
	alice.got("is it you?")
	stranger.leave()
	require.Empty(t, stranger.heard())
}
