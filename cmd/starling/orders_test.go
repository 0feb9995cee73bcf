package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAModeratorPutsAUserOutInTheChat(t *testing.T) {
	a := newAcme(t)
	mod, bob, cat := a.chatter("mod"), a.chatter("bob"), a.chatter("cat")
	a.giveFor(mod, "lobby:moderator")
	a.give(bob)
	a.give(cat)
	one := chatHere(t, a.flags(mod)...)
	ready := one.ready()
	two := chatHere(t, a.flags(bob, "--peer", ready.Addrs[0])...)
	one.expect("member_joined", member("bob"))
	three := chatHere(t, a.flags(cat, "--peer", ready.Addrs[0])...)
	one.expect("member_joined", member("cat"))
	two.expect("member_joined", member("cat"))

	three.say("/kick bob", "/ban mod", "/unban bob", "/dismiss")
	for line := 1; line <= 4; line++ {
		got := three.expect("order", nil)
		require.Equal(t, line, got.Line)
		require.False(t, got.OK)
		require.Equal(t, "not_moderator", got.Error)
		require.Equal(t, "you are no moderator of this room", got.Detail)
	}
	one.say("/kick nobody", "/kick mod", "/ban bob yesterday")
	require.Equal(t, "not_member", one.expect("order", nil).Error)
	require.Equal(t, "self", one.expect("order", nil).Error)
	require.Equal(t, `"yesterday" is no time: for example 10m, 2h or 7d`, one.expect("order", nil).Detail)

	one.say("/kick bob")
	require.True(t, one.expect("order", nil).OK)
	require.Equal(t, "kicked", three.expect("member_left", member("bob")).Reason)
	require.Equal(t, "you are out of lobby: kicked out by mod, you may join again", two.expect("error", nil).Detail)
	two.say("/join lobby")
	two.expect("entered", nil)

	one.say("/ban bob 7d")
	ban := one.expect("order", nil)
	require.True(t, ban.OK)
	require.WithinDuration(t, time.Now().Add(7*24*time.Hour), ban.Until, time.Minute)
	require.Contains(t, two.expect("error", nil).Detail, "you are out of lobby: banned until ")
	two.say("/join lobby")
	require.Contains(t, two.expect("error", nil).Detail, "join lobby: banned from the room until ")

	one.say("/unban bob")
	require.True(t, one.expect("order", nil).OK)
	two.say("/join lobby")
	if got := two.expectOne(nil, "entered", "error"); got.Type == "error" {
		// The other member's word of the ban was still on its way when the ban was lifted.
		require.Contains(t, got.Detail, "banned from the room until ")
		two.say("/join lobby")
		two.expect("entered", nil)
	}
	one.say("/dismiss")
	require.True(t, one.expect("order", nil).OK)
	for _, c := range []*talker{one, two, three} {
		require.Equal(t, "you are out of lobby: dismissed by mod, you may join again", c.expect("error", nil).Detail)
	}
	one.say("/kick bob")
	require.Equal(t, "not_joined", one.expect("order", nil).Error)
}

func TestThereAreNoModeratorsInOpenMode(t *testing.T) {
	alice, _ := meet(t, chatHere)
	alice.say("/kick bob")
	got := alice.expect("order", nil)
	require.Equal(t, "open_mode", got.Error)
	require.Equal(t, "there are no moderators in open mode, where anybody may take any name", got.Detail)
}
