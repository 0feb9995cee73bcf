package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/screen"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// beStarling makes the test binary run as the command, so that tests can start it as a process.
const beStarling = "STARLING_TEST_BE_STARLING"

func TestMain(m *testing.M) {
	switch os.Getenv(beStarling) {
	case "":
	case "panic in a goroutine":
		panicOnScreen(func(s *screen.Screen) { s.Guard(func() { panic("on purpose") }) })
		return
	case "panic in the screen":
		panicOnScreen(func(s *screen.Screen) { _ = s.Show(session.Heard{Event: (*mesh.Message)(nil)}) })
		return
	case "crash":
		if os.Getenv("STARLING_KEPT") != "" {
			go crashWhenTold()
		}
		main()
		return
	default:
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// panicOnScreen takes the terminal, and then goes on in a way that ends in a panic.
func panicOnScreen(how func(s *screen.Screen)) {
	s := screen.New(os.Stdin, os.Stdout, func() {})
	_ = s.Show(session.Ready{Head: session.NewHead("ready", ""), Login: identity.Login{User: "alice", Key: identity.PublicKey{1}}, Rooms: []string{"lobby"}})
	for range s.Lines() { // the first typed line: the screen has the terminal by then
		break
	}
	how(s)
	fmt.Fprintln(os.Stderr, (<-s.Lines()).End)
	os.Exit(cli.ExitFailed)
}

// crashWhenTold ends this process in the way that the pipe "crash" in its home says. Nothing in the
// process can prevent it.
var crashWhenTold = func() {}

// starling returns the command as a process, with a home of its own.
func starling(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), beStarling+"=1", "HOME="+home, "XDG_CONFIG_HOME="+home, "USER=alice")
	return cmd
}

// ran is the result of a run of the command.
type ran struct {
	code        int
	out, errOut string
}

// runHere runs the command in this process, with no input.
func runHere(args ...string) ran { return runWith("", args...) }

func runWith(in string, args ...string) ran {
	var out, errOut bytes.Buffer
	code := run(args, cli.System{
		Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errOut,
		Exit: func(int) { panic("the process was to be ended from outside") },
	})
	return ran{code, out.String(), errOut.String()}
}
