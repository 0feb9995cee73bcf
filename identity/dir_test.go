package identity_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
)

func openDir(t *testing.T, path string) *identity.Dir {
	t.Helper()
	d, err := identity.OpenDir(path)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func TestANewDirectoryIsMadeForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	d := openDir(t, path)
	require.Equal(t, path, d.Path())
	require.True(t, d.Keys().User.Equal(d.Keys().Device))
	require.Empty(t, d.Ports())
	require.Empty(t, d.LastUser())
	require.Zero(t, d.Sequence())
	require.Empty(t, d.Remembered())
	require.Zero(t, d.Pins().Len())
	if runtime.GOOS == "windows" {
		return
	}
	for name, want := range map[string]os.FileMode{"": fs.ModeDir | 0o700, "device.key": 0o600, "starling.db": 0o600} {
		info, err := os.Stat(filepath.Join(path, name))
		require.NoError(t, err)
		require.Equal(t, want, info.Mode(), "mode of %q", name)
	}
	files, err := os.ReadDir(path)
	require.NoError(t, err)
	require.Len(t, files, 2, "no user key of its own, and no temporary file")
}

func TestWhatACrashLeftWhileAKeyWasWrittenIsRemoved(t *testing.T) {
	path := t.TempDir()
	temp := filepath.Join(path, "device.key.123.tmp")
	require.NoError(t, os.WriteFile(temp, []byte("-----BEGIN PRIV"), 0o600))
	d := openDir(t, path)
	require.NoFileExists(t, temp)
	require.NotNil(t, d.Keys())
}

func TestARestartKeepsEverything(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	keys := d.Keys()
	peerKey := oneKey(7)
	seen := testTime.Add(time.Second)
	bob := identity.Remembered{
		Login: identity.Login{User: "bob", Key: peerKey.UserKey(), Peer: peerKey.PeerID()},
		Addrs: []string{"/ip4/10.0.0.7/tcp/4001", "/ip4/10.0.0.7/udp/4001/quic-v1"}, Seen: seen,
	}
	nameless := identity.Remembered{Login: identity.Login{Peer: oneKey(8).PeerID()}, Seen: testTime}
	require.NoError(t, d.SetPorts(map[string]int{"tcp": 4001, "quic": 4002}))
	require.NoError(t, d.SetLastUser("alice"))
	require.NoError(t, d.SetSequence(42))
	require.NoError(t, d.Remember(bob))
	require.NoError(t, d.Remember(nameless))
	d.Pins().Pin("bob", peerKey.UserKey())
	d.Pins().Pin("carol", oneKey(9).UserKey())
	d.Pins().Forget("carol")
	require.NoError(t, d.Close())

	again := openDir(t, path)
	require.Equal(t, keys, again.Keys())
	require.Equal(t, map[string]int{"tcp": 4001, "quic": 4002}, again.Ports())
	require.Equal(t, "alice", again.LastUser())
	require.Equal(t, uint64(42), again.Sequence())
	require.Equal(t, []identity.Remembered{bob, nameless}, again.Remembered())
	pinned, ok := again.Pins().Lookup("bob")
	require.True(t, ok)
	require.Equal(t, peerKey.UserKey(), pinned)
	_, ok = again.Pins().Lookup("carol")
	require.False(t, ok)
	_, ok = again.Pins().Pin("bob", oneKey(9).UserKey())
	require.False(t, ok, "the pin holds after a restart")
}

func TestADirectoryHeldByThisProcessIsInUse(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	_, err := identity.OpenDir(path)
	require.EqualError(t, err, "data directory "+path+": in use by another node")
	require.ErrorIs(t, err, identity.ErrInUse)
	var dirErr *identity.DirError
	require.ErrorAs(t, err, &dirErr)
	require.Equal(t, path, dirErr.Path)
	require.NoError(t, d.Close())
	openDir(t, path)
}

func TestADirectoryHeldByAnotherProcessIsInUse(t *testing.T) {
	path := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdDir+"="+path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)

	_, err = identity.OpenDir(path)
	require.ErrorIs(t, err, identity.ErrInUse)
	key, err := identity.MarshalKey(seeded(1))
	require.NoError(t, err)
	require.ErrorIs(t, identity.ImportUserKey(path, key), identity.ErrInUse)
	_, err = identity.ExportUserKey(path)
	require.NoError(t, err, "reading the key disturbs nobody")

	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait())
	openDir(t, path)
}

func TestAKilledProcessLetsGoOfTheDirectory(t *testing.T) {
	path := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdDir+"="+path)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	openDir(t, path)
}

func TestAPathThatIsNoDirectoryIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, err := identity.OpenDir(path)
	require.EqualError(t, err, "data directory "+path+": mkdir "+path+": not a directory")
	_, err = identity.OpenDir("")
	require.EqualError(t, err, "data directory : no path given")
}

func TestADamagedDatabaseIsAnErrorAndLeftAlone(t *testing.T) {
	garbage := []byte(strings.Repeat("not a database. ", 4096))
	for name, damage := range map[string]func([]byte) []byte{
		"other content": func([]byte) []byte { return garbage },
		"cut short":     func(b []byte) []byte { return b[:100] },
		"empty pages":   func(b []byte) []byte { return b[:2*os.Getpagesize()] },
		"pages overwritten": func(b []byte) []byte {
			copy(b[2*os.Getpagesize():], garbage)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			path := filepath.Join(dir, "starling.db")
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			raw = damage(raw)
			require.NoError(t, os.WriteFile(path, raw, 0o600))
			_, err = identity.OpenDir(dir)
			var dirErr *identity.DirError
			require.ErrorAs(t, err, &dirErr)
			require.NotErrorIs(t, err, identity.ErrInUse)
			left, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, raw, left)
		})
	}
}

func TestRememberedPeersAreBounded(t *testing.T) {
	d := openDir(t, t.TempDir())
	addrs := make([]string, 20)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("/ip4/10.0.0.%d/tcp/1", i)
	}
	addrs[3] = "/dns4/" + strings.Repeat("a", 256)
	for i := range 8 {
		require.NoError(t, d.Remember(identity.Remembered{
			Login: identity.Login{Peer: oneKey(byte(i)).PeerID()}, Addrs: addrs, Seen: testTime.Add(time.Duration(i) * time.Second),
		}))
	}
	got := d.Remembered()
	require.Len(t, got, 8)
	require.Equal(t, oneKey(7).PeerID(), got[0].Login.Peer, "seen last comes first")
	require.Len(t, got[0].Addrs, 16)
	require.NotContains(t, got[0].Addrs, addrs[3])
	got[0].Addrs[0] = "changed"
	require.NotEqual(t, "changed", d.Remembered()[0].Addrs[0])
	require.Error(t, d.Remember(identity.Remembered{}), "a peer without an ID")
}

func TestSeenIsWrittenNowAndThenAndAtTheEnd(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	r := identity.Remembered{Login: identity.Login{Peer: oneKey(1).PeerID()}, Seen: testTime}
	require.NoError(t, d.Remember(r))
	before, err := os.ReadFile(filepath.Join(path, "starling.db"))
	require.NoError(t, err)
	r.Seen = testTime.Add(time.Second)
	require.NoError(t, d.Remember(r))
	after, err := os.ReadFile(filepath.Join(path, "starling.db"))
	require.NoError(t, err)
	require.Equal(t, before, after, "a second later is not worth a write")
	require.Equal(t, []identity.Remembered{r}, d.Remembered())
	require.NoError(t, d.Close())
	require.Equal(t, []identity.Remembered{r}, openDir(t, path).Remembered())
}

func TestAClosedDirectorySaysSo(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close(), "twice")
	require.ErrorIs(t, d.SetLastUser("alice"), fs.ErrClosed)
	require.ErrorIs(t, d.SetSequence(1), fs.ErrClosed)
	require.ErrorIs(t, d.SetPorts(nil), fs.ErrClosed)
	require.ErrorIs(t, d.Remember(identity.Remembered{Login: identity.Login{Peer: oneKey(1).PeerID()}}), fs.ErrClosed)
	require.NotNil(t, d.Keys())
}

func TestADirectoryTakesManyCallsAtOnce(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			key := oneKey(byte(i))
			_ = d.SetSequence(uint64(i + 1))
			_ = d.SetPorts(map[string]int{"tcp": i})
			_ = d.Remember(identity.Remembered{Login: identity.Login{Peer: key.PeerID()}, Seen: testTime})
			d.Pins().Pin(fmt.Sprint("user", i%2), key.UserKey())
			d.Remembered()
		})
	}
	wg.Wait()
	sequence, ports := d.Sequence(), d.Ports()
	pin0, _ := d.Pins().Lookup("user0")
	require.NoError(t, d.Close())
	again := openDir(t, path)
	require.Equal(t, sequence, again.Sequence(), "the disk has what memory had")
	require.Equal(t, ports, again.Ports())
	require.Len(t, again.Remembered(), 8)
	pinned, ok := again.Pins().Lookup("user0")
	require.True(t, ok)
	require.Equal(t, pin0, pinned)
}

func TestADirectoryNotesByItsClockWhenANameWasPinned(t *testing.T) {
	path, at := newDir(t), time.Date(2031, time.May, 4, 3, 2, 1, 0, time.UTC)
	d := openDir(t, path)
	d.SetClock(walltime.From(func() time.Time { return at }))
	d.Pins().Pin("bob", identity.PublicKey{1})
	require.NoError(t, d.Close())
	db, err := bolt.Open(filepath.Join(path, "starling.db"), 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		require.Contains(t, string(tx.Bucket([]byte("pins")).Get([]byte("bob"))), `"at":"2031-05-04T03:02:01Z"`)
		return nil
	}))
}
