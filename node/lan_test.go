//go:build linux

package node_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/netlab"
	"github.com/starling-mesh/starling/node"
)

// The tests in this file run nodes as processes in network namespaces, where multicast is real and
// reaches nobody else.

// lanHelper makes the test binary run as a node with nothing configured but its user. It prints its
// events as lines of JSON, and closes when its input ends. It sends each line of input to the user
// in its first word.
func lanHelper(arg string) error {
	user, dir, _ := strings.Cut(arg, " ")
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n, err := node.New(node.WithLogger(log), node.WithDataDir(dir))
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.Login(context.Background(), user); err != nil {
		return err
	}
	fmt.Println(`{"type":"started"}`)
	go func() {
		for ev, err := range n.Events(context.Background()) {
			if err != nil {
				return
			}
			line, _ := json.Marshal(ev)
			fmt.Println(string(line))
		}
	}()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		to, text, _ := strings.Cut(in.Text(), " ")
		if _, err := n.SendText(context.Background(), to, text); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	return in.Err()
}

func init() { helper = lanHelper }

// machine is a node on a lab's machine, and how far its output has been read.
type machine struct {
	*netlab.Process
	t    *testing.T
	next int
}

func runOn(t *testing.T, at *netlab.Node, user string) *machine {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return &machine{t: t, Process: at.Start([]string{self}, helperEnv+"="+user+" "+t.TempDir())}
}

// event has the fields that the tests look at.
type event struct {
	Type string
	Node struct {
		User string
		Peer string
	}
	Addr  string
	Addrs []string
	Text  string
	State string
}

// until reads events until one fits, and drops the others.
func (m *machine) until(what string, fits func(event) bool) event {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		line, err := m.Line(ctx, m.next)
		if err != nil {
			m.t.Fatalf("%s: %v", what, err)
		}
		m.next++
		var ev event
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			m.t.Fatalf("%q: %v", line, err)
		}
		if fits(ev) {
			return ev
		}
	}
}

// sees waits until the node knows that user is there.
func (m *machine) sees(user string) event {
	m.t.Helper()
	return m.until(user+" is up", func(ev event) bool {
		return (ev.Type == node.TypePeerUp || ev.Type == node.TypePeerChanged) && ev.Node.User == user
	})
}

func (m *machine) loses(user string) {
	m.t.Helper()
	m.until(user+" is down", func(ev event) bool { return ev.Type == node.TypePeerDown && ev.Node.User == user })
}

// turns waits until the node's own connection has that state.
func (m *machine) turns(to node.ConnectionState) {
	m.t.Helper()
	m.until("state "+string(to), func(ev event) bool { return ev.Type == node.TypeConnectionChanged && ev.State == string(to) })
}

// tells makes the node send text to user at to.
func (m *machine) tells(to *machine, user, text string) {
	m.t.Helper()
	require.NoError(m.t, m.Send(user+" "+text))
	to.until(text, func(ev event) bool { return ev.Type == "direct_message" && ev.Text == text })
}

func TestNodesOnALANFindEachOtherAndComeBackFromACableBeingPulled(t *testing.T) {
	t.Parallel() // these tests take real seconds
	lab := netlab.New(t)
	am, bm := lab.Node("alice"), lab.Node("bob")
	alice, bob := runOn(t, am, "alice"), runOn(t, bm, "bob")
	begun := time.Now()
	alice.sees("bob")
	bob.sees("alice")
	t.Logf("found after %v", time.Since(begun))
	alice.tells(bob, "bob", "hello")

	bm.Unplug()
	begun = time.Now()
	bob.turns(node.Disconnected)
	require.Less(t, time.Since(begun), 5*time.Second, "it has lost its carrier, which shows before any connection ends")
	alice.loses("bob")
	alice.turns(node.Disconnected)
	bob.loses("alice")
	lost := time.Since(begun)
	t.Logf("lost after %v", lost)
	require.Less(t, lost, 20*time.Second, "TCP keep-alives notice what QUIC's would after 30 s")
	bm.Plug()
	begun = time.Now()
	alice.sees("bob")
	alice.turns(node.Reconnected)
	bob.sees("alice")
	bob.turns(node.Reconnected)
	t.Logf("back after %v", time.Since(begun))
	bob.tells(alice, "alice", "back")
}

func TestAKilledProcessIsNoticedAtOnceOnALAN(t *testing.T) {
	t.Parallel() // these tests take real seconds
	lab := netlab.New(t)
	alice, bob := runOn(t, lab.Node("alice"), "alice"), runOn(t, lab.Node("bob"), "bob")
	alice.sees("bob")
	bob.sees("alice")
	begun := time.Now()
	require.NoError(t, bob.Kill())
	alice.loses("bob")
	require.Less(t, time.Since(begun), 5*time.Second)
}

func TestAFrozenProcessIsGivenUpAndTakenBackWhenItGoesOn(t *testing.T) {
	t.Parallel() // these tests take real seconds
	lab := netlab.New(t)
	alice, bob := runOn(t, lab.Node("alice"), "alice"), runOn(t, lab.Node("bob"), "bob")
	alice.sees("bob")
	bob.sees("alice")
	require.NoError(t, bob.Pause())
	begun := time.Now()
	alice.loses("bob")
	t.Logf("given up after %v", time.Since(begun))
	require.Less(t, time.Since(begun), 20*time.Second)
	require.NoError(t, bob.Resume())
	begun = time.Now()
	alice.sees("bob")
	t.Logf("back after %v", time.Since(begun))
	bob.tells(alice, "alice", "good morning")
	require.Contains(t, bob.Stderr(), "slept=true")
}

func TestANewAddressIsToldAndANodeWithoutNetworkTakesItUp(t *testing.T) {
	t.Parallel() // these tests take real seconds
	lab := netlab.New(t)
	am, bm := lab.Node("alice"), lab.Node("bob")
	ip := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		code, err := am.Start(append([]string{"ip"}, args...)).Wait(ctx)
		require.NoError(t, err)
		require.Zero(t, code, "ip %v", args)
	}
	ip("addr", "flush", "dev", "eth0") // like a laptop out of reach of every network
	alice, bob := runOn(t, am, "alice"), runOn(t, bm, "bob")
	alice.until("the start", func(ev event) bool { return ev.Type == "started" })
	alice.turns(node.Failed)
	begun := time.Now()
	ip("addr", "add", "10.77.0.99/24", "dev", "eth0")
	ip("route", "add", "224.0.0.0/4", "dev", "eth0")
	told, met, connected := false, false, false // in any order
	alice.until("the new address, and bob at it", func(ev event) bool {
		connected = connected || ev.State == string(node.Connected)
		told = told || ev.Type == node.TypeAddrsChanged && strings.Contains(fmt.Sprint(ev.Addrs), "/ip4/10.77.0.99/tcp/")
		met = met || ev.Node.User == "bob"
		return told && met && connected
	})
	bob.sees("alice")
	t.Logf("told after %v", time.Since(begun))
	require.Less(t, time.Since(begun), 15*time.Second, "libp2p itself takes a minute")

	require.NoError(t, alice.CloseInput())
	begun = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	code, err := alice.Wait(ctx)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Less(t, time.Since(begun), 3*time.Second, "Close with mDNS and real sockets takes 2 s at most")
	bob.loses("alice")
}
