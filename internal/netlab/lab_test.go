//go:build linux

package netlab

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// within returns a context for something that should take milliseconds and must not take longer
// than d.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, errors.New("not within "+d.String()))
	t.Cleanup(cancel)
	return ctx
}

// wantLine requires that line i of the output arrives and equals want.
func wantLine(t *testing.T, p *Process, i int, want string) {
	t.Helper()
	got, err := p.Line(within(t, 20*time.Second), i)
	require.NoError(t, err, "line %d of %s; it says: %s", i, p.node, p.Stderr())
	require.Equal(t, want, got, "line %d of %s", i, p.node)
}

// wantSilence requires that line i does not arrive for a while.
func wantSilence(t *testing.T, p *Process, i int) {
	t.Helper()
	got, err := p.Line(within(t, 400*time.Millisecond), i)
	require.Error(t, err, "line %d of %s is there: %q", i, p.node, got)
}

// conversation starts an echo server on one node and a client for it on another.
func conversation(t *testing.T, lab *Lab) (server, client *Process) {
	alice, bob := lab.Node("alice"), lab.Node("bob")
	server = alice.helper(t, "echo "+alice.Addr()+":4001")
	wantLine(t, server, 0, "ready")
	client = bob.helper(t, "talk "+alice.Addr()+":4001")
	wantLine(t, client, 0, "ready")
	return server, client
}

func TestPulledCableStopsTrafficAndPluggingItInLetsItGoOn(t *testing.T) {
	lab := New(t)
	_, client := conversation(t, lab)
	require.NoError(t, client.Send("one"))
	wantLine(t, client, 1, "one")

	lab.nodes[1].Unplug()
	lab.nodes[1].Unplug() // harmless
	require.NoError(t, client.Send("two"))
	wantSilence(t, client, 2)

	lab.nodes[1].Plug()
	wantLine(t, client, 2, "two") // TCP sends it again: the connection has outlived the cut
}

func TestPausedProcessAnswersWhenItIsResumed(t *testing.T) {
	server, client := conversation(t, New(t))
	require.NoError(t, server.Pause())
	require.NoError(t, client.Send("anybody?"))
	wantSilence(t, client, 1)
	require.NoError(t, server.Resume())
	wantLine(t, client, 1, "anybody?")
	// Pausing works a second time too: the notice of the first stop is gone.
	require.NoError(t, server.Pause())
	require.NoError(t, server.Resume())
	require.NoError(t, server.Kill())
	_, err := server.Wait(within(t, 20*time.Second))
	require.NoError(t, err)
	require.Error(t, server.Pause(), "of a process that has ended")
}

func TestKilledProcessClosesItsConnections(t *testing.T) {
	server, client := conversation(t, New(t))
	require.NoError(t, server.Kill())
	code, err := server.Wait(within(t, 20*time.Second))
	require.NoError(t, err)
	require.Equal(t, -1, code)
	wantLine(t, client, 1, "closed")
	code, err = client.Wait(within(t, 20*time.Second))
	require.NoError(t, err)
	require.Zero(t, code)
	_, err = client.Line(t.Context(), 2)
	require.ErrorIs(t, err, io.EOF)
}

// A process whose output is not read yet is not blocked, and its output is complete: as many lines
// as one of eight chats prints while all say 20 messages a second for 10 minutes.
func TestOutputOfABusyProcessIsReadWhole(t *testing.T) {
	const count = 8 * 20 * 600
	p := New(t).Node("alice").helper(t, "print "+strconv.Itoa(count))
	code, err := p.Wait(within(t, 60*time.Second))
	require.NoError(t, err)
	require.Zero(t, code)
	for i := range count {
		line, err := p.Line(t.Context(), i)
		if err != nil || line != printed(i) {
			t.Fatalf("line %d: %q, %v", i, line, err)
		}
	}
	_, err = p.Line(t.Context(), count)
	require.ErrorIs(t, err, io.EOF)
}

func TestInterruptReachesTheProgramItself(t *testing.T) {
	server, _ := conversation(t, New(t))
	require.NoError(t, server.Interrupt())
	code, err := server.Wait(within(t, 20*time.Second))
	require.NoError(t, err)
	require.NotZero(t, code)
}

func TestMulticastReachesEveryOtherNode(t *testing.T) {
	lab := New(t)
	var members []*Process
	for _, name := range []string{"alice", "bob", "carol"} {
		members = append(members, lab.Node(name).helper(t, "member 224.0.0.251:5353"))
	}
	for _, m := range members {
		wantLine(t, m, 0, "ready")
	}
	// A datagram may be lost on its way, so it is sent until the others have it.
	done, again := make(chan struct{}), time.NewTicker(100*time.Millisecond)
	var sender sync.WaitGroup
	sender.Go(func() {
		for {
			_ = members[0].Send("hello all") // an error shows below: nothing arrives
			select {
			case <-again.C:
			case <-done:
				return
			}
		}
	})
	defer sender.Wait()
	defer close(done)
	wantLine(t, members[1], 1, "hello all")
	wantLine(t, members[2], 1, "hello all")
}

func TestLossDropsAboutItsShareOfFrames(t *testing.T) {
	const sent = 4000
	lab := New(t)
	alice, bob := lab.Node("alice"), lab.Node("bob")
	count := alice.helper(t, "count "+alice.Addr()+":4001")
	wantLine(t, count, 0, "ready")
	blast := bob.helper(t, "blast "+alice.Addr()+":4001")

	answers := 0
	arrived := func(percent int) int {
		lab.Loss(percent)
		require.NoError(t, blast.Send(strconv.Itoa(sent)))
		wantLine(t, blast, 2*answers, "sent")
		lab.Loss(0)
		require.NoError(t, blast.Send("end"))
		wantLine(t, blast, 2*answers+1, "sent")
		answers++
		line, err := count.Line(within(t, 20*time.Second), answers)
		require.NoError(t, err)
		n, err := strconv.Atoi(line)
		require.NoError(t, err)
		return n
	}
	require.Equal(t, sent, arrived(0), "with no loss")
	// The standard deviation of 4000 draws at 30 % is 29; ten times that never happens.
	require.InDelta(t, sent*70/100, arrived(30), 290, "at 30 %% loss")
	require.Zero(t, arrived(100), "at 100 %% loss")
	require.Equal(t, sent, arrived(0), "after the loss")
}

func TestLabHasNoLinkToTheOutside(t *testing.T) {
	lab := New(t)
	alice := lab.Node("alice")
	show := func(args ...string) string {
		out, err := exec.Command("ip", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	require.Equal(t, 2, strings.Count(show("-n", alice.namespace, "-o", "link"), "\n"), "lo and eth0")
	require.Equal(t, 3, strings.Count(show("-n", lab.bridge(), "-o", "link"), "\n"), "lo, br0 and a port")
	require.NotContains(t, show("-n", alice.namespace, "route"), "default")
	require.NotContains(t, show("-n", lab.bridge(), "addr"), "inet 10.", "the bridge is a switch, not a host")
}

func TestLabLeavesNothingBehindWhenItsTestEnds(t *testing.T) {
	var prefix string
	var p *Process
	t.Run("lab", func(t *testing.T) {
		lab := New(t)
		prefix = lab.prefix
		p, _ = conversation(t, lab)
	})
	if p == nil {
		t.Skip("the lab was skipped: see its reason above")
	}
	wantRemoved(t, prefix)
	require.ErrorIs(t, syscall.Kill(p.cmd.Process.Pid, 0), syscall.ESRCH, "the process has ended")
}

// wantRemoved requires that no namespace whose name starts with prefix is left.
func wantRemoved(t *testing.T, prefix string) {
	t.Helper()
	names, err := namespaces()
	require.NoError(t, err)
	for _, name := range names {
		require.False(t, strings.HasPrefix(name, prefix), "%s is left", name)
	}
}

// again runs [TestInner] in another process, with env added to the environment.
func again(t *testing.T, env ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^TestInner$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// inner is the environment variable that says what [TestInner] does in a process started by again.
const inner = "STARLING_NETLAB_INNER"

// TestInner is not a test by itself: other tests run it in a second process, to see how that
// process ends.
func TestInner(t *testing.T) {
	switch os.Getenv(inner) {
	case "makes a lab":
		New(t)
	case "fails":
		conversation(t, New(t))
		t.Fatal("fails, as it should")
	case "is killed":
		conversation(t, New(t))
		require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGKILL))
		select {}
	}
}

func TestLabLeavesNothingBehindWhenItsTestFails(t *testing.T) {
	New(t) // or skip
	cmd := again(t, inner+"=fails")
	out, err := cmd.CombinedOutput()
	require.Error(t, err, "%s", out)
	require.Contains(t, string(out), "as it should")
	require.Contains(t, string(out), "standard error of alice:\n", "a failure shows what the processes said")
	wantRemoved(t, namePrefix+strconv.Itoa(cmd.Process.Pid)+"-")
}

func TestNextProcessRemovesWhatAKilledOneLeft(t *testing.T) {
	New(t) // or skip
	cmd := again(t, inner+"=is killed")
	out, err := cmd.CombinedOutput()
	exit := (*exec.ExitError)(nil)
	require.ErrorAs(t, err, &exit, "%s", out)
	require.Equal(t, -1, exit.ExitCode(), "%s", out)

	prefix := namePrefix + strconv.Itoa(cmd.Process.Pid) + "-"
	names, err := namespaces()
	require.NoError(t, err)
	require.Contains(t, names, prefix+"1-bridge", "or there is nothing to sweep")
	sweep()
	wantRemoved(t, prefix)
}

func TestNewSkipsWithItsReasonUnlessNamespacesAreRequired(t *testing.T) {
	out, err := again(t, inner+"=makes a lab", "PATH=/nowhere", requireEnv+"=").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- SKIP: TestInner")
	require.Contains(t, string(out), "needs network namespaces: ")

	out, err = again(t, inner+"=makes a lab", "PATH=/nowhere", requireEnv+"=1").CombinedOutput()
	require.Error(t, err, "%s", out)
	require.Contains(t, string(out), "network namespaces are required by STARLING_REQUIRE_NETNS=1, but: ")
}

func TestMakerIsTakenFromTheName(t *testing.T) {
	for name, want := range map[string]int{
		"stl123-1-alice": 123, "stl123-probe": 123,
		"stl123": 0, "stl-1-alice": 0, "stl0-1": 0, "stl-5-x": 0, "stlx1-1": 0, "other-1-alice": 0, "": 0,
	} {
		require.Equal(t, want, maker(name), "%q", name)
	}
}
