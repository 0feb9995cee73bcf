//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/charmbracelet/x/term"
)

// A chat that has the screen runs in a process of its own, and the one that was started waits for it as its keeper. A panic on a
// goroutine of a library, or a kill -9, leaves no chance to give the terminal back: the keeper does so, before the shell goes on.
//
// Both are of one process group, so that job control holds for both. The kept process inherits two pipes: one on which it writes its
// exit code as its last act, so that its silence is a crash, and one whose end tells it that the keeper is gone.

// keptMark is in the environment of a process that has a keeper.
const keptMark = "STARLING_KEPT"

// The pipes of the kept process.
const (
	reportFD   = 3
	lifelineFD = 4
)

// kept is the side of the process that has a keeper; nil: it has none.
type kept struct{ report *os.File }

// beKept finds out whether this process has a keeper. When the keeper is gone, signals gets a hang-up.
func beKept(signals chan<- os.Signal) *kept {
	if os.Getenv(keptMark) == "" {
		return nil
	}
	os.Unsetenv(keptMark)
	k := &kept{os.NewFile(reportFD, "report")}
	lifeline := os.NewFile(lifelineFD, "lifeline")
	syscall.CloseOnExec(reportFD)
	syscall.CloseOnExec(lifelineFD)
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, lifeline)
		signal.Ignore(syscall.SIGTTOU) // the shell has the terminal by now, which is to be given back all the same
		select {
		case signals <- syscall.SIGHUP:
		default:
		}
	}()
	return k
}

// exit ends the process, and says that it was meant to.
func (k *kept) exit(code int) {
	if k != nil {
		_, _ = k.report.Write([]byte{byte(code)})
	}
	os.Exit(code)
}

// keep runs this command line again in a process that has the screen, and waits for it. Signals that come meanwhile are for that process.
func (a *app) keep(ctx context.Context) (code int, err error) {
	in, out := a.stdin.(*os.File), a.stdout.(*os.File)
	before, err := term.GetState(in.Fd())
	if err != nil {
		return 0, fmt.Errorf("terminal: %w", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer reportR.Close()
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return 0, errors.Join(err, reportW.Close())
	}
	defer lifeW.Close()
	held := new(heldBack) // what would be written across the screen
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), keptMark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, held
	cmd.ExtraFiles = []*os.File{reportW, lifeR} // 3 and 4
	if !isTerminal(a.stderr) {
		cmd.Stderr = a.stderr
	}
	err = cmd.Start()
	reportW.Close()
	lifeR.Close()
	if err != nil {
		return 0, err
	}
	relay := func(s os.Signal) { _ = cmd.Process.Signal(s) }
	a.relay.Store(&relay)
	if sig, ok := errors.AsType[*signalError](context.Cause(ctx)); ok { // it came before there was somebody to pass it on to
		relay(sig.signal)
	}
	err = cmd.Wait()
	report, _ := io.ReadAll(io.LimitReader(reportR, 1))
	if len(report) == 1 {
		held.writeTo(a.stderr)
		return int(report[0]), nil
	}
	_ = term.Restore(in.Fd(), before)
	_, _ = io.WriteString(out, resetTerminal)
	held.writeTo(a.stderr)
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal()), fmt.Errorf("ended by a signal without a goodbye: %v", status.Signal())
	}
	return exitCrashed, fmt.Errorf("crashed, which is a bug; standard error has the trace (%v)", err)
}
