//go:build unix

package screen

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

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// A chat that uses the screen runs in a child process, and the parent waits for it as its keeper.
// If a goroutine of a library panics, or the child is killed with -9, the child cannot restore the
// terminal. The keeper then does, before the shell goes on.
//
// Both are in one process group, so that job control applies to both. The child inherits two pipes.
// On one it writes its exit code as its last act, so that silence means a crash. The other ends
// when the keeper is gone.

// keptMark is in the environment of a process that has a keeper.
const keptMark = "STARLING_KEPT"

// The pipes of the kept process.
const (
	reportFD   = 3
	lifelineFD = 4
)

// Kept is the child's side of the keeper; nil: it has none.
type Kept struct{ report *os.File }

// BeKept finds out whether this process has a keeper. When the keeper is gone, signals receives a
// SIGHUP.
func BeKept(signals chan<- os.Signal) *Kept {
	if os.Getenv(keptMark) == "" {
		return nil
	}
	os.Unsetenv(keptMark)
	k := &Kept{os.NewFile(reportFD, "report")}
	lifeline := os.NewFile(lifelineFD, "lifeline")
	syscall.CloseOnExec(reportFD)
	syscall.CloseOnExec(lifelineFD)
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, lifeline)
		// The shell has the terminal now, and it must be restored all the same.
		signal.Ignore(syscall.SIGTTOU)
		select {
		case signals <- syscall.SIGHUP:
		default:
		}
	}()
	return k
}

// Exit ends the process, and reports to the keeper that this is intended.
func (k *Kept) Exit(code int) {
	if k != nil {
		_, _ = k.report.Write([]byte{byte(code)})
	}
	os.Exit(code)
}

// Keep runs this command line again in a child process that uses the screen, and waits for it.
// Signals that arrive meanwhile are passed on to the child.
func Keep(ctx context.Context, a *cli.App) (code int, err error) {
	in, out := a.Stdin.(*os.File), a.Stdout.(*os.File)
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
	if !isTerminal(a.Stderr) {
		cmd.Stderr = a.Stderr
	}
	err = cmd.Start()
	reportW.Close()
	lifeR.Close()
	if err != nil {
		return 0, err
	}
	relay := func(s os.Signal) { _ = cmd.Process.Signal(s) }
	a.Relay.Store(&relay)
	// The signal came before it could be passed on.
	if sig, ok := errors.AsType[*cli.SignalError](context.Cause(ctx)); ok {
		relay(sig.Signal)
	}
	err = cmd.Wait()
	report, _ := io.ReadAll(io.LimitReader(reportR, 1))
	if len(report) == 1 {
		held.writeTo(a.Stderr)
		return int(report[0]), nil
	}
	_ = term.Restore(in.Fd(), before)
	_, _ = io.WriteString(out, resetTerminal)
	held.writeTo(a.Stderr)
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return cli.ExitSignal + int(status.Signal()), fmt.Errorf("ended by a signal without a goodbye: %v", status.Signal())
	}
	return cli.ExitCrashed, fmt.Errorf("crashed, which is a bug; standard error has the trace (%v)", err)
}
