package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
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
			require.Equal(t, cli.ExitOK, alice.ended())
			left := bob.expect("member_left", member("alice"))
			require.Equal(t, "quit", left.Reason)

			bob.in.Close()
			bye = bob.expect("bye", nil)
			require.Equal(t, "eof", bye.Reason)
			require.Equal(t, cli.ExitOK, bob.ended())
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
	require.Regexp(t, `^/ip4/127\.0\.0\.1/tcp/\d+/p2p/`+ready.Peer+`$`, ready.Addrs[0])
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

	// After leaving, the room entered before is current again; after leaving the last, none is.
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

	// They still reach each other outside rooms, and can enter a room again.
	alice.say("/msg bob still here", "/join lobby")
	require.Equal(t, "lobby", bob.expect("member_joined", member("alice")).Room)
	require.True(t, alice.result(12).OK)
	require.Equal(t, "still here", bob.eventually("direct_message").Text)
}

func TestARestartIsTheSameUserAtTheSameAddress(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var first event
	for i := range 2 {
		alice := chatHere(t, "--data", dir, "--user", "alice")
		ready := alice.ready()
		alice.in.Close()
		require.Equal(t, cli.ExitOK, alice.ended())
		if i == 0 {
			first = ready
			continue
		}
		require.Equal(t, first.Key, ready.Key)
		require.Equal(t, first.Peer, ready.Peer)
		require.Equal(t, first.Addrs, ready.Addrs)
	}
	require.Contains(t, runHere("id", "--data", dir).out, first.Peer)
}

func TestNameAndDirectoryDefaultToTheSystems(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("run it on Linux: only there XDG_CONFIG_HOME tells the configuration directory")
	}
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	me := chatHere(t)
	ready := me.ready()
	require.Equal(t, cli.DefaultUser(), ready.User)
	require.Contains(t, ready.raw, `"data":"`+filepath.Join(home, "starling")+`"`)
	require.Equal(t, []string{"lobby"}, ready.Rooms)
	require.FileExists(t, filepath.Join(home, "starling", "device.key"))
}

func TestASignalLeavesTheRoomsAndEndsWithinTwoSeconds(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows a process cannot be sent a signal: run it on Linux or macOS")
	}
	for way, start := range ways {
		for _, sig := range interrupts {
			t.Run(way+" by "+sig.String(), func(t *testing.T) {
				alice, bob := meet(t, start)
				begin := time.Now()
				alice.signal(sig)
				require.Equal(t, cli.ExitSignal+int(sig), alice.ended())
				require.Less(t, time.Since(begin), closeTime)
				bye := alice.expect("bye", nil)
				require.Equal(t, "signal", bye.Reason)
				require.EqualValues(t, cli.ExitSignal+int(sig), bye.Code)
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
	require.Equal(t, cli.ExitOK, alice.ended())
	results := alice.seen("sent")
	require.Len(t, results, 2*n)
	for _, r := range results {
		require.True(t, r.OK, r.raw)
	}
	bob.expect("member_left", member("alice"))
	require.Len(t, bob.seen("message"), n)
	require.Len(t, bob.seen("direct_message"), n)
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
			cli.System{Stdin: in, Stdout: shown, Stderr: shown})
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
	require.Equal(t, cli.ExitOK, <-done)

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

func TestStatusIsAnsweredInTheChat(t *testing.T) {
	alice, bob := meet(t, chatHere)
	alice.say("/status bob")
	s := alice.expect("status", nil)
	require.True(t, s.OK, "%+v", s)
	require.Equal(t, "online", s.State)
	require.Equal(t, "bob", s.User)
	alice.say("/status b/b")
	require.Equal(t, "bad_id", alice.expect("status", nil).Error)
	bob.say("/quit")
	bob.expect("bye", nil)
	alice.say("/status bob")
	require.Equal(t, "offline", alice.expect("status", nil).State)
}
