package screen

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// scenes are screens, and what leads to them.
var scenes = []struct {
	name string
	play func(d *desk)
}{
	{"empty-room", func(*desk) {}},
	{"marks", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(message("lobby", bob, "Is anybody there?"))
		d.types("I am\n")
		d.result("", nil)
		d.types("/to bob between us\n")
		d.result("bob", nil)
		d.types("/to bob once more\n")
		d.result("bob", mesh.ErrUnconfirmed)
		d.types("/to carol hi\n")
		d.result("carol", mesh.ErrNotMember)
		d.types("/to bob and again\n")
		d.result("bob", &mesh.RefusedError{Reason: mesh.QueueFull})
		d.types("under way\n")
		d.happens(whisper("lobby", bob, "for you alone"))
	}},
	{"unread", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(joined("ops", carol)...)
		d.happens(message("ops", carol, "one"), message("ops", carol, "two"), message("lobby", bob, "here it is quiet"))
		d.happens(whisper("", carol, "and you?"))
		d.types("/msg bob see you\n")
		d.press(tea.KeyPressMsg{Code: '1', Mod: tea.ModAlt})
		d.result("bob", mesh.ErrUnreachable)
	}},
	{"direct", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(whisper("", bob, "outside the room"))
		d.press(ctrl('n'), ctrl('n'))
		d.types("I hear you\n")
		d.result("bob", nil)
	}},
	{"commands", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(message("lobby", bob, "the newest is not hidden"))
		d.types("/")
	}},
	{"names", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(joined("lobby", person("bertha", 4))...)
		d.types("/to b")
		d.press(tab)
	}},
	{"wide", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(
			message("lobby", bob, strings.Repeat("a long text of many words that goes on ", 6)),
			message("lobby", bob, strings.Repeat("unbroken", 30)),
			message("lobby", bob, "世界"+strings.Repeat("漢字", 60)),
			message("lobby", bob, "combining: e\u0301 a\u0308 o"+strings.Repeat("\u0301", 200)+" ready"),
			message("lobby", bob, "emoji: 👩\u200d👩\u200d👧 👍🏽 ❤\ufe0f 🇩🇪 ✅, "+strings.Repeat("👩\u200d👩\u200d👧", 12)+" done"),
			message("lobby", bob, "real\n12:04 carol forged?"),
			message("lobby", bob, "\x1b[2J\x1b]0;owned\x07 \u202egnp.exe\ttab"),
			&mesh.Message{Header: mesh.Header{Room: "lobby"}, From: bob, Data: []byte{0, 0xff}},
		)
		d.types("世界 e\u0301")
	}},
	{"left", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(joined("lobby", carol)...)
		d.happens(
			&mesh.MemberLeft{Header: mesh.Header{Room: "lobby"}, Member: mesh.Member{Login: bob}, Reason: mesh.Quit},
			&node.PeerDown{Peer: node.Peer{Login: bob}},
			&node.PeerDown{Peer: node.Peer{Login: carol}},
			&mesh.GapLost{Header: mesh.Header{Room: "lobby"}, From: carol, First: 4, Last: 6},
			session.Trouble{Head: session.NewHead("error", "ops"), Line: 0, Code: "room", Detail: "you are out of ops: you have joined it from another device"},
		)
	}},
	{"status", func(d *desk) {
		dave, erin, frank, grace := person("dave", 4), person("erin", 5), person("frank", 6), person("grace.of.the.long.name", 7)
		for _, p := range []identity.Login{bob, carol, dave, erin, frank, grace} {
			d.happens(&mesh.MemberJoined{Header: mesh.Header{Room: "lobby"}, Member: mesh.Member{Login: p}})
		}
		d.happens(joined("lobby", bob)[0])
		d.is(bob, presence.Online, presence.Connected, time.Second)
		d.is(carol, presence.Offline, presence.Goodbye, time.Minute)
		d.is(dave, presence.Unreachable, presence.Stored, time.Minute)
		d.is(erin, presence.Unreachable, presence.Nothing, 0)
		d.is(grace, presence.Online, presence.Probed, 0)
		d.happens(whisper("", carol, "good night"))
	}},
	{"status-of-one", func(d *desk) {
		d.happens(joined("lobby", carol)...)
		d.happens(whisper("", carol, "good night"))
		d.is(carol, presence.Offline, presence.Goodbye, 5*time.Minute)
		d.press(ctrl('p'))
	}},
	{"no-peer", func(d *desk) {
		addr := "/ip4/192.0.2.9/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
		d.happens(&node.PeerFailed{Peer: bob.Peer, Addrs: []string{addr}, Reason: node.NobodyThere, Detail: "connection refused"})
		d.happens(&node.PeerFailed{Peer: bob.Peer, Addrs: []string{addr}, Reason: node.OtherPeer, Detail: "the peer there is 12D3KooWNaEFADvRaAopGCdgEPp8wKB3XW2YzCUxgkzizsTh9odk"})
		d.happens(joined("lobby", bob)...)
	}},
	{"token-ends", func(d *desk) {
		d.guarded()
		d.happens(&mesh.TokenExpiring{Expires: d.ui.now().Add(30 * time.Second)},
			&mesh.TokenExpiring{Header: mesh.Header{Room: "lobby"}, Expires: d.ui.now().Add(30 * time.Second)})
	}},
	{"token-newer", func(d *desk) {
		d.guarded()
		d.happens(&mesh.TokenExpiring{Expires: d.ui.now().Add(30 * time.Second)},
			&mesh.TokenExpiring{Header: mesh.Header{Room: "lobby"}, Expires: d.ui.now().Add(30 * time.Second)},
			session.Trouble{Head: session.NewHead("error", "lobby"), Line: 0, Code: "token", Detail: `the token is refused: it does not admit to the room "lobby"`},
			session.Renewed{Head: session.NewHead("token", ""), Line: 0, Expires: d.ui.now().Add(time.Hour)})
		d.types("/token /run/me.token\n")
		d.happens(session.Renewed{Head: session.NewHead("token", "lobby"), Line: 1, Expires: d.ui.now().Add(24 * time.Hour)})
	}},
	{"token-ended", func(d *desk) {
		d.guarded()
		d.happens(
			&node.TokenEnded{Revoked: true, Reason: "its issuer has revoked it"},
			session.Trouble{Head: session.NewHead("error", "ops"), Line: 0, Code: "room", Detail: "you are out of ops: the issuer has revoked your token"},
			session.Trouble{Head: session.NewHead("error", "lobby"), Line: 0, Code: "room", Detail: "you are out of lobby: the issuer has revoked your token"})
	}},
	{"name-taken", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(whisper("", bob, "hi"))
		d.press(ctrl('n'), ctrl('n'))
		d.types("hello\n")
		d.ended(bob.Address().String(), bob, bob.Key, nil)
		d.happens(joined("lobby", imposter)...)
		d.happens(taken(), goes(bob), whisper("", imposter, "it is me"))
		d.types("really?\n")
		d.ended(bob.Address().String(), identity.Login{}, bob.Key, &presence.NotFoundError{Address: bob.Address(), Others: []identity.Login{imposter}})
	}},
	{"two-of-one-name", func(d *desk) {
		d.happens(joined("lobby", bob)...)
		d.happens(joined("lobby", imposter)...)
		d.happens(contested(), whisper("", bob, "hi"))
		d.types("/to bob hello\n")
		err := &identity.ConflictError{User: "bob", Found: []identity.Login{imposter, bob}}
		d.happens(session.Sent{Head: session.NewHead("sent", "lobby"), Line: len(d.given), To: "bob"}.Result(err))
	}},
	{"help", func(d *desk) { d.types("/help\n") }},
	{"nowhere", func(d *desk) {
		for _, room := range []string{"lobby", "ops"} {
			d.types("/leave\n")
			d.happens(session.Exited{Head: session.NewHead("exited", room)})
		}
		d.types("hello?\n")
	}},
}

func TestScreens(t *testing.T) {
	for _, s := range scenes {
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%s %dx%d", s.name, size.width, size.height), func(t *testing.T) {
				d := sit(t, size.width, size.height, "lobby", "ops")
				s.play(d)
				d.matches(s.name)
			})
		}
	}
}

func TestScreensFollowASizeThatChanges(t *testing.T) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			d := sit(t, 80, 24, "lobby", "ops")
			s.play(d)
			for _, size := range [][2]int{{200, 60}, {50, 12}, {30, 8}, {24, 6}, {120, 30}, {66, 10}} {
				d.size(size[0], size[1])
				d.whole()
			}
			for _, size := range [][2]int{{1, 1}, {0, 0}, {10, 3}} { // as small as a terminal can say it is
				d.size(size[0], size[1])
				d.ui.View()
			}
			d.size(80, 24)
			d.matches(s.name) // as if nothing had happened
		})
	}
}

func TestWhoIsOnTheScreenIsAskedAfterAndNobodyElse(t *testing.T) {
	d := sit(t, 80, 24, "lobby", "ops")
	d.happens(joined("lobby", bob)...)
	d.happens(joined("ops", carol)...)
	require.Equal(t, []string{bob.Address().String()}, d.attended)
	d.press(ctrl('n'))
	require.Equal(t, []string{carol.Address().String()}, d.attended)
	d.happens(whisper("", bob, "psst"))
	require.Equal(t, []string{bob.Address().String(), carol.Address().String()}, d.attended, "conversations with users have a dot, too")
	d.size(50, 24) // no column of members
	require.Equal(t, []string{bob.Address().String()}, d.attended)
	d.size(80, 24)

	d.stirred = nil
	d.happens(&node.PeerDown{Peer: node.Peer{Login: bob}})
	require.Equal(t, []string{bob.Address().String()}, d.stirred)
	for i := range 1000 {
		d.happens(&mesh.MemberJoined{Header: mesh.Header{Room: "ops"}, Member: mesh.Member{Login: person(fmt.Sprint("user", i), byte(i))}})
	}
	require.Less(t, len(d.attended), 24)
	require.Contains(t, d.screen(), "and 98")
	for i := range 2 * maxStandings {
		d.is(person(fmt.Sprint("user", i), byte(i)), presence.Online, presence.Probed, 0)
	}
	require.LessOrEqual(t, len(d.ui.standings), maxStandings)
}

func TestScrollingBackStaysWhereItIs(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.happens(joined("lobby", bob)...)
	for i := range 100 {
		d.happens(message("lobby", bob, fmt.Sprintf("number %d.", i)))
	}
	require.Contains(t, d.screen(), "number 99.")
	d.press(pgUp)
	seen := strings.Split(d.screen(), "\n")[1:20]
	require.NotContains(t, d.screen(), "number 99.")
	d.happens(message("lobby", bob, strings.Repeat("a long one ", 20)), message("lobby", bob, "another"))
	require.Equal(t, seen, strings.Split(d.screen(), "\n")[1:20])
	require.Contains(t, d.screen(), "↓ 2 new below")
	d.press(tea.KeyPressMsg{Code: tea.KeyHome, Mod: tea.ModCtrl})
	require.Contains(t, d.screen(), "you are alice, key")
	d.press(tea.KeyPressMsg{Code: tea.KeyEnd, Mod: tea.ModCtrl})
	require.Contains(t, d.screen(), "another")
	require.NotContains(t, d.screen(), "below")
	d.press(pgUp, pgDown)
	require.Contains(t, d.screen(), "another")
}

func TestWhatIsTypedGoesWhereTheScreenSays(t *testing.T) {
	d := sit(t, 80, 24, "lobby", "ops")
	d.happens(joined("lobby", bob)...)
	d.types("to the lobby\n")
	d.press(ctrl('n'))
	d.types("to ops\n//slash\n/who\n")
	d.types("/msg bob hello\n")
	require.Contains(t, d.screen(), "@bob ›")
	d.types("again\n/to bob no\n")
	require.Contains(t, d.screen(), "/to is for rooms, and this is none:")
	d.types("/join lobby\n")
	require.Contains(t, d.screen(), "#lobby ›")
	d.types("/nonsense\n/leave\n")
	require.Equal(t, []session.Typed{
		{Text: "to the lobby", Room: "lobby"},
		{Text: "to ops", Room: "ops"},
		{Text: "//slash", Room: "ops"},
		{Text: "/who", Room: "ops"},
		{Text: "/msg bob hello", Room: "ops", User: bob},
		{Text: "/msg " + bob.Address().String() + " again", User: bob}, // the key that is shown, whoever is called bob by then
		{Text: "/leave", Room: "lobby"},
	}, d.given)
	require.Contains(t, d.screen(), "! there is no /nonsense")

	d.full = true
	d.types("kept\n")
	require.Contains(t, d.screen(), "lines wait to be seen to")
	require.Contains(t, d.screen(), "#lobby › kept")
}

func TestAConversationOfAnotherKeyUnderAKnownNameIsAnother(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	imposter := person("bob", 9)
	d.happens(&node.IdentityConflict{User: "bob", Pinned: bob.Key, Other: imposter})
	d.happens(whisper("", imposter, "it is me"), whisper("", bob, "no, me"))
	var names []string
	for _, k := range d.ui.talks {
		names = append(names, k.name())
	}
	require.Equal(t, []string{"#lobby", imposter.Address().String(), "bob"}, names)
	d.press(ctrl('n'))
	d.types("who?\n")
	require.Equal(t, "/msg "+imposter.Address().String()+" who?", d.given[0].Text)
}

func TestHistoryGoesBackAndReturnsToTheDraft(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.types("first\nsecond\nsecond\ndraft")
	line := func() string { return d.ui.here.line.text }
	d.press(up)
	require.Equal(t, "second", line())
	d.press(up, up, up)
	require.Equal(t, "first", line())
	d.press(down, down, down)
	require.Equal(t, "draft", line())
}

func TestTabCompletesCommandsRoomsAndNames(t *testing.T) {
	d := sit(t, 80, 24, "lobby", "ops")
	d.happens(joined("lobby", bob)...)
	d.happens(joined("lobby", person("bertha", 4))...)
	d.happens(joined("ops", carol)...)
	for in, want := range map[string]string{
		"/wh":       "/who",
		"/j":        "/join ",
		"/join o":   "/join ops",
		"/to bo":    "/to bob ",
		"/msg c":    "/msg carol ",
		"/to b":     "/to bertha ",
		"BO":        "bob: ",
		"hello bob": "hello bob ",
		"/to bob b": "/to bob bertha ",
		"/zz":       "/zz",
		"//j":       "//j",
		"":          "",
	} {
		d.ui.here.line.set(in)
		d.ui.complete = completion{}
		d.press(tab)
		require.Equal(t, want, d.ui.here.line.text, in)
	}
	d.ui.here.line.set("/to b")
	d.ui.complete = completion{}
	d.press(tab, tab)
	require.Equal(t, "/to bob ", d.ui.here.line.text)
	d.press(tab)
	require.Equal(t, "/to bertha ", d.ui.here.line.text, "it goes round")
	d.press(tea.KeyPressMsg{Code: tea.KeyTab, Mod: tea.ModShift})
	require.Equal(t, "/to bob ", d.ui.here.line.text)

	d.ui.here.line.set("")
	d.types("/")
	require.Contains(t, d.screen(), "/quit")
	d.press(escape)
	require.NotContains(t, d.screen(), "/quit")
}

func TestEditingGoesByWhatIsShownInOnePlace(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	line := &d.ui.here.line
	d.types("ab世e\u0301")
	require.Equal(t, 2+2+1, d.cursor())
	d.press(erase)
	require.Equal(t, "ab世", line.text)
	d.press(left, left, erase)
	require.Equal(t, "b世", line.text)
	d.press(ctrl('e'))
	d.types(" last word")
	d.press(ctrl('w'))
	require.Equal(t, "b世 last ", line.text)
	d.press(ctrl('a'), ctrl('k'))
	require.Empty(t, line.text)

	d.ui.Update(tea.PasteMsg{Content: "two\r\nlines"})
	require.Equal(t, "two\nlines", line.text)
	require.Contains(t, d.screen(), "two⏎lines")
	d.ui.Update(tea.PasteMsg{Content: strings.Repeat("x", session.MaxLine)})
	require.Equal(t, "two\nlines", line.text, "too much is not taken in part")

	line.set(strings.Repeat("0123456789", 20))
	d.whole()
	require.Less(t, d.cursor(), 80)
	d.types("end")
	require.Contains(t, d.screen(), "789end")
	d.ui.Update(tea.PasteMsg{Content: "\x1b[2J\u202e"})
	require.Contains(t, d.screen(), `end\x1b[2J\u202e`)
}

func TestCtrlCAsksTheSessionToEndAndSaysSo(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	require.NotContains(t, d.screen(), "leaving…")
	d.press(ctrl('c'))
	require.Equal(t, 1, d.interrupted)
	require.Contains(t, d.screen(), "leaving…")
	d = sit(t, 80, 24, "lobby")
	d.happens(leaving{})
	require.Contains(t, d.screen(), "leaving…")
}

func TestWhatPeersSendIsKeptWithinBounds(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.types("/join none\n") // fails; alice can still type
	big := strings.Repeat("x ", 30000)
	for range 2 * maxEntryBytes / len(big) {
		d.happens(message("lobby", bob, big))
	}
	require.LessOrEqual(t, d.ui.here.bytes, maxEntryBytes)
	for i := range 2 * maxEntries {
		d.happens(message("lobby", bob, fmt.Sprint(i)))
	}
	require.Len(t, d.ui.here.entries, maxEntries)
	for i := range 2 * maxDirect {
		d.happens(whisper("", person(fmt.Sprintf("user%d", i), byte(i)), "hi"))
	}
	require.Len(t, d.ui.talks, 1+maxDirect)
	require.Contains(t, d.screen(), "#lobby ›")
	d.whole()
}

func TestARoomThatWasLeftIsNotOpenedByWhatComesLate(t *testing.T) {
	d := sit(t, 80, 24, "lobby", "ops")
	d.types("/leave\n")
	d.happens(session.Exited{Head: session.NewHead("exited", "lobby")}, message("lobby", bob, "late"),
		&mesh.MemberLeft{Header: mesh.Header{Room: "lobby"}, Member: mesh.Member{Login: bob}})
	require.Len(t, d.ui.talks, 1)
	require.Equal(t, "ops", d.ui.here.room)
	require.NotContains(t, d.screen(), "late")
}

func TestAnUnknownErrorIsAFailureWithItsWords(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.types("hello\n")
	d.result("", errors.New("the \x1b[31mdisk is full"))
	require.Contains(t, d.screen(), `✗ not sent: the \x1b[31mdisk is full`)
}

func TestARefusalSaysWhyAndTheWayOut(t *testing.T) {
	d := sit(t, 120, 24, "lobby")
	d.types("/to carol hi\n")
	d.result("carol", &mesh.RefusedError{Reason: mesh.NotMember})
	require.Contains(t, d.screen(), "✗ not sent: no such member in this room (outside rooms: /msg)")
	d.types("/to bob hi\n")
	d.result("bob", &mesh.RefusedError{Reason: mesh.QueueFull})
	require.Contains(t, d.screen(), "✗ refused: queue full")
}

func TestTextsOfSeveralLinesStandBelowTheirBeginning(t *testing.T) {
	d := sit(t, 120, 24, "lobby")
	d.happens(message("lobby", bob, "one\ntwo"), session.Trouble{Detail: "three\nfour"})
	d.types("five\n")
	d.result("", errors.New("six\nseven"))
	lines := strings.Split(d.screen(), "\n")
	for i, want := range map[string]string{"one": "          | two", "! three": "          | four", "✗ not sent: six": "          | seven"} {
		at := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, i) })
		require.Positive(t, at, i)
		require.Contains(t, lines[at+1], "│ "+want+" ", i)
	}
}
