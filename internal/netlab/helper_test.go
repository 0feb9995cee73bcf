//go:build linux

package netlab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// helperEnv is an environment variable. With it the test binary becomes one of the helpers below,
// which the tests start on their nodes.
const helperEnv = "STARLING_NETLAB_HELPER"

func TestMain(m *testing.M) {
	helper := os.Getenv(helperEnv)
	if helper == "" {
		goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
			_ = os.RemoveAll(buildDir) // "": nothing
			os.Exit(code)
		}))
		return
	}
	name, arg, _ := strings.Cut(helper, " ")
	if err := helpers[name](arg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var helpers = map[string]func(string) error{
	"echo":   helpEcho,
	"talk":   helpTalk,
	"count":  helpCount,
	"blast":  helpBlast,
	"member": helpMember,
	"print":  helpPrint,
}

// helper runs one of the helpers on a node. A space separates its name from its argument.
func (n *Node) helper(t *testing.T, nameAndArg string) *Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return n.Start([]string{self}, helperEnv+"="+nameAndArg)
}

// helpEcho serves TCP on addr and sends back what it receives.
func helpEcho(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go io.Copy(c, c)
	}
}

// helpTalk connects to addr, sends every line of its input, and prints what comes back.
func helpTalk(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go io.Copy(c, os.Stdin)
	// Whether the connection ends with a FIN or a reset depends on whether the other side's kernel
	// still held unread data.
	if _, err := io.Copy(os.Stdout, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	fmt.Println("closed")
	return nil
}

// helpCount receives datagrams on addr, and for each "end" prints how many other datagrams came
// since the previous one.
func helpCount(addr string) error {
	pc, err := net.ListenPacket("udp4", addr)
	if err != nil {
		return err
	}
	raw, err := pc.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	// A burst has to fit into the socket's buffer, or losses in the kernel would add to those of
	// the lab.
	const rcvbufForce = 33 // SO_RCVBUFFORCE
	ctlErr := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, rcvbufForce, 16<<20)
	})
	if ctlErr != nil || err != nil {
		return fmt.Errorf("receive buffer: %w %w", ctlErr, err)
	}
	fmt.Println("ready")
	buf := make([]byte, 2048)
	for got := 0; ; {
		n, _, err := pc.ReadFrom(buf)
		if err != nil {
			return err
		}
		if string(buf[:n]) != "end" {
			got++
			continue
		}
		fmt.Println(got)
		got = 0
	}
}

// helpBlast sends to addr: for an input line "N" that many datagrams, for any other line the line
// itself as one datagram.
func helpBlast(addr string) error {
	c, err := net.Dial("udp4", addr)
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		n, err := strconv.Atoi(in.Text())
		payload := "x"
		if err != nil {
			n, payload = 1, in.Text()
		}
		for range n {
			if _, err := c.Write([]byte(payload)); err != nil {
				return err
			}
		}
		fmt.Println("sent")
	}
	return in.Err()
}

// helpMember joins the multicast group addr, sends its argument there for every line of input, and
// prints what it receives.
func helpMember(addr string) error {
	group, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		return err
	}
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	pc, err := net.ListenMulticastUDP("udp4", eth0, group)
	if err != nil {
		return err
	}
	out, err := net.DialUDP("udp4", nil, group)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			if _, err := out.Write(in.Bytes()); err != nil {
				fmt.Println("cannot send:", err)
			}
		}
	}()
	buf := make([]byte, 2048)
	for {
		n, _, err := pc.ReadFromUDP(buf)
		if err != nil {
			return err
		}
		fmt.Println(string(buf[:n]))
	}
}

// helpPrint prints count numbered lines of 450 bytes including the newline, about the size of a
// broadcast in JSON, as fast as they are read.
func helpPrint(count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for i := range n {
		if _, err := fmt.Println(printed(i)); err != nil {
			return err
		}
	}
	return nil
}

// printed returns line i of [helpPrint].
func printed(i int) string { return fmt.Sprintf("%0449d", i) }
