package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// chatter is a user with keys, and with a token in a file.
type chatter struct{ data, peer, user, file string }

func (a *acme) chatter(user string) *chatter {
	c := &chatter{user: user, data: a.t.TempDir(), file: filepath.Join(a.t.TempDir(), "token")}
	c.peer, _ = deviceOf(a.t, c.data)
	return c
}

// give writes a token into the chatter's file.
func (a *acme) give(c *chatter, flags ...string) {
	a.t.Helper()
	a.giveFor(c, "lobby", flags...)
}

// giveFor is give for a room, with a role.
func (a *acme) giveFor(c *chatter, room string, flags ...string) {
	a.t.Helper()
	got := runHere(append([]string{"token", "issue", "--dir", a.dir, "--user", c.user, "--device", c.peer, "--login", "--room", room}, flags...)...)
	require.Equal(a.t, cli.ExitOK, got.code, got.errOut)
	require.NoError(a.t, cli.ReplaceFile(c.file, []byte(got.out), 0o600))
}

func (a *acme) flags(c *chatter, more ...string) []string {
	return append([]string{"--issuers", a.issuers, "--token", c.file, "--data", c.data}, more...)
}

func TestAChatWithATokenIsWhoTheTokenSays(t *testing.T) {
	a := newAcme(t)
	alice, bob := a.chatter("alice"), a.chatter("bob")
	a.give(alice)
	a.give(bob)
	one := chatHere(t, a.flags(alice)...)
	ready := one.ready()
	require.Equal(t, "alice", ready.User, "whatever the system calls who runs it")
	two := chatHere(t, "--issuers", a.issuers, "--token", "-", "--data", bob.data, "--peer", ready.Addrs[0])
	token, err := os.ReadFile(bob.file)
	require.NoError(t, err)
	two.say(strings.TrimSpace(string(token)), "the line behind the token")
	require.Equal(t, "bob", two.ready().User)
	require.True(t, two.result(1).OK)
	one.expect("member_joined", member("bob")) // they have exchanged hellos
	two.say("/msg alice hello")
	require.True(t, two.result(2).OK)
	require.Equal(t, "hello", one.expect("direct_message", nil).Text)
	two.say("/join board")
	require.Equal(t, `join board: token: it does not admit to the room "board"`, two.expect("error", nil).Detail)
}

func TestANewerTokenIsTakenFromItsFile(t *testing.T) {
	a := newAcme(t)
	alice, bob := a.chatter("alice"), a.chatter("bob")
	a.give(alice, "--life", "4s")
	a.give(bob)
	begun := time.Now()
	one := chatHere(t, a.flags(alice)...)
	ready := one.ready()
	two := chatHere(t, a.flags(bob, "--peer", ready.Addrs[0])...)
	two.expect("member_joined", member("alice"))
	warned := []string{one.expect("token_expiring", nil).Room, one.expect("token_expiring", nil).Room}
	require.ElementsMatch(t, []string{"", "lobby"}, warned) // the node and the room, in either order
	require.NoError(t, os.WriteFile(alice.file, []byte("half a tok"), 0o600))
	a.give(alice)
	for n := 1; time.Since(begun) < 6*time.Second; n++ { // past the end of the first token
		two.say("are you there?")
		require.Equal(t, "are you there?", one.expect("message", nil).Text)
		time.Sleep(100 * time.Millisecond) // the test waits for the time itself
	}
	require.Empty(t, one.seen("error"))
	require.Empty(t, two.seen("member_left"))
	one.say("yes")
	require.Equal(t, "yes", two.expect("message", func(ev event) bool { return ev.From.User == "alice" }).Text)
}

func TestAChatWithAWrongTokenSaysWhy(t *testing.T) {
	a, other := newAcme(t), newAcme(t)
	alice := a.chatter("alice")
	a.give(alice)
	for _, c := range []struct {
		name, detail string
		args         []string
	}{
		{"of another device", "log in: token: it is bound to the device key ",
			[]string{"--issuers", a.issuers, "--token", alice.file, "--data", t.TempDir()}},
		{"for another user", `log in: token: it was issued to the user "alice", not to "bob"`,
			a.flags(alice, "--user", "bob")},
		{"of another issuer", "log in: token: signed with the key ",
			[]string{"--issuers", other.issuers, "--token", alice.file, "--data", alice.data}},
		{"for another app", `log in: token: it is for the app "starling", this is "acme"`,
			a.flags(alice, "--app", "acme")},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := chatHere(t, c.args...)
			require.Equal(t, cli.ExitFailed, k.ended())
			ev := k.expect("error", nil)
			require.Equal(t, "token", ev.Code)
			require.True(t, strings.HasPrefix(ev.Detail, c.detail), ev.Detail)
			require.Contains(t, k.errOut.String(), "starling: "+c.detail)
		})
	}
}

func TestARevocationGivenToOneChatEndsAnothers(t *testing.T) {
	a := newAcme(t)
	alice, bob := a.chatter("alice"), a.chatter("bob")
	a.give(alice)
	a.give(bob)
	one := chatHere(t, a.flags(alice)...)
	addr := one.ready().Addrs[0]
	got := runHere("token", "revoke", alice.file, "--dir", a.dir)
	require.Equal(t, cli.ExitOK, got.code, got.errOut)
	two := chatHere(t, a.flags(bob, "--peer", addr, "--revocations", filepath.Join(a.dir, "starling.revocations"))...)
	two.ready()
	require.Equal(t, "its issuer has revoked it", one.expect("token_ended", nil).Reason)
	require.Eventually(t, func() bool { return len(one.seen("error")) == 1 }, patience, 10*time.Millisecond)
	require.Equal(t, "you are out of lobby: the issuer has revoked your token", one.seen("error")[0].Detail)

	garbage := filepath.Join(t.TempDir(), "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte("garbage"), 0o600))
	three := chatHere(t, a.flags(a.chatter("carol"), "--revocations", garbage, "--token", bob.file)...)
	require.Equal(t, cli.ExitFailed, three.ended())
	require.Equal(t, "issuers", three.expect("error", nil).Code)
}

func TestTheFlagsOfAppModeGoTogether(t *testing.T) {
	got := runHere("chat", "--token", "x", "--revocations", "y", "--ephemeral")
	require.Equal(t, ran{cli.ExitUsage, "", strings.Join([]string{
		"starling: --issuers and --token go together: who vouches for users, and that you are one",
		"--revocations needs --issuers",
		"--ephemeral and --token exclude each other: a token is bound to a key that is kept",
		"Run 'starling chat --help' for usage.",
	}, "\n") + "\n"}, got)
	a := newAcme(t)
	none := runHere("chat", "--issuers", a.issuers, "--token", filepath.Join(a.dir, "none"), "--data", t.TempDir())
	require.Equal(t, cli.ExitFailed, none.code)
	require.Contains(t, none.errOut, filepath.Join(a.dir, "none")+": no such file")
	garbled := runHere("chat", "--issuers", a.key, "--token", a.issuers, "--data", t.TempDir())
	require.Equal(t, cli.ExitFailed, garbled.code)
	require.Contains(t, garbled.errOut, "issuers "+a.key+": not a JSON object\n")
}

func TestANewerTokenIsTakenWhenAskedFor(t *testing.T) {
	a := newAcme(t)
	alice := a.chatter("alice")
	a.give(alice)
	one := chatHere(t, a.flags(alice)...)
	one.expect("entered", nil)
	a.give(alice, "--life", "2h")
	one.say("/token")
	require.Empty(t, one.expect("token", nil).Room)
	got := one.expect("token", nil)
	require.Equal(t, "lobby", got.Room)
	require.Equal(t, 1, got.Line)
	require.Regexp(t, `"expires":"20[^"]+"`, got.raw)

	other := filepath.Join(t.TempDir(), "of bob") // it may have spaces
	bob := a.chatter("bob")
	a.give(bob)
	require.NoError(t, os.Rename(bob.file, other))
	one.say("/token " + other)
	for _, room := range []string{"", "lobby"} {
		refused := one.expect("error", nil)
		require.Equal(t, "token", refused.Code)
		require.Equal(t, room, refused.Room)
		require.Equal(t, 2, refused.Line)
		require.Contains(t, refused.Detail, "the token is refused: it ")
	}
	one.say("/token /nowhere", "still in it")
	require.Contains(t, one.expect("error", nil).Detail, "/nowhere")
	require.True(t, one.result(4).OK)

	open := chatHere(t, "--ephemeral", "--user", "carol")
	open.say("/token")
	require.Equal(t, "this app has no tokens: its users choose their own names (see: starling help token)", open.expect("error", nil).Detail)
}

func TestARoleIsToldToItsUserAndToTheOthers(t *testing.T) {
	a := newAcme(t)
	alice, bob := a.chatter("alice"), a.chatter("bob")
	a.give(alice, "--room", "ops:host")
	a.give(bob, "--room", "ops:host")
	one := chatHere(t, a.flags(alice, "--room", "ops")...)
	require.Contains(t, one.expect("entered", nil).raw, `"role":"host"`)
	two := chatHere(t, a.flags(bob, "--room", "ops", "--peer", one.seen("ready")[0].Addrs[0])...)
	two.ready()
	require.Contains(t, one.expect("member_joined", member("bob")).raw, `"role":"host"`)
}
