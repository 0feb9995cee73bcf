package node_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

func TestAHistoryStoreServesOthersAfterARestart(t *testing.T) {
	dir := t.TempDir()
	alice := start(t, node.WithDataDir(dir), node.WithHistoryStore())
	require.NoError(t, alice.Login(within(t), "alice"))
	room, err := alice.Join(within(t), "ops")
	require.NoError(t, err)
	_, err = room.PublishText(within(t), "is anybody there?")
	require.NoError(t, err)
	require.NoError(t, alice.Close())

	alice = start(t, node.WithDataDir(dir), node.WithHistoryStore())
	require.NoError(t, alice.Login(within(t), "alice"))
	_, err = alice.Join(within(t), "ops")
	require.NoError(t, err)
	bob := start(t)
	require.NoError(t, bob.Login(within(t), "bob"))
	require.NoError(t, bob.Connect(within(t), at(t, alice, "tcp")))
	await[*node.PeerUp](t, bob, nil)
	theirs, err := bob.Join(within(t), "ops", mesh.WithHistory(mesh.AllHistory))
	require.NoError(t, err)
	require.Equal(t, "is anybody there?", string(await[*mesh.Message](t, theirs, nil).Data))

	info, err := os.Stat(filepath.Join(dir, "history.db"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestADamagedHistoryKeepsNobodyFromStarting(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	require.NoError(t, os.WriteFile(path, []byte("no database"), 0o600))
	n := start(t, node.WithDataDir(dir), node.WithHistoryStore())
	require.NoError(t, n.Close())
	aside, err := os.ReadFile(path + ".damaged")
	require.NoError(t, err)
	require.Equal(t, "no database", string(aside))
}

func TestAHistoryThatCannotBeOpenedIsNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	require.NoError(t, os.Mkdir(path, 0o700))
	_, err := node.New(node.WithDataDir(dir), node.WithHistoryStore(), node.WithoutMDNS())
	var bad *mesh.StoreError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, path, bad.Path)
	require.NoError(t, os.Remove(path))
	start(t, node.WithDataDir(dir), node.WithHistoryStore()) // New has closed what it had opened
}
