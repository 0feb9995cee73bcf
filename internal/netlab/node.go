//go:build linux

package netlab

import (
	"os"
	"os/exec"
	"syscall"
)

// Node is a machine on the segment: a network namespace with a loopback interface and eth0.
type Node struct {
	lab       *Lab
	name      string
	namespace string
	addr      string
	port      string // the bridge's end of its cable
	processes []*Process
}

// Addr returns the IPv4 address of its eth0, without a mask: "10.77.0.1" for the first node of a
// lab.
func (n *Node) Addr() string { return n.addr }

// Unplug pulls the cable at the bridge: eth0 keeps its address and loses its carrier, so programs
// see the same as when a plug is pulled. Unplugging twice is harmless.
func (n *Node) Unplug() {
	n.lab.t.Helper()
	n.lab.must(run("ip", "-n", n.lab.bridge(), "link", "set", n.port, "down"))
}

// Plug puts the cable back. Frames pass again at once.
func (n *Node) Plug() {
	n.lab.t.Helper()
	n.lab.must(run("ip", "-n", n.lab.bridge(), "link", "set", n.port, "up"))
}

// Start runs a program on the node, with the test's environment plus env ("KEY=value"). The program
// is killed when the test ends, or when the test process dies.
func (n *Node) Start(argv []string, env ...string) *Process {
	n.lab.t.Helper()
	// ip(8) enters the namespace and then becomes the program, so there is one process, and signals
	// reach it.
	cmd := exec.Command("ip", append([]string{"netns", "exec", n.namespace}, argv...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p, err := start(n.name, cmd)
	n.lab.must(err)
	n.processes = append(n.processes, p)
	return p
}
