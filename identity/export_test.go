package identity_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestTheUserKeyIsCarriedToASecondDevice(t *testing.T) {
	one, two := newDir(t), filepath.Join(t.TempDir(), "two")
	text, err := identity.ExportUserKey(one)
	require.NoError(t, err)
	require.NoError(t, identity.ImportUserKey(two, text))

	first, second := openDir(t, one), openDir(t, two)
	require.Equal(t, first.Keys().UserKey(), second.Keys().UserKey(), "one user")
	require.NotEqual(t, first.Keys().PeerID(), second.Keys().PeerID(), "two devices")
	signed, err := second.Keys().Sign(statement())
	require.NoError(t, err)
	got, err := identity.Verify(signed.Sealed(), testApp, testTime)
	require.NoError(t, err)
	require.Equal(t, first.Keys().UserKey(), got.UserKey)

	require.NoError(t, first.Close())
	require.NoError(t, second.Close())
	again, err := identity.ExportUserKey(two)
	require.NoError(t, err)
	require.Equal(t, text, again, "the second device exports the user, not itself")
	require.NoError(t, identity.ImportUserKey(two, text), "importing the same again is harmless")
	require.NoError(t, identity.ImportUserKey(one, text), "also where it came from")
}

func TestAnImportOverAnotherUserIsRefusedUnlessReplaced(t *testing.T) {
	mine, err := identity.MarshalKey(seeded(1))
	require.NoError(t, err)
	dir := newDir(t)
	d := openDir(t, dir)
	was, device := d.Keys().UserKey(), d.Keys().PeerID()
	require.NoError(t, d.Close())

	err = identity.ImportUserKey(dir, mine)
	require.ErrorIs(t, err, identity.ErrOtherKey)
	require.EqualError(t, err, "key file "+filepath.Join(dir, "user.key")+
		": another user key is there already: "+was.Fingerprint()+", not "+oneKey(1).UserKey().Fingerprint())
	d = openDir(t, dir)
	require.Equal(t, was, d.Keys().UserKey(), "a refused import changes nothing")
	require.NoError(t, d.Close())

	require.NoError(t, identity.ReplaceUserKey(dir, mine))
	d = openDir(t, dir)
	require.Equal(t, oneKey(1).UserKey(), d.Keys().UserKey())
	require.Equal(t, device, d.Keys().PeerID(), "the device stays itself")
	require.NoError(t, d.Close())

	other, err := identity.MarshalKey(seeded(2))
	require.NoError(t, err)
	require.ErrorIs(t, identity.ImportUserKey(dir, other), identity.ErrOtherKey, "also over an imported key")
}

func TestDamagedImportsAreRefusedAndChangeNothing(t *testing.T) {
	dir := newDir(t)
	for name, tc := range wrongKeys(t) {
		for _, imp := range []func(string, []byte) error{identity.ImportUserKey, identity.ReplaceUserKey} {
			err := imp(dir, []byte(tc.text))
			require.EqualError(t, err, "user key: "+tc.want, name)
			require.ErrorIs(t, err, tc.is, name)
		}
	}
	require.NoFileExists(t, filepath.Join(dir, "user.key"))
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	require.Error(t, identity.ImportUserKey(nowhere, []byte("x")))
	require.NoDirExists(t, nowhere)
}

func TestThereIsNothingToExportFromAnEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	_, err := identity.ExportUserKey(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "key file "+filepath.Join(dir, "device.key")+": no such file or directory")
}

func TestKeysAreReadWhileTheDirectoryIsInUseAndNeverMade(t *testing.T) {
	path := t.TempDir()
	_, err := identity.ReadKeys(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoFileExists(t, filepath.Join(path, "device.key"))
	d := openDir(t, path)
	keys, err := identity.ReadKeys(path)
	require.NoError(t, err)
	require.Equal(t, d.Keys(), keys)

	other, err := identity.GenerateKeys()
	require.NoError(t, err)
	text, err := identity.MarshalKey(other.User)
	require.NoError(t, err)
	file := filepath.Join(path, "user.key")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	keys, err = identity.ReadKeys(path)
	require.NoError(t, err)
	require.Equal(t, &identity.Keys{Device: d.Keys().Device, User: other.User}, keys)
	require.NoError(t, os.WriteFile(file, []byte("garbage"), 0o600))
	_, err = identity.ReadKeys(path)
	require.ErrorIs(t, err, identity.ErrKeyDamaged)
}
