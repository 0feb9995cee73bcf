package session

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

func TestANoticeOfAConflictSaysWhatHappens(t *testing.T) {
	bob, other := login(t, "bob", 1), login(t, "bob", 2)
	require.Equal(t, "! two users are called bob, and the name alone means neither of them while both are here: write to one of them with\n"+
		"  /msg "+bob.Address().String()+" TEXT or\n  /msg "+other.Address().String()+" TEXT\n",
		shown(t, &node.IdentityConflict{User: "bob", Other: other, Rival: &bob}))
	require.Contains(t, shown(t, Ready{Login: bob}, &node.IdentityConflict{User: "bob", Pinned: bob.Key, Other: other}),
		"\n! somebody else is called bob, as you are, with the key "+other.Key.Fingerprint()+": /msg "+other.Address().String()+" TEXT goes there.\n"+
			"  Others tell you apart by your key, "+bob.Key.Fingerprint()+".\n")
}

func TestAChatOfLinesShowsANameByWhatItMeans(t *testing.T) {
	bob, other := login(t, "bob", 1), login(t, "bob", 2)
	names := func(l identity.Login) any { return Who{Online: []identity.Login{l}} }
	require.Equal(t, "  online: bob\n"+
		"! two users are called bob, and the name alone means neither of them while both are here: write to one of them with\n"+
		"  /msg "+bob.Address().String()+" TEXT or\n  /msg "+other.Address().String()+" TEXT\n"+
		"  online: "+other.Address().String()+"\n"+
		"  delivered to "+bob.Address().String()+" in 0 ms\n"+
		"  online: bob\n",
		shown(t, names(other), &node.IdentityConflict{User: "bob", Other: other, Rival: &bob}, names(other),
			Sent{OK: true, To: bob.Address().String(), Login: bob, Pinned: bob.Key}, names(bob)))
}

func TestAFailedSendNamesWhoElseHasTheName(t *testing.T) {
	bob, other := login(t, "bob", 1), login(t, "bob", 2)
	to := Sent{Line: 3, To: "bob"}
	for want, err := range map[string]error{
		"bob is pinned to key " + bob.Key.Fingerprint() + ", which is not there, but " + other.Address().String() + " is": &identity.ConflictError{
			User: "bob", Pinned: bob.Key, Found: []identity.Login{other}},
		"bob is the name of several users: " + bob.Address().String() + ", " + other.Address().String(): &identity.ConflictError{
			User: "bob", Found: []identity.Login{bob, other}},
		bob.Address().String() + " is not logged in within reach, and " + other.Address().String() + " is somebody else": &presence.NotFoundError{
			Address: bob.Address(), Others: []identity.Login{other}},
		"nobody of that name is logged in within reach": &presence.NotFoundError{Address: bob.Address()},
	} {
		require.Equal(t, "NOT SENT to bob, line 3: "+want, to.Result(err).String())
	}
}
