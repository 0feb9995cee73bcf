//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// requireTmux makes the tests that need a terminal fail, rather than skip, if there is no tmux.
const requireTmux = "STARLING_REQUIRE_TMUX"

func init() {
	crashWhenTold = func() {
		word, err := os.ReadFile(filepath.Join(os.Getenv("HOME"), "crash"))
		switch {
		case err != nil:
			panic(err)
		case string(word) == "kill":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		panic("on purpose, in a goroutine of nobody's")
	}
}

// terminals are panes of a tmux server that only this test uses.
type terminals struct {
	t      *testing.T
	socket string
	home   string
}

func newTerminals(t *testing.T) *terminals {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv(requireTmux) != "" {
			require.FailNow(t, "tmux is not installed, and "+requireTmux+" is set")
		}
		t.Skip("install tmux: nothing else here can be a terminal to try the screen on")
	}
	dir, err := os.MkdirTemp("", "starling-tmux") // a socket's path must be short
	require.NoError(t, err)
	ts := &terminals{t: t, socket: filepath.Join(dir, "s"), home: t.TempDir()}
	t.Cleanup(func() {
		_ = ts.command("kill-server").Run() // fails if no pane was opened, since there is no server then
		os.RemoveAll(dir)
	})
	return ts
}

func (ts *terminals) command(args ...string) *exec.Cmd {
	cmd := exec.Command("tmux", append([]string{"-u", "-S", ts.socket, "-f", "/dev/null"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+ts.home, "XDG_CONFIG_HOME="+ts.home, "LC_ALL=C.UTF-8", "PS1=ready> ", "ENV=",
		"SHELL=/bin/sh", "COLORTERM=", "NO_COLOR=")
	return cmd
}

func (ts *terminals) do(args ...string) string {
	ts.t.Helper()
	out, err := ts.command(args...).CombinedOutput()
	require.NoError(ts.t, err, "tmux %s: %s", strings.Join(args, " "), out)
	return string(out)
}

// terminal is one pane with a shell.
type terminal struct {
	*terminals
	name string
}

func (ts *terminals) open(name string, width, height int) *terminal {
	ts.t.Helper()
	ts.do("new-session", "-d", "-s", name, "-x", strconv.Itoa(width), "-y", strconv.Itoa(height), "/bin/sh")
	p := &terminal{ts, name}
	p.until("a shell", `^ready>`)
	return p
}

// run types the command line of starling, which is this test's own binary.
func (p *terminal) run(be string, args ...string) {
	p.t.Helper()
	exe, err := os.Executable()
	require.NoError(p.t, err)
	p.types("clear; " + beStarling + "='" + be + "' sh -c 'echo $$ >" + p.pidFile() + "; exec \"$0\" \"$@\"' " + exe + " " + strings.Join(args, " "))
	p.press("Enter")
}

func (p *terminal) pidFile() string { return filepath.Join(p.home, p.name+".pid") }

// signal sends a signal to the program that run has started.
func (p *terminal) signal(sig syscall.Signal) {
	p.t.Helper()
	text, err := os.ReadFile(p.pidFile())
	require.NoError(p.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(p.t, err)
	require.NoError(p.t, syscall.Kill(pid, sig))
}

// types sends a text as keys; press sends keys by their tmux names.
func (p *terminal) types(text string) { p.t.Helper(); p.do("send-keys", "-t", p.name, "-l", text) }
func (p *terminal) press(keys ...string) {
	p.t.Helper()
	p.do(append([]string{"send-keys", "-t", p.name}, keys...)...)
}
func (p *terminal) screen() string { p.t.Helper(); return p.do("capture-pane", "-p", "-t", p.name) }

func (p *terminal) ask(format string) string {
	p.t.Helper()
	return strings.TrimSpace(p.do("display-message", "-p", "-t", p.name, format))
}

// until waits until the screen shows all the patterns, and returns it.
func (p *terminal) until(what string, patterns ...string) string {
	p.t.Helper()
	var screen, missing string
	shown := func() bool {
		screen = p.screen()
		for _, want := range patterns {
			if !regexp.MustCompile(`(?m)` + want).MatchString(screen) {
				missing = want
				return false
			}
		}
		return true
	}
	for late := time.Now().Add(patience); !shown(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			require.FailNow(p.t, fmt.Sprintf("%s never saw %s: no %s in\n%s", p.name, what, missing, screen))
		}
	}
	return screen
}

// clean checks that the program has ended with that code and left the terminal as it was.
func (p *terminal) clean(code int) {
	p.t.Helper()
	p.until("its shell again", `^ready> *$`)
	require.Equal(p.t, "0 1", p.ask("#{alternate_on} #{cursor_flag}"), "alternate screen, cursor shown")
	require.NotContains(p.t, p.screen(), "not closed")
	p.types("C=$?; clear; echo code=$C; stty -a | tr '\\n' ' '")
	p.press("Enter")
	p.until("a terminal as before", fmt.Sprintf(`^code=%d$`, code), `(^| )icanon`, `(^| )isig`, `(^| )echo `, `(^| )opost`, `(^| )icrnl`)
}

func TestAWalkThroughTheScreenInARealTerminal(t *testing.T) {
	ts := newTerminals(t)
	chat := []string{"chat", "--no-mdns", "--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0"}
	a := ts.open("alice", 200, 60)
	a.run("1", append(chat, "--user", "alice")...)
	screen := a.until("the room", `you are in lobby, with nobody else`, `MEMBERS 1`, `○ no peers`)
	addr := regexp.MustCompile(`--peer (/ip4/127\.0\.0\.1/tcp/\d+/p2p/\w+)`).FindStringSubmatch(screen)
	require.NotNil(t, addr, screen)
	require.Equal(t, "1", a.ask("#{alternate_on}"))

	b := ts.open("bob", 80, 24)
	b.run("1", append(chat, "--user", "bob", "--room", "lobby", "--room", "ops", "--peer", addr[1])...)
	b.until("both", `MEMBERS 2`, `● alice`, `bob  ● 1 peer`)
	a.until("both", `bob has joined lobby`, `MEMBERS 2`, `● bob`)

	// A message to the room.
	b.types("hello, 世界")
	b.press("Enter")
	b.until("it sent", `bob hello, 世界 ✓ `)
	a.until("it", `bob hello, 世界`)

	// A direct one, with completion, and its mark.
	a.types("/m")
	a.until("the commands", `/msg USER TEXT +to a logged-in user`)
	a.press("Tab")
	a.until("the users", `#lobby › /msg *$`, `│ bob +online, connected`)
	a.types("b")
	a.press("Tab")
	a.until("the whole name", `#lobby › /msg bob *$`)
	a.types("psst")
	a.press("Enter")
	a.until("it delivered", `alice psst ✓✓ [0-9.]+ ms`, `^ @bob ›`)
	b.until("it unread", `● alice +1 `, `MEMBERS 2`)
	b.press("C-n", "C-n")
	b.until("it", `alice psst`, `^ @alice ›`)
	b.types("got it")
	b.press("Enter")
	b.until("the answer delivered", `bob got it ✓✓ [0-9.]+ ms`)
	a.until("the answer", `bob got it`)

	// Who is there, and a message that cannot be sent.
	a.press("M-1")
	a.types("/who")
	a.press("Enter")
	a.until("who is there", `in lobby, with you: bob`, `online: bob`)
	a.types("/status bob")
	a.press("Enter")
	a.until("his status", `\d · bob is online`)
	a.types("/to carol hi")
	a.press("Enter")
	a.until("the reason", `✗ not sent: no such member in this room`)

	// Another size, wider and lower.
	ts.do("resize-window", "-t", "bob", "-x", "120", "-y", "20")
	screen = b.until("the new size", `^─{17}┴─{84}┴─{17}$`, `^ @alice ›`)
	require.Len(t, strings.Split(strings.TrimRight(screen, "\n"), "\n"), 20)
	require.Equal(t, 1, strings.Count(screen, "DIRECT"), "remains of the old size:\n%s", screen)

	// A member leaves, by Ctrl-C.
	b.press("C-c")
	b.until("the last word", `^Bye\.$`)
	a.until("that bob has left", `bob has left lobby`, `MEMBERS 1`, `○ no peers`)
	a.until("that he is offline", `DIRECT`, `^ ○ bob `)
	b.clean(130)

	a.types("/quit")
	a.press("Enter")
	a.until("the last word", `^Bye\.$`)
	a.clean(0)
}

func TestTheTerminalIsRestoredWhateverEndsTheChat(t *testing.T) {
	ts := newTerminals(t)
	p := ts.open("alice", 80, 24)
	begin := func(be string) {
		t.Helper()
		p.run(be, "chat", "--no-mdns", "--ephemeral", "--user", "alice", "--listen", "/ip4/127.0.0.1/tcp/0")
		p.until("the screen", `you are alice, key`, `^ #lobby ›`)
		require.Equal(t, "1", p.ask("#{alternate_on}"))
	}
	for _, sig := range interrupts {
		begin("1")
		p.signal(sig)
		p.until("the last word after "+sig.String(), `^Bye\.$`)
		p.clean(cli.ExitSignal + int(sig))
	}
	// A panic that our own code catches also restores the terminal without a keeper.
	for be, words := range map[string]string{
		"panic in a goroutine": `^panic: on purpose`,
		"panic in the screen":  `^Caught panic:`,
	} {
		begin(be)
		p.types("now")
		p.press("Enter")
		p.until("its shell again", `^ready> *$`)
		require.Regexp(t, `(?m)`+words, p.do("capture-pane", "-p", "-S", "-", "-t", p.name), "the trace is on the screen of the shell")
		require.Equal(t, "0 1", p.ask("#{alternate_on} #{cursor_flag}"))
		p.do("clear-history", "-t", p.name)
		p.types("clear; stty -a | tr ';' '\\n'")
		p.press("Enter")
		p.until("a terminal as before", `(^| )icanon`, `(^| )isig`, `(^| )echo `)
	}
}

func TestAKeeperGivesTheTerminalBackAfterWhatNobodyCanCatch(t *testing.T) {
	ts := newTerminals(t)
	pipe := filepath.Join(ts.home, "crash")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	p := ts.open("alice", 100, 24)
	for _, c := range []struct {
		word  string
		words []string
		code  int
	}{
		{"panic", []string{`^panic: on purpose, in a goroutine of nobody's`, `^goroutine \d+`, `^starling: crashed, which is a bug; standard error has the trace`}, cli.ExitCrashed},
		{"kill", []string{`^starling: ended by a signal without a goodbye: killed`}, cli.ExitSignal + int(syscall.SIGKILL)},
	} {
		p.run("crash", "chat", "--no-mdns", "--ephemeral", "--user", "alice", "--listen", "/ip4/127.0.0.1/tcp/0")
		p.until("the screen", `you are alice, key`, `^ #lobby ›`)
		require.NoError(t, os.WriteFile(pipe, []byte(c.word), 0))
		p.until("its shell again", `^ready> *$`)
		seen := p.do("capture-pane", "-p", "-J", "-S", "-", "-t", p.name)
		for _, w := range c.words {
			require.Regexp(t, `(?m)`+w, seen)
		}
		require.NotContains(t, seen, "MEMBERS", "the picture is left on the shell's screen")
		p.clean(c.code)
		p.do("clear-history", "-t", p.name)
	}
}

func TestAChatEndsWithItsKeeperAndStopsWithIt(t *testing.T) {
	ts := newTerminals(t)
	p := ts.open("alice", 80, 24)
	p.types("set -m")
	p.press("Enter")
	p.run("1", "chat", "--no-mdns", "--ephemeral", "--user", "alice", "--listen", "/ip4/127.0.0.1/tcp/0")
	p.until("the screen", `you are alice, key`, `^ #lobby ›`)
	p.types("half a li")
	p.until("it", `half a li`)
	p.press("C-z")
	p.until("its shell", `^ready> *$`)
	require.Equal(t, "0 1", p.ask("#{alternate_on} #{cursor_flag}"))
	p.types("fg")
	p.press("Enter")
	p.until("the screen again", `^ #lobby › half a li`)
	p.types("ne")
	p.until("it", `half a line`)

	p.signal(syscall.SIGKILL)            // kills the keeper; the child leaves the rooms by itself
	p.until("its shell again", `Bye\.$`) // behind the shell's prompt, if that was faster
	p.press("Enter")
	p.until("a prompt", `^ready> *$`)
	require.Equal(t, "0 1", p.ask("#{alternate_on} #{cursor_flag}"))
}

// erasing matches the sequences that clear a whole screen, or all of it after the cursor.
var erasing = regexp.MustCompile("\x1b\\[[0-3]?J|\x1bc")

func TestALineThatChangesIsAllThatIsDrawn(t *testing.T) {
	ts := newTerminals(t)
	bob := chatHere(t, "--ephemeral", "--user", "bob")
	p := ts.open("alice", 200, 60)
	p.run("1", "chat", "--no-mdns", "--ephemeral", "--user", "alice", "--listen", "/ip4/127.0.0.1/tcp/0", "--peer", bob.ready().Addrs[0])
	bob.expect("member_joined", member("alice"))
	p.until("bob", `● bob`)
	written := filepath.Join(ts.home, "written")
	require.NoError(t, os.WriteFile(written, nil, 0o600)) // the shell of the pipe starts in its own time
	ts.do("pipe-pane", "-t", "alice", "exec cat >>"+written)
	so := func() string { // everything that the chat has written to its terminal
		text, err := os.ReadFile(written)
		require.NoError(t, err)
		return string(text)
	}
	settled := func(mark string) { // the pipe has it too
		require.Eventually(t, func() bool { return strings.Contains(so(), mark) }, patience, 10*time.Millisecond)
	}
	bob.say("first")
	p.until("it", `bob first`)
	settled("first")
	// The screen may be drawn as a whole once more after its start, when the terminal has said what
	// it can do.
	start := len(so())
	before, most := start, 0
	const lines = 20
	for n := range lines {
		mark := fmt.Sprintf("number-%d-in-the-lobby", n)
		bob.say(mark)
		p.until("it", mark)
		settled(mark)
		most = max(most, len(so())-before)
		before = len(so())
	}
	p.types("x")
	p.until("the key", `^ #lobby › x`)
	t.Logf("a new line cost at most %d bytes, a screen has %d places", most, 200*60)
	require.Less(t, most, 400, "more than the line that changed was drawn")
	require.NotRegexp(t, erasing, so()[start:])

	// The same when the text scrolls, which moves every line: the chat still writes no more than
	// what is new.
	for range 60 {
		bob.say("fill")
	}
	bob.say("last-of-many")
	p.until("the last", `last-of-many`)
	settled("last-of-many")
	before = len(so())
	bob.say("one-more-of-them")
	p.until("it", `one-more-of-them`)
	settled("one-more-of-them")
	t.Logf("a new line that scrolls the others cost %d bytes", len(so())-before)
	require.Less(t, len(so())-before, 2000)
	require.NotRegexp(t, erasing, so()[start:])
}
