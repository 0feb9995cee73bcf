package node_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// A member that was not the moderator restarts with its data directory, and the moderator is gone.
func TestABanOutlivesARestartInTheDataDirectory(t *testing.T) {
	b := newBackend(t)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	nodes := make([]*node.Node, 3)
	names := []string{"mod", "alice", "bob"}
	run := func(i int) *mesh.Room {
		n := start(t, append(b.options(i), node.WithDataDir(dirs[i]))...)
		role := map[bool]string{true: identity.RoleModerator, false: "member"}[i == 0]
		token, err := b.issuer.Issue(identity.Claims{User: names[i], Device: n.DeviceKey(), Login: true, Rooms: map[string]string{"ops": role}})
		require.NoError(t, err)
		require.NoError(t, n.Login(within(t), names[i], node.LoginToken(token)))
		for j, other := range nodes {
			if other != nil && j != i {
				require.NoError(t, n.Connect(within(t), at(t, other, "tcp")))
				await[*node.PeerUp](t, n, nil)
			}
		}
		nodes[i] = n
		room, err := n.Join(within(t), "ops", mesh.WithToken(token))
		if err != nil {
			require.ErrorIs(t, err, mesh.ErrBanned)
			return nil
		}
		return room
	}
	mod, alice, bob := run(0), run(1), run(2)
	require.NoError(t, mod.WaitPeers(within(t), 2))
	until := time.Now().Add(time.Hour)
	require.NoError(t, mod.Ban(within(t), "bob", until))
	require.ErrorIs(t, ends(t, bob), mesh.ErrBanned)
	await(t, alice, func(ev *mesh.MemberLeft) bool { return ev.Member.User == "bob" && ev.Reason == mesh.Kicked })

	for _, i := range []int{1, 2, 0} {
		require.NoError(t, nodes[i].Close())
		nodes[i] = nil
	}
	alice = run(1)
	require.Len(t, alice.Bans(), 1)
	require.WithinDuration(t, until, alice.Bans()[0].Until, time.Millisecond)
	require.Nil(t, run(2), "alice remembers")
	require.Len(t, alice.Members(), 1)
}
