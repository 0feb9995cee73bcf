package screen

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

var update = flag.Bool("update", false, "write the screens of testdata anew")

// sizes are the screens that are kept in testdata.
var sizes = []struct{ width, height int }{{80, 24}, {200, 60}, {40, 12}}

// person is a login that is the same in each run.
func person(user string, key byte) identity.Login {
	return identity.Login{User: user, Key: identity.PublicKey{key}, Peer: peer.ID(fmt.Sprintf("peer %d", key))}
}

var (
	alice = person("alice", 1)
	bob   = person("bob", 2)
	carol = person("carol", 3)
)

// desk is a screen without a terminal, with alice in front of it.
type desk struct {
	t           *testing.T
	ui          *tui
	given       []session.Typed // to the session
	attended    []string        // the users to ask about
	stirred     []string
	interrupted int
	full        bool // the session accepts no more
}

// sit starts a chat of that size with some rooms.
func sit(t *testing.T, width, height int, rooms ...string) *desk {
	t.Helper()
	d := &desk{t: t}
	d.ui = newTUI(func(l session.Typed) bool {
		if !d.full {
			d.given = append(d.given, l)
		}
		return !d.full
	}, func() { d.interrupted++ })
	d.ui.attend = func(users []string) { d.attended = users }
	d.ui.stir = func(user string) { d.stirred = append(d.stirred, user) }
	clock := time.Date(2026, 3, 2, 12, 4, 0, 0, time.UTC)
	d.ui.now, d.ui.zone = func() time.Time { return clock }, time.UTC
	d.ui.words.Now, d.ui.words.Zone = d.ui.now, time.UTC
	d.size(width, height)
	d.happens(session.Ready{Head: session.NewHead("ready", ""), Login: alice, Addrs: []string{"/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWAlice"}, Rooms: rooms, MDNS: true})
	for _, r := range rooms {
		d.happens(session.Entered{Head: session.NewHead("entered", r), Members: []mesh.Member{}})
	}
	return d
}

func (d *desk) size(width, height int) {
	d.ui.Update(tea.WindowSizeMsg{Width: width, Height: height})
}

// happens brings events of the session or of the mesh, or other occurrences, to the screen.
func (d *desk) happens(events ...any) {
	var all happened
	for _, ev := range events {
		switch ev := ev.(type) {
		case mesh.Event:
			all = append(all, told{session.Heard{Event: ev}})
		case session.Event:
			all = append(all, told{ev})
		default:
			all = append(all, ev.(occurrence))
		}
	}
	d.ui.Update(all)
}

// types presses a key for each rune of a text; "\n" is Enter.
func (d *desk) types(text string) {
	for _, r := range text {
		if r == '\n' {
			d.press(tea.KeyPressMsg{Code: tea.KeyEnter})
			continue
		}
		d.press(tea.KeyPressMsg{Code: r, Text: string(r)})
	}
}

func (d *desk) press(keys ...tea.KeyPressMsg) {
	for _, k := range keys {
		d.ui.Update(k)
	}
}

var (
	tab    = tea.KeyPressMsg{Code: tea.KeyTab}
	up     = tea.KeyPressMsg{Code: tea.KeyUp}
	down   = tea.KeyPressMsg{Code: tea.KeyDown}
	pgUp   = tea.KeyPressMsg{Code: tea.KeyPgUp}
	pgDown = tea.KeyPressMsg{Code: tea.KeyPgDown}
	left   = tea.KeyPressMsg{Code: tea.KeyLeft}
	erase  = tea.KeyPressMsg{Code: tea.KeyBackspace}
	escape = tea.KeyPressMsg{Code: tea.KeyEscape}
)

func ctrl(r rune) tea.KeyPressMsg { return tea.KeyPressMsg{Code: r, Mod: tea.ModCtrl} }

// screen returns what is seen, without its colours.
func (d *desk) screen() string {
	var b strings.Builder
	for line := range strings.Lines(ansi.Strip(d.ui.View().Content)) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

// whole checks that the screen has exactly its size.
func (d *desk) whole() {
	d.t.Helper()
	lines := strings.Split(d.ui.View().Content, "\n")
	require.Len(d.t, lines, d.ui.height)
	for i, l := range lines {
		require.LessOrEqual(d.t, d.ui.cells.width(l), d.ui.width, "line %d: %q", i+1, l)
	}
}

// matches compares the screen with the one in testdata.
func (d *desk) matches(name string) {
	d.t.Helper()
	d.whole()
	path := filepath.Join("testdata", "screens", fmt.Sprintf("%s-%dx%d.txt", name, d.ui.width, d.ui.height))
	got := d.screen()
	if *update {
		require.NoError(d.t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(d.t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(d.t, err, "go test -run Screens -update writes it")
	require.Equal(d.t, string(want), got, path)
}

func message(room string, from identity.Login, text string) *mesh.Message {
	return &mesh.Message{Header: mesh.Header{Room: room}, From: from, Kind: mesh.Text, Data: []byte(text)}
}

func whisper(room string, from identity.Login, text string) *mesh.DirectMessage {
	return &mesh.DirectMessage{Header: mesh.Header{Room: room}, From: from, Kind: mesh.Text, Data: []byte(text)}
}

func joined(room string, who identity.Login) []any {
	return []any{
		&node.PeerUp{Peer: node.Peer{Login: who, LoggedIn: true}},
		&mesh.MemberJoined{Header: mesh.Header{Room: room}, Member: mesh.Member{Login: who}},
	}
}

// is makes the asker report the status of a user.
func (d *desk) is(who identity.Login, state presence.State, source presence.Source, age time.Duration) {
	s := standing{who.Address().String(), presence.Status{User: who.User, State: state, Login: who, Source: source, Age: age}, d.ui.now()}
	if source == presence.Nothing || source == presence.Stored && state == presence.Offline {
		s.Login = identity.Login{}
	}
	d.happens(s)
}

// guarded makes the lobby a room of an app whose tokens give roles.
func (d *desk) guarded() {
	d.happens(session.Entered{Head: session.NewHead("entered", "lobby"), Role: "host", Members: []mesh.Member{{Login: bob, Role: "moderator"}, {Login: carol, Role: "member"}}})
	d.happens(&node.PeerUp{Peer: node.Peer{Login: bob, LoggedIn: true}}, &node.PeerUp{Peer: node.Peer{Login: carol, LoggedIn: true}})
	d.happens(&mesh.MemberJoined{Header: mesh.Header{Room: "lobby"}, Member: mesh.Member{Login: person("dave", 4), Role: "moderator"}})
}

// result sends the screen the result of the last typed message.
func (d *desk) result(to string, err error) {
	room := ""
	if to == "" {
		room = d.given[len(d.given)-1].Room
	}
	s := session.Sent{Head: session.NewHead("sent", room), Line: len(d.given), To: to, RTT: 0.8}
	d.happens(s.Result(err))
}

// cursor is the column of the cursor behind the prompt.
func (d *desk) cursor() int { return d.ui.View().Cursor.X - len(" #lobby > ") }
