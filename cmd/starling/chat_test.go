package main

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestTwoChatsTalk(t *testing.T) {
	for way, start := range ways {
		t.Run(way, func(t *testing.T) {
			alice, bob := meet(t, start)

			alice.say("Grüße, 世界")
			got := bob.expect("message", nil)
			require.Equal(t, "Grüße, 世界", got.Text)
			require.Equal(t, "lobby", got.Room)
			require.Equal(t, "text", got.Kind)
			require.Equal(t, "alice", got.From.User)
			require.Equal(t, alice.seen("ready")[0].Key, got.From.Key)
			result := alice.result(1)
			require.True(t, result.OK)
			require.Equal(t, "1", result.ID)
			require.Equal(t, "lobby", result.Room)
			require.Equal(t, 1, *result.Neighbours)

			bob.say("/to alice psst")
			got = alice.expect("direct_message", nil)
			require.Equal(t, "psst", got.Text)
			require.Equal(t, "lobby", got.Room)
			require.Equal(t, "bob", got.From.User)
			result = bob.result(1)
			require.True(t, result.OK)
			require.Equal(t, "alice", result.To)
			require.Positive(t, result.RTT)

			bob.say("/msg alice outside")
			got = alice.expect("direct_message", nil)
			require.Equal(t, "outside", got.Text)
			require.Empty(t, got.Room)
			require.True(t, bob.result(2).OK)

			bob.say("/who")
			who := bob.expect("who", nil)
			require.Equal(t, "lobby", who.Room)
			require.Len(t, who.Members, 1)
			require.Equal(t, "alice", who.Members[0].User)
			require.Len(t, who.Online, 1)
			require.Equal(t, "alice", who.Online[0].User)

			alice.say("/quit")
			bye := alice.expect("bye", nil)
			require.Equal(t, "quit", bye.Reason)
			require.Equal(t, exitOK, alice.ended())
			left := bob.expect("member_left", member("alice"))
			require.Equal(t, "quit", left.Reason)

			bob.in.Close()
			bye = bob.expect("bye", nil)
			require.Equal(t, "eof", bye.Reason)
			require.Equal(t, exitOK, bob.ended())
		})
	}
}

func TestTheFirstEventSaysWhoAndWhereOneIs(t *testing.T) {
	alice := chatHere(t, "--user", "alice", "--ephemeral", "--app", "acme", "--room", "ops", "--room", "dev", "--room", "ops")
	ready := alice.ready()
	require.Equal(t, "ready", alice.first().Type)
	require.Equal(t, "acme", ready.App)
	require.Equal(t, []string{"ops", "dev"}, ready.Rooms)
	require.Len(t, ready.Key, identity.FingerprintSize)
	require.Len(t, ready.Addrs, 1)
	require.Regexp(t, `^/ip4/127\.0\.0\.1/tcp/\d+/p2p/`+ready.peer()+`$`, ready.Addrs[0])
	require.Empty(t, ready.Data)
	require.Equal(t, "ops", alice.expect("entered", nil).Room)
	require.Equal(t, "dev", alice.expect("entered", nil).Room)
	alice.say("first room is current")
	require.Equal(t, "ops", alice.result(1).Room)
}

func TestTextGoesToTheCurrentRoomOnly(t *testing.T) {
	alice, bob := meet(t, chatHere)
	alice.say("/join ops")
	require.Equal(t, "ops", alice.expect("entered", func(ev event) bool { return ev.Room == "ops" }).Room)
	bob.say("/join dev")
	bob.expect("entered", func(ev event) bool { return ev.Room == "dev" })

	alice.say("in ops", "/join lobby", "in the lobby")
	require.Equal(t, "ops", alice.result(2).Room)
	require.Equal(t, "in the lobby", bob.expect("message", nil).Text, "what was said in ops came through")

	// Leaving goes back to the room before, and leaving the last leaves none.
	alice.say("/leave")
	require.Equal(t, "lobby", alice.expect("exited", nil).Room)
	require.Equal(t, "lobby", bob.expect("member_left", member("alice")).Room)
	alice.say("/who", "/leave")
	require.Equal(t, "ops", alice.expect("who", nil).Room)
	require.Equal(t, "ops", alice.expect("exited", nil).Room)
	alice.say("to nobody", "/to bob nothing", "/leave", "/who")
	for _, line := range []int{8, 9} {
		result := alice.result(line)
		require.False(t, result.OK)
		require.Equal(t, "not_joined", result.Error)
		require.Equal(t, "you are in no room: /join ROOM", result.Detail)
	}
	require.Equal(t, "you are in no room: /join ROOM", alice.expect("error", nil).Detail)
	require.Empty(t, alice.expect("who", nil).Room)

	// Outside rooms they still reach each other, and a room can be entered again.
	alice.say("/msg bob still here", "/join lobby")
	require.Equal(t, "lobby", bob.expect("member_joined", member("alice")).Room)
	require.True(t, alice.result(12).OK)
	require.Equal(t, "still here", bob.seen("direct_message")[0].Text)
}

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
		{"/to b/b hi", "bad_id", `identity: user ID "b/b": '/' is not one of a-z A-Z 0-9 _ @ . -`},
		{"/msg bob#1 hi", "bad_id", `identity: address "bob#1": after '#' belongs a fingerprint of 16 characters of a-z 2-7`},
		{big + "y", "too_long", "mesh: message of 65537 bytes is over the limit of 65536"},
		{"/to bob " + big + "y", "too_long", "mesh: message of 65537 bytes is over the limit of 65536"},
		{"/msg bob " + big + "y", "too_long", "mesh: message of 65537 bytes is over the limit of 65536"},
		{"not\xffutf8", "not_text", "not valid UTF-8"},
		{"/to bob \xff", "not_text", "not valid UTF-8"},
		{"/msg bob \xff", "not_text", "not valid UTF-8"},
	} {
		alice.say(c.line)
		result := alice.result(i + 1)
		require.False(t, result.OK, "%.40q", c.line)
		require.Equal(t, c.code, result.Error, "%.40q", c.line)
		require.Equal(t, c.detail, result.Detail, "%.40q", c.line)
		require.Empty(t, result.ID, "what was refused here has no number")
	}
	alice.say("/msg bob that was all")
	require.Equal(t, "that was all", bob.expect("direct_message", nil).Text)
	require.True(t, alice.expect("sent", nil).OK)
	require.Empty(t, bob.seen("message"), "something was sent that was refused")

	// The largest message that is allowed does pass, each way.
	for line, typ := range map[string]string{"": "message", "/to bob ": "direct_message", "/msg bob ": "direct_message"} {
		alice.say(line + big)
		require.Equal(t, big, bob.expect(typ, nil).Text)
		require.True(t, alice.expect("sent", nil).OK)
	}
}

func TestMistypedLinesAreEventsAndTheChatGoesOn(t *testing.T) {
	alice := chatHere(t, "--user", "alice", "--ephemeral")
	alice.ready()
	alice.say("/wo", "/join a/b", "", strings.Repeat("x", maxLine+1), "/help", "fine")
	for _, want := range []struct {
		line   int
		detail string
	}{
		{1, "there is no /wo, did you mean /who?"},
		{2, `room a/b: identity: room ID "a/b": '/' is not one of a-z A-Z 0-9 _ @ . -`},
		{4, "a line of more than 131072 bytes"},
	} {
		got := alice.expect("error", nil)
		require.Equal(t, want.line, got.Line)
		require.Equal(t, want.detail, got.Detail)
	}
	require.Equal(t, chatHelp(), alice.expect("help", nil).Lines)
	require.True(t, alice.result(6).OK)
}

func TestARestartIsTheSameUserAtTheSameAddress(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var first event
	for i := range 2 {
		alice := chatHere(t, "--data", dir, "--user", "alice")
		ready := alice.ready()
		alice.in.Close()
		require.Equal(t, exitOK, alice.ended())
		if i == 0 {
			first = ready
			continue
		}
		require.Equal(t, first.Key, ready.Key)
		require.Equal(t, first.peer(), ready.peer())
		require.Equal(t, first.Addrs, ready.Addrs)
	}
	require.Contains(t, runHere("id", "--data", dir).out, first.peer())
}

func TestNameAndDirectoryDefaultToTheSystems(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the configuration directory is told by XDG_CONFIG_HOME on Linux only")
	}
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	me := chatHere(t)
	ready := me.ready()
	require.Equal(t, defaultUser(), ready.User)
	require.Contains(t, ready.raw, `"data":"`+filepath.Join(home, "starling")+`"`)
	require.Equal(t, []string{"lobby"}, ready.Rooms)
	require.FileExists(t, filepath.Join(home, "starling", "device.key"))
}

func TestADirectoryInUseIsNamedWithTheWaysOut(t *testing.T) {
	dir := t.TempDir()
	d, err := identity.OpenDir(dir)
	require.NoError(t, err)
	defer d.Close()
	second := chatProcess(t, "--data", dir, "--user", "alice")
	second.name = "second"
	require.Equal(t, exitFailed, second.ended())
	want := "identity: data directory " + dir + ": in use by another node\n" +
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
	require.Equal(t, exitFailed, alice.ended())
	got := alice.expect("error", nil)
	require.Equal(t, "key", got.Code)
	require.Equal(t, "identity: key file "+key+": damaged: no PEM block in it", got.Detail)
	left, err := os.ReadFile(key)
	require.NoError(t, err)
	require.Equal(t, "garbage", string(left))
}

func TestAPortInUseIsNamed(t *testing.T) {
	alice := chatHere(t, "--user", "alice", "--ephemeral")
	addr, _, _ := strings.Cut(alice.ready().Addrs[0], "/p2p/")
	bob := chatHere(t, "--user", "bob", "--ephemeral", "--listen", addr)
	require.Equal(t, exitFailed, bob.ended())
	got := bob.expect("error", nil)
	require.Equal(t, "listen", got.Code)
	require.Contains(t, got.Detail, "node: listen on "+addr+": ")
	require.Contains(t, got.Detail, "address already in use")
}

func TestASignalLeavesTheRoomsAndEndsWithinTwoSeconds(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent a signal here")
	}
	for way, start := range ways {
		for _, sig := range interrupts {
			t.Run(way+" by "+sig.String(), func(t *testing.T) {
				alice, bob := meet(t, start)
				begin := time.Now()
				alice.signal(sig)
				require.Equal(t, exitSignal+int(sig), alice.ended())
				require.Less(t, time.Since(begin), closeTime)
				bye := alice.expect("bye", nil)
				require.Equal(t, "signal", bye.Reason)
				require.EqualValues(t, exitSignal+int(sig), bye.Code)
				require.Empty(t, alice.errOut.String())
				require.Equal(t, "quit", bob.expect("member_left", member("alice")).Reason)
			})
		}
	}
}

func TestTheEndOfInputWaitsForTheResultsOfWhatWasTyped(t *testing.T) {
	alice, bob := meet(t, chatProcess)
	const n = 300 // more than may be under way at once
	var lines []string
	for range n {
		lines = append(lines, "/to bob direct", "to all")
	}
	alice.say(lines...)
	alice.in.Close()
	require.Equal(t, exitOK, alice.ended())
	results := alice.seen("sent")
	require.Len(t, results, 2*n)
	for _, r := range results {
		require.True(t, r.OK, r.raw)
	}
	bob.expect("member_left", member("alice"))
	require.Len(t, bob.seen("message"), n)
	require.Len(t, bob.seen("direct_message"), n)
}

func TestALogInElsewhereEndsTheChatWithACodeOfItsOwn(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	require.Equal(t, exitOK, runHere("id", "--data", one).code)
	require.Equal(t, exitOK, runWith(runHere("id", "export", "--data", one).out, "id", "import", "-", "--data", two).code)

	desk := chatHere(t, "--data", one, "--user", "alice")
	addr := desk.ready().Addrs[0]
	bob := chatHere(t, "--ephemeral", "--user", "bob", "--peer", addr)
	bob.ready()
	desk.expect("member_joined", member("bob"))

	phone := chatHere(t, "--data", two, "--user", "alice", "--peer", addr, "--peer", bob.seen("ready")[0].Addrs[0])
	phone.ready()
	require.Equal(t, exitDisplaced, desk.ended())
	require.Equal(t, "duplicate", desk.expect("logged_out", nil).Reason)
	require.Equal(t, "displaced", desk.expect("bye", nil).Reason)
	require.Equal(t, "starling: the same user has logged in on another device\n", desk.errOut.String())

	bob.say("/msg alice which one are you?")
	require.Equal(t, "which one are you?", phone.expect("direct_message", nil).Text)
	require.True(t, bob.result(1).OK)
}

func TestChatsOfDifferentAppsDoNotMeet(t *testing.T) {
	alice := chatHere(t, "--ephemeral", "--user", "alice")
	addr := alice.ready().Addrs[0]
	other := chatHere(t, "--ephemeral", "--user", "bob", "--app", "other", "--peer", addr)
	other.ready()
	bob := chatHere(t, "--ephemeral", "--user", "bob", "--peer", addr)
	bob.ready()
	alice.expect("member_joined", member("bob"))
	alice.say("/msg bob hi")
	require.Equal(t, "hi", bob.expect("direct_message", nil).Text)
	require.True(t, alice.result(1).OK)
	other.say("/who")
	who := other.expect("who", nil)
	require.Empty(t, who.Members)
	require.Empty(t, who.Online)
	require.Len(t, alice.seen("member_joined"), 1)
}

func TestAChatEndsWhenNobodyReadsIt(t *testing.T) {
	in, typing := pipe(t)
	defer typing.Close()
	defer in.Close()
	var errOut strings.Builder
	code := run(loopback("--ephemeral", "--user", "alice"), system{stdin: in, stdout: brokenWriter{}, stderr: &errOut})
	require.Equal(t, exitFailed, code)
	require.Equal(t, "starling: standard output: broken pipe\n", errOut.String())
}

func TestAChatWhoseReaderHasGoneStillLeavesItsRooms(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGPIPE here")
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
	require.Equal(t, exitFailed, failed.ExitCode())
}

func TestAChatForPeopleShowsTheSameInWords(t *testing.T) {
	bob := chatHere(t, "--ephemeral", "--user", "bob")
	addr := bob.ready().Addrs[0]
	in, typing := pipe(t)
	out, shown := pipe(t)
	defer func() {
		for _, f := range []*os.File{in, typing, out} {
			f.Close()
		}
	}()
	done := make(chan int, 1)
	go func() {
		defer shown.Close()
		done <- run([]string{"chat", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--ephemeral", "--user", "alice", "--peer", addr},
			system{stdin: in, stdout: shown, stderr: shown})
	}()
	screen := bufio.NewReader(out)
	var got string
	until := func(want string) {
		for !strings.HasSuffix(got, want+"\n") {
			line, err := screen.ReadString('\n')
			require.NoError(t, err, "%q is not in\n%s", want, got)
			got += line
		}
	}
	typ := func(lines string) {
		_, err := typing.WriteString(lines)
		require.NoError(t, err)
	}
	bob.expect("member_joined", member("alice"))
	typ("hello\n")
	require.Equal(t, "hello", bob.expect("message", nil).Text)
	bob.say("\x1b[2Jboo")
	until(`bob: \x1b[2Jboo`)
	typ("/to bob psst\n/to carol psst\n/wo\n/quit\n")
	until("Bye.")
	require.Equal(t, exitOK, <-done)

	require.Regexp(t, `^You are alice, key [a-z2-7]{16}, peer 12D3Koo\w+\.\nThe key is in memory only`, got)
	for _, want := range []string{
		`(?m)^  --peer /ip4/127\.0\.0\.1/tcp/\d+/p2p/12D3Koo\w+$`,
		`(?m)^\* (you are in lobby, with bob|bob has joined lobby)$`,
		`(?m)^  sent to lobby$`,
		`(?m)^bob: \\x1b\[2Jboo$`,
		`(?m)^  delivered to bob in [0-9.]+ ms$`,
		`(?m)^  NOT SENT to carol, line 3: no such member in this room \(outside rooms: /msg\)$`,
		`(?m)^! there is no /wo, did you mean /who\?$`,
		`\nBye\.\n$`,
	} {
		require.Regexp(t, want, got)
	}
	require.NotContains(t, got, "\x1b")
}

func TestEveryObjectOfAChatHasATypeAndATime(t *testing.T) {
	alice, _ := meet(t, chatHere)
	alice.say("hi", "/who", "/help", "/nothing")
	alice.in.Close()
	alice.ended()
	for line := range strings.Lines(alice.all()) {
		var head struct {
			Type string
			Time time.Time
		}
		require.NoError(t, json.Unmarshal([]byte(line), &head))
		require.NotEmpty(t, head.Type, line)
		require.WithinDuration(t, time.Now(), head.Time, time.Minute, line)
	}
}
