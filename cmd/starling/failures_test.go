package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
)

func TestEverySendThatFailsSaysHow(t *testing.T) {
	alice, bob := meet(t, chatHere)
	big := strings.Repeat("x", 65536)
	for i, c := range []struct{ line, code, detail string }{
		{"/to carol hi", "not_member", "no such member in this room (outside rooms: /msg)"},
		{"/msg carol hi", "not_found", "nobody of that name is logged in within reach"},
		{"/to alice hi", "self", "that is you"},
		{"/msg alice hi", "self", "that is you"},
		{"/to bob", "empty", "an empty message is not sent"},
		{"/msg bob", "empty", "an empty message is not sent"},
		{"/to b/b hi", "bad_id", `user ID "b/b": '/' is not one of a-z A-Z 0-9 _ @ . -`},
		{"/msg bob#1 hi", "bad_id", `address "bob#1": after '#' belongs a fingerprint of 16 characters of a-z 2-7`},
		{big + "y", "too_long", "message of 65537 bytes is over the limit of 65536"},
		{"/to bob " + big + "y", "too_long", "message of 65537 bytes is over the limit of 65536"},
		{"/msg bob " + big + "y", "too_long", "message of 65537 bytes is over the limit of 65536"},
		{"not\xffutf8", "not_text", "not valid UTF-8"},
		{"/to bob \xff", "not_text", "not valid UTF-8"},
		{"/msg bob \xff", "not_text", "not valid UTF-8"},
	} {
		alice.say(c.line)
		result := alice.result(i + 1)
		require.False(t, result.OK, "%.40q", c.line)
		require.Equal(t, c.code, result.Error, "%.40q", c.line)
		require.Equal(t, c.detail, result.Detail, "%.40q", c.line)
		accepted := c.code == "not_member" || c.code == "not_found" // that nobody is there is a result
		require.Equal(t, accepted, result.ID != "", "%.40q: what was refused here has no number", c.line)
	}
	alice.say("/msg bob that was all")
	require.Equal(t, "that was all", bob.expect("direct_message", nil).Text)
	require.True(t, alice.expect("sent", nil).OK)
	require.Empty(t, bob.seen("message"), "something was sent that was refused")

	// The largest allowed message does get through, each way.
	for line, typ := range map[string]string{"": "message", "/to bob ": "direct_message", "/msg bob ": "direct_message"} {
		alice.say(line + big)
		require.Equal(t, big, bob.expect(typ, nil).Text)
		require.True(t, alice.expect("sent", nil).OK)
	}
}

func TestMistypedLinesAreEventsAndTheChatGoesOn(t *testing.T) {
	alice := chatHere(t, "--user", "alice", "--ephemeral")
	alice.ready()
	alice.say("/wo", "/join a/b", "", strings.Repeat("x", (128<<10)+1), "/help", "fine")
	for _, want := range []struct {
		line   int
		detail string
	}{
		{1, "there is no /wo, did you mean /who?"},
		{2, `room ID "a/b": '/' is not one of a-z A-Z 0-9 _ @ . -`},
		{4, "a line of more than 131072 bytes"},
	} {
		got := alice.expect("error", nil)
		require.Equal(t, want.line, got.Line)
		require.Equal(t, want.detail, got.Detail)
	}
	require.Equal(t, session.HelpLines(), alice.expect("help", nil).Lines)
	require.True(t, alice.result(6).OK)
}

func TestADirectoryInUseIsNamedWithTheWaysOut(t *testing.T) {
	dir := t.TempDir()
	d, err := identity.OpenDir(dir)
	require.NoError(t, err)
	defer d.Close()
	second := chatProcess(t, "--data", dir, "--user", "alice")
	second.name = "second"
	require.Equal(t, cli.ExitFailed, second.ended())
	want := "data directory " + dir + ": in use by another node\n" +
		"Another starling is running with it. Give this one keys of its own: --data DIR, or --ephemeral."
	require.Equal(t, "starling: "+want+"\n", second.errOut.String())
	got := second.expect("error", nil)
	require.Equal(t, "data_dir_in_use", got.Code)
	require.Equal(t, want, got.Detail)
	require.Equal(t, "failed", second.expect("bye", nil).Reason)
}

func TestADamagedKeyIsNamedAndNotReplaced(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "device.key")
	require.NoError(t, os.WriteFile(key, []byte("garbage"), 0o600))
	alice := chatHere(t, "--data", dir, "--user", "alice")
	require.Equal(t, cli.ExitFailed, alice.ended())
	got := alice.expect("error", nil)
	require.Equal(t, "key", got.Code)
	require.Equal(t, "key file "+key+": damaged: no PEM block in it", got.Detail)
	left, err := os.ReadFile(key)
	require.NoError(t, err)
	require.Equal(t, "garbage", string(left))
}

func TestAPortInUseIsNamed(t *testing.T) {
	alice := chatHere(t, "--user", "alice", "--ephemeral")
	addr, _, _ := strings.Cut(alice.ready().Addrs[0], "/p2p/")
	bob := chatHere(t, "--user", "bob", "--ephemeral", "--listen", addr)
	require.Equal(t, cli.ExitFailed, bob.ended())
	got := bob.expect("error", nil)
	require.Equal(t, "listen", got.Code)
	require.Contains(t, got.Detail, "listen on "+addr+": ")
	require.Contains(t, got.Detail, "address already in use")
}

func TestALogInElsewhereEndsTheChatWithACodeOfItsOwn(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	require.Equal(t, cli.ExitOK, runHere("id", "--data", one).code)
	require.Equal(t, cli.ExitOK, runWith(runHere("id", "export", "--data", one).out, "id", "import", "-", "--data", two).code)

	desk := chatHere(t, "--data", one, "--user", "alice")
	addr := desk.ready().Addrs[0]
	bob := chatHere(t, "--ephemeral", "--user", "bob", "--peer", addr)
	bob.ready()
	desk.expect("member_joined", member("bob"))

	phone := chatHere(t, "--data", two, "--user", "alice", "--peer", addr, "--peer", bob.seen("ready")[0].Addrs[0])
	phone.ready()
	require.Equal(t, cli.ExitReplaced, desk.ended())
	require.Equal(t, "replaced", desk.expect("logged_out", nil).Reason)
	require.Equal(t, "replaced", desk.expect("bye", nil).Reason)
	require.Equal(t, "starling: the same user has logged in on another device\n", desk.errOut.String())

	// The old device has said goodbye to bob by now. He learns from the new one's hello, which is
	// on its way meanwhile, that it is there. Until then no user of that name is within his reach,
	// and the chat says so.
	bob.expect("peer_up", func(ev event) bool { return ev.Node.Peer == phone.seen("ready")[0].Peer })
	bob.say("/msg alice which one are you?")
	require.Equal(t, "which one are you?", phone.expect("direct_message", nil).Text)
	require.True(t, bob.result(1).OK)
}

func TestAWrongPeerIsToldOfAndTriedAgain(t *testing.T) {
	bob := chatHere(t, "--ephemeral", "--user", "bob", "--app", "other")
	addr := bob.ready().Addrs[0]
	own, _, _ := strings.Cut(addr, "/p2p/")
	alice := chatHere(t, "--ephemeral", "--user", "alice", "--peer", addr)
	got := alice.expect("peer_failed", nil)
	require.Equal(t, "other_app", got.Reason)
	require.Equal(t, bob.seen("ready")[0].Peer, got.Peer)
	require.Equal(t, []string{addr}, got.Addrs)

	carol := chatHere(t, "--ephemeral", "--user", "carol", "--peer", own+"/p2p/"+alice.eventually("ready").Peer)
	require.Equal(t, "other_peer", carol.expect("peer_failed", nil).Reason)

	dir := t.TempDir()
	dave := chatHere(t, "--data", dir, "--user", "dave")
	addr = dave.ready().Addrs[0]
	dave.in.Close()
	require.Equal(t, cli.ExitOK, dave.ended())
	erin := chatHere(t, "--ephemeral", "--user", "erin", "--peer", addr)
	require.Equal(t, "unreachable", erin.expect("peer_failed", nil).Reason)
	again := chatHere(t, "--data", dir, "--user", "dave")
	again.ready()
	require.Equal(t, "dave", erin.expect("peer_up", nil).Node.User)
}

// brokenWriter fails like a pipe whose reader is gone.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestAChatEndsWhenNobodyReadsIt(t *testing.T) {
	in, typing := pipe(t)
	defer typing.Close()
	defer in.Close()
	var errOut strings.Builder
	code := run(loopback("--ephemeral", "--user", "alice"), cli.System{Stdin: in, Stdout: brokenWriter{}, Stderr: &errOut})
	require.Equal(t, cli.ExitFailed, code)
	require.Equal(t, "starling: standard output: broken pipe\n", errOut.String())
}

func TestAChatWhoseReaderHasGoneStillLeavesItsRooms(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGPIPE: run it on Linux or macOS")
	}
	bob := chatHere(t, "--ephemeral", "--user", "bob")
	cmd := starling(t, loopback("--ephemeral", "--user", "alice", "--peer", bob.ready().Addrs[0])...)
	in, typing := pipe(t)
	defer typing.Close()
	out, shown := pipe(t)
	cmd.Stdin, cmd.Stdout = in, shown
	require.NoError(t, cmd.Start())
	in.Close()
	shown.Close()
	bob.expect("member_joined", member("alice"))
	out.Close()
	bob.say("anybody there?")
	require.Equal(t, "quit", bob.expect("member_left", member("alice")).Reason)
	var failed *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &failed)
	require.Equal(t, cli.ExitFailed, failed.ExitCode())
}
