package presence_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/presence"
)

// Bob logs in while the link between him and Alice is cut. The connection outlives the cut, but
// what was lost in it is sent again only when something passes. Alice hears of the log-in from
// Carol, and asks Bob, whose own word still says that he has not logged in.
func TestADevicesOwnWordIsWaitedForIfOthersHaveItAlready(t *testing.T) {
	for name, ask := range map[string]func(t *testing.T, a, b *node){
		"status": func(t *testing.T, a, b *node) {
			s := a.status("bob")
			require.Equal(t, presence.Online, s.State, "%+v", s)
			require.Equal(t, b.me(), s.Login)
		},
		"find": func(t *testing.T, a, b *node) {
			f, err := a.find("bob")
			require.NoError(t, err)
			require.Equal(t, b.me(), f.Login)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 3)
				defer r.close()
				a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
				r.meet(0, 1)
				r.meet(0, 2)
				r.meet(1, 2)
				a.login("alice")
				c.login("carol")
				time.Sleep(time.Minute)
				r.net.Cut(0, 1)
				b.login("bob")
				soon(t, time.Second, "carol knows", func() bool { return c.sees(b) })
				time.Sleep(22 * time.Second)
				r.net.Heal()
				require.True(t, r.net.Connected(0, 1))
				require.False(t, a.sees(b), "the word is still on its way")
				ask(t, a, b)
			})
		})
	}
}
