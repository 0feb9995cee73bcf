//go:build linux

package netlab

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// closeLimit is how long a chat may take from Ctrl-C or /quit until it ends.
const closeLimit = 2 * time.Second

func TestFourChatsOnOneNetworkDoAllThatChatsDo(t *testing.T) {
	lab := New(t)
	names := []string{"alice", "bob", "carol", "dave"}
	chats := make(map[string]*chat)
	var all []*chat
	for _, name := range names {
		chats[name] = launchChat(t, lab.Node(name), name, "", "--room", "ops")
		all = append(all, chats[name])
	}
	for _, c := range all {
		c.ready = c.until("ready", isType("ready"))
	}
	alice, bob, carol, dave := chats["alice"], chats["bob"], chats["carol"], chats["dave"]

	meet(t, all...)
	talk(t, 100, all...)

	// A message to one member.
	sent := alice.said("/to bob psst")
	require.True(t, sent.OK, "%s", sent.encoded)
	require.Equal(t, "bob", sent.To)
	got := bob.until("the whisper", isDirect("alice", "psst"))
	require.Equal(t, "ops", got.Room)
	require.Equal(t, alice.ready.Key, got.From.Key)
	require.Equal(t, "not_member", alice.said("/to nobody psst").Error)

	// A message to a user who shares no room.
	dave.say("/leave")
	dave.until("exited", isType("exited"))
	for _, c := range []*chat{alice, bob, carol} {
		require.Equal(t, "quit", c.until("dave left", isLeft("dave")).Reason)
	}
	require.Equal(t, "not_member", alice.said("/to dave are you there?").Error)
	sent = alice.said("/msg dave over here")
	require.True(t, sent.OK, "%s", sent.encoded)
	got = dave.until("the message outside rooms", isDirect("alice", "over here"))
	require.Empty(t, got.Room)
	require.Equal(t, alice.ready.Key, got.From.Key)
	require.True(t, dave.said("/msg alice and back").OK)
	alice.until("the answer", isDirect("dave", "and back"))

	// A later message has arrived, so anything that should not arrive would have arrived too.
	alice.say("the end")
	for _, c := range []*chat{bob, carol} {
		c.until("the end", isMessage("alice", "the end"))
	}

	// Clean ends, requested in each of the two ways.
	asked := time.Now()
	carol.say("/quit")
	carol.exits(closeLimit, 0, "quit")
	for _, c := range []*chat{alice, bob} {
		require.Equal(t, "quit", c.until("carol left", isLeft("carol")).Reason)
	}
	t.Logf("a /quit was told after %v", time.Since(asked).Round(time.Millisecond))
	asked = time.Now()
	require.NoError(t, bob.Interrupt())
	bob.exits(closeLimit, 130, "signal")
	require.Equal(t, "quit", alice.until("bob left", isLeft("bob")).Reason)
	t.Logf("a Ctrl-C was told after %v", time.Since(asked).Round(time.Millisecond))
	dave.say("/quit")
	dave.exits(closeLimit, 0, "quit")
	alice.say("/quit")
	alice.exits(closeLimit, 0, "quit")

	// Everything ever reported, now that nothing more can come.
	for _, c := range all {
		c.wantNothingTwiceOrAmiss()
		direct := c.told(isType("direct_message"))
		require.Len(t, direct, map[string]int{"alice": 1, "bob": 1, "carol": 0, "dave": 1}[c.user], "direct messages at %s", c.user)
		require.Len(t, c.told(isType("member_joined")), 3, "%s: one for each other", c.user)
	}
}

// wantNothingTwiceOrAmiss requires of all that a chat reported that no message came twice, that no
// event of its streams is missing, and that nothing went wrong.
func (c *chat) wantNothingTwiceOrAmiss() {
	c.t.Helper()
	seen := make(map[string]bool)
	seq := make(map[string]uint64)
	for _, e := range c.told(func(event) bool { return true }) {
		switch e.Type {
		case "error", "lagged", "gap_lost", "identity_conflict":
			c.t.Errorf("%s was told: %s", c.user, e.encoded)
		case "message", "direct_message":
			if said := e.Type + " from " + e.From.User + ": " + e.Text; seen[said] {
				c.t.Errorf("%s was told twice: %s", c.user, said)
			} else {
				seen[said] = true
			}
		}
		if e.Seq != 0 {
			require.Equal(c.t, seq[e.Room]+1, e.Seq, "%s: %s", c.user, e.encoded)
			seq[e.Room] = e.Seq
		}
	}
}

func TestTwoPeopleWhoNameOnlyThemselvesTalkWithinSeconds(t *testing.T) {
	lab := New(t)
	alice := startChat(t, lab.Node("alice"), "alice", "")
	bob := startChat(t, lab.Node("bob"), "bob", "")
	meet(t, alice, bob)
	bob.say("hello, is there anybody?")
	alice.until("hello", isMessage("bob", "hello, is there anybody?"))
	heard := time.Since(bob.started)
	alice.say("there is")
	bob.until("the answer", isMessage("alice", "there is"))
	t.Logf("heard %v after the start of the second chat", heard.Round(time.Millisecond))
	require.Less(t, heard, 10*time.Second)
}

// The first program of the README, on two machines that know nothing of each other.
func TestTwoProgramsOfTheReadmeGreetEachOther(t *testing.T) {
	lab := New(t)
	hello := filepath.Join(t.TempDir(), "hello")
	require.NoError(t, run("go", "build", "-race=false", "-o", hello, "github.com/starling-mesh/starling/examples/hello"))
	alice := lab.Node("alice").Start([]string{hello, "alice"})
	bob := lab.Node("bob").Start([]string{hello, "bob"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, p := range []*Process{alice, bob} {
		line, err := p.Line(ctx, 0)
		require.NoError(t, err, p.Stderr())
		require.Equal(t, map[*Process]string{alice: "bob: hello", bob: "alice: hello"}[p], line)
	}
	for _, p := range []*Process{alice, bob} {
		require.NoError(t, p.Interrupt())
		code, err := p.Wait(ctx)
		require.NoError(t, err)
		require.Zero(t, code, p.Stderr())
	}
}

func TestRestartedChatIsTheSameUser(t *testing.T) {
	lab := New(t)
	alice := startChat(t, lab.Node("alice"), "alice", "")
	here, home := lab.Node("bob"), t.TempDir()
	first := startChat(t, here, "bob", home)
	meet(t, alice, first)
	first.say("/quit")
	first.exits(closeLimit, 0, "quit")
	alice.until("bob left", isLeft("bob"))

	second := startChat(t, here, "bob", home)
	require.Equal(t, first.ready.Key, second.ready.Key)
	require.Equal(t, first.ready.Peer, second.ready.Peer)
	alice.gather("bob joined", 2, isJoined("bob"))
	second.say("back again")
	alice.until("the message", isMessage("bob", "back again"))
	require.True(t, alice.said("/msg bob welcome").OK)
	second.until("the welcome", isDirect("alice", "welcome"))
	require.Empty(t, alice.told(isType("identity_conflict")))
}

func TestKilledChatIsToldAsDroppedAfterTheGrace(t *testing.T) {
	const grace = 10 * time.Second // the default
	lab := New(t)
	tcp := []string{"--listen", "/ip4/0.0.0.0/tcp/0"}
	alice := startChat(t, lab.Node("alice"), "alice", "", tcp...)
	bob := startChat(t, lab.Node("bob"), "bob", "", tcp...)
	carol := startChat(t, lab.Node("carol"), "carol", "", tcp...)
	meet(t, alice, bob, carol)
	for _, c := range []*chat{alice, bob, carol} {
		require.False(t, strings.Contains(strings.Join(c.ready.Addrs, " "), "quic"), "%s", c.ready.encoded)
	}

	killed := time.Now()
	require.NoError(t, bob.Kill())
	for _, c := range []*chat{alice, carol} {
		silent := c.until("bob is silent", isSilent("bob"))
		require.LessOrEqual(t, silent.Time.Sub(killed), 3*time.Second, "shown")
		t.Logf("%s saw the silence %v after the kill", c.user, silent.Time.Sub(killed).Round(time.Millisecond))
		e := c.until("bob left", isLeft("bob"))
		require.Equal(t, "dropped", e.Reason)
		require.GreaterOrEqual(t, e.Time.Sub(killed), grace-100*time.Millisecond, "told within the grace")
		t.Logf("%s was told %v after the kill", c.user, e.Time.Sub(killed).Round(time.Millisecond))
	}
	require.True(t, alice.said("only us now").OK)
	carol.until("the message", isMessage("alice", "only us now"))
}

func TestFrozenChatIsShownAsSilentAndHeardAgainWhenItGoesOn(t *testing.T) {
	lab := New(t)
	alice := startChat(t, lab.Node("alice"), "alice", "")
	bob := startChat(t, lab.Node("bob"), "bob", "")
	carol := startChat(t, lab.Node("carol"), "carol", "")
	meet(t, alice, bob, carol)

	frozen := time.Now()
	require.NoError(t, bob.Pause())
	for _, c := range []*chat{alice, carol} {
		e := c.until("bob is silent", isSilent("bob"))
		require.LessOrEqual(t, e.Time.Sub(frozen), 10*time.Second, "shown")
		t.Logf("%s saw the silence %v after the process stood still", c.user, e.Time.Sub(frozen).Round(time.Millisecond))
	}
	require.NoError(t, bob.Resume())
	for _, c := range []*chat{alice, carol} {
		c.until("bob is heard", func(e event) bool { return e.Type == "member_heard" && e.Member.User == "bob" })
		require.Empty(t, c.told(isLeft("bob")))
	}
	require.True(t, bob.said("here I am").OK)
	carol.until("the message", isMessage("bob", "here I am"))
}

func TestLossyNetworkLosesNoMessage(t *testing.T) {
	lab := New(t)
	lab.Loss(5)
	alice := startChat(t, lab.Node("alice"), "alice", "")
	bob := startChat(t, lab.Node("bob"), "bob", "")
	carol := startChat(t, lab.Node("carol"), "carol", "")
	meet(t, alice, bob, carol)
	talk(t, 100, alice, bob, carol)
	for _, c := range []*chat{alice, bob, carol} {
		c.wantNothingTwiceOrAmiss()
	}
}
