//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// namePrefix begins the names of all our namespaces; the process ID of their maker and a dash
// follow.
const namePrefix = "stl"

// netnsDir is where ip(8) keeps named namespaces.
const netnsDir = "/run/netns"

// available returns why no namespace can be made here, or nil. The first call also removes what
// dead processes have left behind.
var available = sync.OnceValue(func() error {
	if os.Geteuid() != 0 {
		return errors.New("not root")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("no command %q (packages iproute2 and nftables)", tool)
		}
	}
	sweep()
	probe := fmt.Sprintf("%s%d-probe", namePrefix, os.Getpid())
	if err := run("ip", "netns", "add", probe); err != nil {
		return err
	}
	return removeNamespace(probe)
})

// sweep removes the namespaces of test processes that ended without removing theirs, and kills what
// still runs in them. It ignores errors: another process may be sweeping too.
func sweep() {
	names, err := namespaces()
	if err != nil {
		return
	}
	for _, name := range names {
		if pid := maker(name); pid != 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = removeNamespace(name)
		}
	}
}

// maker returns the process ID in the name of one of our namespaces, or 0 if the namespace is not
// ours.
func maker(namespace string) int {
	rest, ours := strings.CutPrefix(namespace, namePrefix)
	digits, _, dash := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(digits)
	if !ours || !dash || err != nil || pid <= 0 {
		return 0
	}
	return pid
}

// namespaces lists all named namespaces of this machine, not only ours.
func namespaces() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// removeNamespace kills the processes in the namespace and deletes it. Deleting the name alone is
// not enough: a namespace lives as long as a process is in it.
func removeNamespace(name string) error {
	pids, err := exec.Command("ip", "netns", "pids", name).Output()
	if err != nil {
		return fmt.Errorf("ip netns pids %s: %w", name, err)
	}
	for _, field := range strings.Fields(string(pids)) {
		if pid, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return run("ip", "netns", "del", name)
}

// run runs a command to its end. The error contains the command and its output.
func run(name string, args ...string) error { return runInput("", name, args...) }

func runInput(input, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
