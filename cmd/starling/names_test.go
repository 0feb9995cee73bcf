package main

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// ends waits for the result of a line, whether earlier or later lines have theirs.
func (k *talker) ends(line int) (got event) {
	k.t.Helper()
	require.Eventually(k.t, func() bool {
		for _, ev := range k.seen("sent") {
			if ev.Line == line {
				got = ev
				return true
			}
		}
		return false
	}, patience, 5*time.Millisecond, "no result of line %d", line)
	return got
}

// sees waits until the chat shows the other as a member, and as connected.
func (k *talker) sees(other *talker) {
	k.t.Helper()
	key := other.seen("ready")[0].Key
	require.Eventually(k.t, func() bool {
		is := func(ev event) bool { return ev.Node.Key == key }
		// A peer may be met before it has logged in.
		up := slices.ContainsFunc(k.seen("peer_up"), is) || slices.ContainsFunc(k.seen("peer_changed"), is)
		return up && slices.ContainsFunc(k.seen("member_joined"), func(ev event) bool { return ev.Member.Key == key })
	}, patience, 5*time.Millisecond, "%s does not see the other", k)
}

func TestANameInAChatOfLinesIsTheKeyThatWasAnswered(t *testing.T) {
	hers, ours := t.TempDir(), t.TempDir()
	bob := chatHere(t, "--user", "bob", "--data", ours)
	addr := bob.ready().Addrs[0]
	come := func(args ...string) *talker {
		k := chatHere(t, append(slices.Clip(args), "--user", "alice", "--peer", addr)...)
		k.expect("member_joined", member("bob"))
		bob.sees(k)
		return k
	}
	alice := come("--data", hers)
	key := alice.seen("ready")[0].Key
	alice.say("/msg bob hi")
	require.Equal(t, "hi", bob.expect("direct_message", nil).Text)
	bob.say("/msg alice#"+key+" hello", "/msg alice by name")
	require.Equal(t, key, bob.ends(1).Key)
	require.True(t, bob.ends(2).OK)
	require.Equal(t, key, bob.ends(2).Key)
	alice.in.Close()
	require.Equal(t, cli.ExitOK, alice.ended())
	bob.expect("member_left", member("alice"))

	refused := func(bob, stranger *talker, line int) {
		t.Helper()
		bob.say("/msg alice secret", "/to alice secret", "/msg alice#"+key+" secret")
		want := "alice is pinned to key " + key + ", which is not there, but alice#" + stranger.seen("ready")[0].Key + " is"
		for i := range 2 {
			got := bob.ends(line + i)
			require.False(t, got.OK)
			require.Equal(t, "conflict", got.Error)
			require.Equal(t, want, got.Detail)
			require.Empty(t, got.Key)
		}
		got := bob.ends(line + 2)
		require.Equal(t, "not_found", got.Error)
		require.Contains(t, got.Detail, "alice#"+stranger.seen("ready")[0].Key+" is somebody else")
		require.Empty(t, stranger.seen("direct_message"))
	}
	stranger := come("--ephemeral")
	require.Contains(t, bob.expect("identity_conflict", nil).raw, `"pinned":"`+key+`"`)
	refused(bob, stranger, 3)
	stranger.in.Close()
	require.Equal(t, cli.ExitOK, stranger.ended())

	bob.in.Close()
	require.Equal(t, cli.ExitOK, bob.ended())
	bob = chatHere(t, "--user", "bob", "--data", ours)
	addr = bob.ready().Addrs[0]
	stranger = come("--ephemeral")
	require.Contains(t, bob.expect("identity_conflict", nil).raw, `"pinned":"`+key+`"`)
	refused(bob, stranger, 1)
}

func TestTwoOfOneNameAreBothNamed(t *testing.T) {
	bob := chatHere(t, "--user", "bob", "--ephemeral")
	addr := bob.ready().Addrs[0]
	var keys []string
	for range 2 {
		k := chatHere(t, "--ephemeral", "--user", "alice", "--peer", addr)
		k.expect("member_joined", member("bob"))
		bob.sees(k)
		keys = append(keys, k.seen("ready")[0].Key)
	}
	conflict := bob.expect("identity_conflict", nil).raw
	require.Contains(t, conflict, `"pinned":""`)
	bob.say("/msg alice which?", "/to alice which?")
	for line, code := range map[int]string{1: "conflict", 2: "ambiguous"} {
		got := bob.ends(line)
		require.Equal(t, code, got.Error)
		for _, k := range keys {
			require.Contains(t, got.Detail, "alice#"+k)
			require.Contains(t, conflict, k)
		}
	}
}
