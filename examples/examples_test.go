// Package examples has small programs, each of which answers one question. Its tests run them.
package examples

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// build compiles an example.
func build(t *testing.T, name string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), name+".exe") // Windows needs the ending; other systems accept it
	out, err := exec.Command("go", "build", "-o", exe, "./"+name).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return exe
}

func TestEmbedRunsByItselfAndShowsEveryKindOfMessage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, build(t, "embed")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, 3, "%s", out)
	slices.Sort(lines[:2]) // a broadcast and a direct message take different ways
	require.Equal(t, []string{"bob says to alice alone: psst", "bob says to all: hello", "bob has left"}, lines)
}

func TestTwoLanchatsTalk(t *testing.T) {
	exe := build(t, "lanchat")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice := start(t, ctx, exe, "-user", "alice")
	first := alice.line()
	_, addr, ok := strings.Cut(first, "alice is in lobby, at ")
	require.True(t, ok, first)
	bob := start(t, ctx, exe, "-user", "bob", "-peer", addr)
	require.Regexp(t, `^bob is in lobby, at /ip4/127\.0\.0\.1/tcp/\d+/p2p/12D3Koo\w+$`, bob.line())
	require.Equal(t, "* bob is here", alice.line())
	require.Equal(t, "* alice is here", bob.line())

	alice.say("hello\x1b[2J")
	require.Equal(t, `alice: "hello\x1b[2J"`, bob.line())
	bob.say("hi")
	require.Equal(t, `bob: "hi"`, alice.line())

	require.NoError(t, bob.in.Close())
	require.NoError(t, bob.cmd.Wait())
	require.Equal(t, "* bob is gone", alice.line())
	require.NoError(t, alice.in.Close())
	require.NoError(t, alice.cmd.Wait())
}

// process is a running lanchat.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, ctx context.Context, exe string, args ...string) *process {
	t.Helper()
	cmd := exec.CommandContext(ctx, exe, append([]string{"-no-mdns", "-listen", "/ip4/127.0.0.1/tcp/0"}, args...)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return &process{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
}

func (p *process) say(line string) {
	p.t.Helper()
	_, err := io.WriteString(p.in, line+"\n")
	require.NoError(p.t, err)
}

func (p *process) line() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	require.NoError(p.t, err)
	return strings.TrimSuffix(line, "\n")
}
