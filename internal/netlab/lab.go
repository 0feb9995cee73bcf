//go:build linux

package netlab

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
)

// requireEnv is the variable that turns the skip of [New] into a failure when it is "1".
const requireEnv = "STARLING_REQUIRE_NETNS"

// maxNodes is how many addresses of 10.77.0.0/24 remain beside the network and broadcast addresses.
const maxNodes = 254

// labs numbers the labs of this process.
var labs atomic.Uint32

// Lab is one Ethernet segment: a bridge in its own namespace, and the nodes plugged into it. Its
// methods fail the test if the system refuses an operation. They must be called from the test's own
// goroutine.
type Lab struct {
	t      testing.TB
	prefix string // of the names of all its namespaces
	nodes  []*Node
}

// New makes an empty segment that lasts until the end of the test. If no namespace can be made, New
// skips the test, or fails it if STARLING_REQUIRE_NETNS is 1.
func New(t testing.TB) *Lab {
	t.Helper()
	if err := available(); err != nil {
		if os.Getenv(requireEnv) == "1" {
			t.Fatalf("network namespaces are required by %s=1, but: %v", requireEnv, err)
		}
		t.Skipf("needs network namespaces: %v", err)
	}
	l := &Lab{t: t, prefix: fmt.Sprintf("%s%d-%d-", namePrefix, os.Getpid(), labs.Add(1))}
	t.Cleanup(l.remove) // before the first namespace: a half-built lab is removed too
	l.must(run("ip", "netns", "add", l.bridge()))
	// Without snooping the bridge floods multicast at once, as cheap switches do. A switch that
	// snoops may withhold mDNS until it has seen a query.
	l.must(run("ip", "-n", l.bridge(), "link", "add", "br0", "type", "bridge",
		"stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"))
	l.must(run("ip", "-n", l.bridge(), "link", "set", "br0", "up"))
	return l
}

// Node plugs in a new machine. The name, letters and digits, appears in failures and in the name of
// the namespace.
func (l *Lab) Node(name string) *Node {
	l.t.Helper()
	if len(l.nodes) == maxNodes {
		l.t.Fatalf("netlab: node %q is one too many: a lab has room for %d", name, maxNodes)
	}
	i := len(l.nodes) + 1
	n := &Node{
		lab:       l,
		name:      name,
		namespace: l.prefix + name,
		addr:      fmt.Sprintf("10.77.0.%d", i),
		port:      fmt.Sprintf("port%d", i),
	}
	l.must(run("ip", "netns", "add", n.namespace))
	l.nodes = append(l.nodes, n)
	for _, args := range [][]string{
		{"-n", l.bridge(), "link", "add", n.port, "type", "veth", "peer", "name", "eth0", "netns", n.namespace},
		{"-n", l.bridge(), "link", "set", n.port, "master", "br0", "up"},
		{"-n", n.namespace, "link", "set", "lo", "up"},
		{"-n", n.namespace, "addr", "add", n.addr + "/24", "dev", "eth0"},
		{"-n", n.namespace, "link", "set", "eth0", "up"},
		// A host on a real LAN has a default route that multicast takes; here nothing lies beyond
		// the segment.
		{"-n", n.namespace, "route", "add", "224.0.0.0/4", "dev", "eth0"},
	} {
		l.must(run("ip", args...))
	}
	return n
}

// Loss makes the bridge drop percent of all the frames that it forwards, in both directions, each
// independently; 0 ends it. The sender sees no error, as on a bad radio link.
func (l *Lab) Loss(percent int) {
	l.t.Helper()
	if percent < 0 || percent > 100 {
		l.t.Fatalf("netlab: loss of %d %%: want 0 to 100", percent)
	}
	// "add" then "delete" succeeds whether or not the table is there.
	rules := "add table bridge loss\ndelete table bridge loss\n"
	if percent > 0 {
		// In the forward hook: from a node's output hook, its programs would learn of the loss.
		rules += "add table bridge loss\n" +
			"add chain bridge loss forward { type filter hook forward priority 0; policy accept; }\n" +
			fmt.Sprintf("add rule bridge loss forward numgen random mod 100 <= %d counter drop\n", percent-1)
	}
	l.must(runInput(rules, "ip", "netns", "exec", l.bridge(), "nft", "-f", "-"))
}

func (l *Lab) bridge() string { return l.prefix + "bridge" }

// remove ends the processes and deletes the namespaces, in whatever state a failed test left them.
func (l *Lab) remove() {
	for _, n := range l.nodes {
		for _, p := range n.processes {
			p.end(l.t)
		}
	}
	names, err := namespaces()
	if err != nil {
		l.t.Errorf("netlab: cannot list what to remove: %v", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, l.prefix) {
			if err := removeNamespace(name); err != nil {
				l.t.Errorf("netlab: left behind: %v", err)
			}
		}
	}
}

func (l *Lab) must(err error) {
	if err != nil {
		l.t.Helper()
		l.t.Fatalf("netlab: %v", err)
	}
}
