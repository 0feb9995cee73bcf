package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func pemOf(t *testing.T, kind string, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// wrongKeys returns texts that are not a key, with the error that says why.
func wrongKeys(t *testing.T) map[string]struct {
	text string
	want string
	is   error
} {
	t.Helper()
	good, err := identity.MarshalKey(seeded(1))
	require.NoError(t, err)
	other, err := identity.MarshalKey(seeded(2))
	require.NoError(t, err)
	head, _, _ := strings.Cut(string(good), "\n")
	_, tail, _ := strings.Cut(string(other), "\n")
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	type wrong = struct {
		text string
		want string
		is   error
	}
	return map[string]wrong{
		"empty":            {"", "damaged: no PEM block in it", identity.ErrKeyDamaged},
		"text":             {"my key", "damaged: no PEM block in it", identity.ErrKeyDamaged},
		"cut short":        {string(good[:len(good)-10]), "damaged: no PEM block in it", identity.ErrKeyDamaged},
		"something after":  {string(good) + "more", "damaged: 4 bytes after the PEM block", identity.ErrKeyDamaged},
		"two keys":         {string(good) + string(other), "damaged: 193 bytes after the PEM block", identity.ErrKeyDamaged},
		"not PKCS#8":       {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})), "damaged: not PKCS#8", identity.ErrKeyDamaged},
		"another's secret": {head + "\n" + tail, "damaged: the private key does not fit the public key named above it", identity.ErrKeyDamaged},
		"public key":       {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})), `wrong type of key: a PEM block "PUBLIC KEY", want "PRIVATE KEY"`, identity.ErrKeyType},
		"ECDSA":            {string(pemOf(t, "PRIVATE KEY", ec)), "wrong type of key: *ecdsa.PrivateKey, want Ed25519", identity.ErrKeyType},
	}
}

func TestKeysInTextAreParsedOrRefused(t *testing.T) {
	text, err := identity.MarshalKey(seeded(1))
	require.NoError(t, err)
	key, err := identity.ParseKey(text)
	require.NoError(t, err)
	require.True(t, key.Equal(seeded(1)))
	key, err = identity.ParseKey(pemOf(t, "PRIVATE KEY", seeded(1)))
	require.NoError(t, err, "as openssl genpkey writes it")
	require.True(t, key.Equal(seeded(1)))
	_, err = identity.MarshalKey(nil)
	require.EqualError(t, err, "private key of 0 bytes")
	for name, tc := range wrongKeys(t) {
		_, err := identity.ParseKey([]byte(tc.text))
		require.EqualError(t, err, tc.want, name)
		require.ErrorIs(t, err, tc.is, name)
	}
}

func TestADamagedKeyIsNeverAnotherKey(t *testing.T) {
	text, err := identity.MarshalKey(seeded(1))
	require.NoError(t, err)
	begin := strings.Index(string(text), "-----BEGIN")
	for i := begin; i < len(text); i++ {
		for _, c := range []byte("A/\n ") {
			damaged := []byte(string(text))
			damaged[i] = c
			key, err := identity.ParseKey(damaged)
			require.True(t, err != nil || key.Equal(seeded(1)), "byte %d became %q and made another key", i, c)
		}
	}
}

func TestKeyFilesThatCannotBeUsedAreLeftAlone(t *testing.T) {
	for _, file := range []string{"device.key", "user.key"} {
		for name, tc := range wrongKeys(t) {
			t.Run(file+"/"+name, func(t *testing.T) {
				dir := newDir(t)
				path := filepath.Join(dir, file)
				require.NoError(t, os.WriteFile(path, []byte(tc.text), 0o600))
				_, err := identity.OpenDir(dir)
				require.EqualError(t, err, "key file "+path+": "+tc.want)
				require.ErrorIs(t, err, tc.is)
				var keyErr *identity.KeyError
				require.ErrorAs(t, err, &keyErr)
				require.Equal(t, path, keyErr.Path)
				left, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, tc.text, string(left))
			})
		}
	}
}

func TestAKeyFileOpenToOthersIsRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permission bits: run it on Linux or macOS")
	}
	for perm, shown := range map[os.FileMode]string{0o644: "0644", 0o640: "0640", 0o602: "0602", 0o666: "0666"} {
		dir := newDir(t)
		path := filepath.Join(dir, "device.key")
		require.NoError(t, os.Chmod(path, perm))
		_, err := identity.OpenDir(dir)
		require.EqualError(t, err, "key file "+path+": open to others: permissions are "+shown+"; run: chmod 600 "+path)
		require.ErrorIs(t, err, identity.ErrKeyPermissions)
	}
	dir := newDir(t)
	require.NoError(t, os.Chmod(filepath.Join(dir, "device.key"), 0o400))
	d, err := identity.OpenDir(dir)
	require.NoError(t, err, "read only is fine")
	require.NoError(t, d.Close())
}

func TestAKeyFileThatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "device.key")
	require.NoError(t, os.Mkdir(path, 0o700))
	_, err := identity.OpenDir(dir)
	require.EqualError(t, err, "key file "+path+": not a regular file")
}

// newDir returns a data directory that has been used once.
func newDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	d, err := identity.OpenDir(dir)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	return dir
}
