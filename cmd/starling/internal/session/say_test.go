package session

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// lines is a view for people that shows nothing.
type lines struct{ words *Wording }

func (v lines) Show(ev Event) error {
	v.words.Say(ev)
	return nil
}
func (v lines) Shown(name string) (identity.Login, bool) { return v.words.Shown(name) }
func (v lines) Guard(f func())                           { f() }

// keyed is a view that shows the keys.
type keyed struct{ lines }

func (keyed) Shown(string) (identity.Login, bool) { return identity.Login{}, false }

func TestInLinesANameAloneMeansTheUserThatItIsShownFor(t *testing.T) {
	bob, imposter := login(t, "bob", 2), login(t, "bob", 9)
	v := lines{NewWording()}
	c := &Session{view: v}
	require.Equal(t, "bob", c.meant("bob", []identity.Login{imposter}), "nobody was shown as bob")
	require.NoError(t, v.Show(Heard{&mesh.Message{Header: mesh.Header{Room: "lobby"}, From: bob, Kind: mesh.Text, Data: []byte("hi all")}}))
	require.Equal(t, "bob", c.meant("bob", []identity.Login{bob}))
	require.Equal(t, bob.Address().String(), c.meant("bob", []identity.Login{imposter}))
	require.Equal(t, bob.Address().String(), c.meant("bob", nil))
	require.Equal(t, imposter.Address().String(), c.meant(imposter.Address().String(), nil), "with a key it is complete")
	v.words.vouched = true
	require.Equal(t, "bob", c.meant("bob", nil), "in app mode the name is the user")
	c.view = keyed{v}
	require.Equal(t, "bob", c.meant("bob", []identity.Login{imposter}), "programs see the keys")
}
