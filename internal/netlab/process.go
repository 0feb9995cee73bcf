//go:build linux

package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sendTimeout bounds [Process.Send]: a process that reads none of its input for that long is stuck.
const sendTimeout = 10 * time.Second

// Process is a program that runs on a [Node]. Its methods may be called from any goroutine.
type Process struct {
	node   string
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *lines
	stderr *lines
	done   chan struct{} // closed when the process has ended and its output has been read
	err    error         // of Wait; read after done
}

// start starts cmd with pipes on all three streams. Pdeathsig is tied to the thread that starts the
// process. The runtime keeps its threads, except one whose locked goroutine exits, and ours never
// lock theirs.
func start(node string, cmd *exec.Cmd) (*Process, error) {
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	cmd.Stdin = in
	p := &Process{node: node, cmd: cmd, stdin: stdin, done: make(chan struct{})}
	// Writers instead of pipes, so that Wait returns only when all output has been read.
	p.stdout, p.stderr = newLines(), newLines()
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	// For a child of the process that outlives it and holds the pipes.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		stdin.Close()
		return nil, fmt.Errorf("start on %s: %w", node, err)
	}
	go func() {
		p.err = cmd.Wait()
		p.stdout.end()
		p.stderr.end()
		close(p.done)
	}()
	return p, nil
}

// Send writes one line to the standard input. It fails if the process has ended, or has read
// nothing for 10 s.
func (p *Process) Send(line string) error {
	if err := p.stdin.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("standard input of %s: %w", p.node, err)
	}
	if _, err := p.stdin.WriteString(line + "\n"); err != nil {
		return fmt.Errorf("standard input of %s: %w", p.node, err)
	}
	return nil
}

// CloseInput ends the standard input, as Ctrl-D does.
func (p *Process) CloseInput() error { return p.stdin.Close() }

// Line returns line i of the standard output, counted from 0 and without its newline, and waits
// until it has been printed. If the process ends with fewer lines, the error is [io.EOF]. All lines
// are kept, so any may be read again.
func (p *Process) Line(ctx context.Context, i int) (string, error) { return p.stdout.line(ctx, i) }

// Stderr returns what the process has written to its standard error so far.
func (p *Process) Stderr() string { return strings.Join(p.stderr.all(), "\n") }

// Wait waits for the end of the process and returns its exit code, or -1 if a signal ended it.
func (p *Process) Wait(ctx context.Context) (code int, err error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return 0, fmt.Errorf("%s still runs: %w", p.node, context.Cause(ctx))
	}
	if exit := (*exec.ExitError)(nil); p.err != nil && !errors.As(p.err, &exit) {
		return 0, fmt.Errorf("wait for %s: %w", p.node, p.err)
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// Kill ends the process without warning (SIGKILL): the kernel closes its sockets.
func (p *Process) Kill() error { return p.signal(syscall.SIGKILL) }

// Interrupt asks the process to end, as Ctrl-C does (SIGINT).
func (p *Process) Interrupt() error { return p.signal(syscall.SIGINT) }

// Pause freezes the process (SIGSTOP): its sockets stay open, and nobody serves them. It returns
// when all its threads have stopped.
func (p *Process) Pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		// WNOWAIT leaves the event for others: cmd.Wait has been waiting for the process since it
		// was started.
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			// ECHILD: it has ended instead
			return fmt.Errorf("wait until %s has stopped: %w", p.node, err)
		}
	}
}

// Resume lets a paused process go on (SIGCONT).
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("%s to %s: %w", sig, p.node, err)
	}
	return nil
}

// end kills the process if it still runs, waits for it, and logs its standard error if the test has
// failed.
func (p *Process) end(t testing.TB) {
	_ = p.Kill()
	<-p.done
	p.stdin.Close()
	if t.Failed() {
		t.Logf("standard error of %s:\n%s", p.node, tail(p.Stderr(), 8<<10))
	}
}

// tail returns the last n bytes of s, or all of it.
func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n:]
}
