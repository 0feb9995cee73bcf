package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// lines is a view for people that shows nothing.
type lines struct{ words *Wording }

func (v lines) Show(ev Event) error {
	v.words.Say(ev)
	return nil
}
func (v lines) Shown(name string) (identity.Login, bool) { return v.words.Shown(name) }
func (v lines) Guard(f func())                           { f() }

func TestInLinesANameAloneMeansTheUserThatItIsShownFor(t *testing.T) {
	bob := login(t, "bob", 2)
	v := lines{NewWording()}
	_, known := v.Shown("bob")
	require.False(t, known, "nobody was shown as bob")
	require.NoError(t, v.Show(Heard{&mesh.Message{Header: mesh.Header{Room: "lobby"}, From: bob, Kind: mesh.Text, Data: []byte("hi all")}}))
	shown, known := v.Shown("bob")
	require.True(t, known)
	require.Equal(t, bob.Key, shown.Key)
	v.words.vouched = true
	_, known = v.Shown("bob")
	require.False(t, known, "in app mode the name is the user")
}

// What a name means is settled when it is typed, and not when the message is sent.
func TestANameMeansWhoHadItWhenItWasTyped(t *testing.T) {
	bob, imposter, carol := login(t, "bob", 2), login(t, "bob", 9), login(t, "carol", 3)
	phone := bob
	phone.Peer = "his phone"
	type there = []identity.Login
	for name, c := range map[string]struct {
		typed, sent there
		shown       bool // for bob
		to          string
	}{
		"he is there":                              {typed: there{carol, bob}, sent: there{bob, carol}, to: "bob"},
		"on two devices":                           {typed: there{bob, phone}, sent: there{phone, bob}, to: "bob"},
		"he has gone":                              {typed: there{bob}, to: bob.Address().String()},
		"another one has come instead":             {typed: there{bob}, sent: there{imposter}},
		"another one has come too":                 {typed: there{bob}, sent: there{imposter, bob}},
		"both were there":                          {typed: there{bob, imposter}, sent: there{bob, imposter}},
		"both were there, and one has gone":        {typed: there{bob, imposter}, sent: there{imposter}},
		"nobody was there":                         {sent: there{imposter}, to: "bob"},
		"it was shown for him":                     {typed: there{imposter}, shown: true, sent: there{imposter}, to: bob.Address().String()},
		"it was shown for him, and both are there": {typed: there{imposter, bob}, shown: true, sent: there{imposter, bob}, to: bob.Address().String()},
		"it was shown for him, and he is there":    {typed: there{bob}, shown: true, sent: there{bob}, to: "bob"},
	} {
		t.Run(name, func(t *testing.T) {
			m := among("bob", c.typed)
			if c.shown {
				m = meaning{name: "bob", user: bob, shown: true}
			}
			to, err := m.address(c.sent)
			if c.to == "" {
				require.ErrorAs(t, err, new(*identity.ConflictError))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.to, to)
		})
	}
	exact := imposter.Address().String()
	to, err := among(exact, there{bob, imposter}).address(nil)
	require.NoError(t, err)
	require.Equal(t, exact, to, "with a key it is complete")
}

// results is a view that passes on the results of sends.
type results struct {
	lines
	sent chan Sent
}

func (v results) Show(ev Event) error {
	if s, ok := ev.(Sent); ok {
		v.sent <- s
		return nil
	}
	return v.lines.Show(ev)
}

// A line is typed for bob while he is there, and waits behind another one to him. Meanwhile he
// leaves, and a stranger of the name comes.
func TestALineThatWaitsGoesToNobodyElse(t *testing.T) {
	start := func(user string) *node.Node {
		n, err := node.New(node.WithListen("/ip4/127.0.0.1/tcp/0"), node.WithoutMDNS())
		require.NoError(t, err)
		t.Cleanup(func() { _ = n.Close() })
		require.NoError(t, n.Login(t.Context(), user))
		return n
	}
	alice, bob, stranger := start("alice"), start("bob"), start("bob")
	v := results{lines{NewWording()}, make(chan Sent, 1)}
	c := New(alice, v, nil)
	defer c.Close()
	room, err := alice.Join(t.Context(), "lobby")
	require.NoError(t, err)
	c.here = room
	enters := func(n *node.Node) *mesh.Room {
		r, err := n.Join(t.Context(), "lobby")
		require.NoError(t, err)
		require.NoError(t, n.Connect(t.Context(), alice.Addrs()[0].String()))
		return r
	}
	await := func(members int) {
		require.Eventually(t, func() bool { return len(room.Members()) == members }, 20*time.Second, 5*time.Millisecond)
	}
	his := enters(bob)
	await(2)

	gate := make(chan struct{})
	c.sends.inLane("room lobby bob", func() { <-gate }) // an earlier message to him
	require.True(t, c.say(t.Context(), Input{line: 1, Verb: "to", Name: "bob", Text: "secret"}))
	require.NoError(t, his.Leave(t.Context()))
	await(1)
	strangers := enters(stranger)
	await(2)
	close(gate)
	require.Equal(t, CodeAmbiguous, (<-v.sent).Error)
	_, pinned := alice.Pinned("bob")
	require.False(t, pinned)

	require.NoError(t, strangers.Leave(t.Context())) // what it has got comes before the end
	for ev, err := range strangers.Events(t.Context()) {
		if err != nil {
			break
		}
		require.NotEqual(t, mesh.TypeDirectMessage, ev.Head().Type)
	}
}
