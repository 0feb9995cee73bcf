package identity_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// asNobody runs f on a thread whose file accesses are those of an ordinary user. Root may read and
// write everything, and the tests may run as root.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		_ = syscall.Setfsuid(65534)
		f()
	}()
	<-done
}

// openable lets the user nobody pass through the directories above path, and makes nobody the owner
// of path.
func openable(t *testing.T, path string) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	for dir := filepath.Dir(path); dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	require.NoError(t, filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(p, 65534, -1)
	}))
}

func TestAReadOnlyDirectoryIsRefused(t *testing.T) {
	path := t.TempDir()
	openable(t, path)
	require.NoError(t, os.Chmod(path, 0o500))
	t.Cleanup(func() { _ = os.Chmod(path, 0o700) })
	var err error
	asNobody(t, func() { _, err = identity.OpenDir(path) })
	require.EqualError(t, err, "data directory "+path+": open "+path+"/starling.db: permission denied")
	require.ErrorIs(t, err, fs.ErrPermission)

	below := filepath.Join(path, "below")
	asNobody(t, func() { _, err = identity.OpenDir(below) })
	require.EqualError(t, err, "data directory "+below+": mkdir "+below+": permission denied")
}

func TestAReadOnlyDatabaseIsRefused(t *testing.T) {
	path := newDir(t)
	openable(t, path)
	require.NoError(t, os.Chmod(filepath.Join(path, "starling.db"), 0o400))
	var err error
	asNobody(t, func() { _, err = identity.OpenDir(path) })
	require.EqualError(t, err, "data directory "+path+": open "+path+"/starling.db: permission denied")
}

func TestAnUnreadableKeyFileIsRefused(t *testing.T) {
	path := newDir(t)
	openable(t, path)
	key := filepath.Join(path, "device.key")
	require.NoError(t, os.Chmod(key, 0o000))
	var err error
	asNobody(t, func() { _, err = identity.OpenDir(path) })
	require.EqualError(t, err, "key file "+key+": permission denied")
	require.ErrorIs(t, err, fs.ErrPermission)
	asNobody(t, func() { _, err = identity.ExportUserKey(path) })
	require.EqualError(t, err, "key file "+key+": permission denied")
}

func TestAPipeInPlaceOfAKeyDoesNotBlock(t *testing.T) {
	path := t.TempDir()
	key := filepath.Join(path, "device.key")
	require.NoError(t, syscall.Mkfifo(key, 0o600))
	_, err := identity.OpenDir(path)
	require.EqualError(t, err, "key file "+key+": not a regular file")
}
