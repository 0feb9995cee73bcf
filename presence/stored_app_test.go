package presence_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/presence"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

func TestALogInInAppModeIsFoundInTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		presence.WithoutWhois(t)
		r := vouched(t, 6, presence.WithDHT(presence.LAN))
		defer r.close()
		r.net.Chain()
		time.Sleep(10 * time.Second)
		a, b := r.nodes[0], r.nodes[5]
		b.enter("dora", time.Hour)
		b.stored()
		key := dht.KeyOfUser(b.authority.App(), "dora")
		require.Equal(t, b.me(), r.nodes[2].Stored(key).Statement.Login())
		a.enter("alice", time.Hour)
		r.part(0, 5)
		s := a.status("dora")
		require.Equal(t, presence.Online, s.State, "%+v", s)
		require.Equal(t, b.me(), s.Login)
		r.part(0, 5)
		f, err := a.find("dora")
		require.NoError(t, err)
		require.Equal(t, b.me(), f.Login)

		require.NoError(t, b.Logout(t.Context()))
		soon(t, time.Second, "the tombstone", func() bool { return !r.nodes[2].Stored(key).Statement.LoggedIn })
		require.Equal(t, presence.Offline, a.status("dora").State)
	})
}
