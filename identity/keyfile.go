package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

var (
	// ErrKeyDamaged reports a key file or an exported key that is not as it was written.
	ErrKeyDamaged = errors.New("damaged")
	// ErrKeyPermissions reports a key file that others than its owner may read or write.
	ErrKeyPermissions = errors.New("open to others")
	// ErrKeyType reports a private key that is not Ed25519.
	ErrKeyType = errors.New("wrong type of key")
)

// KeyError reports a key file that cannot be used. Nothing was changed and no new key was made in
// its place: losing a key means losing an identity. Err may be [ErrKeyDamaged],
// [ErrKeyPermissions], [ErrKeyType], or an error from the system.
type KeyError struct {
	Path string
	Err  error
}

func (e *KeyError) Error() string { return fmt.Sprintf("key file %s: %v", e.Path, e.Err) }

// Unwrap returns Err.
func (e *KeyError) Unwrap() error { return e.Err }

// maxKeyFile is far above the 200 bytes of a key file. It bounds how much is read of a file that is
// not one.
const maxKeyFile = 16 << 10

// publicLine begins the line before the PEM block that names the public key. In Ed25519 any 32
// bytes are a private key, so without this line a flipped bit would make another key instead of an
// error.
const publicLine = "Starling public key: "

const pemType = "PRIVATE KEY"

// MarshalKey returns a private key as text: a line that names its public key, and the key as PKCS#8
// in PEM, which other tools read too. Keep it secret.
func MarshalKey(key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("private key of %d bytes", len(key))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	head := publicLine + publicKey(key).String() + "\n"
	return append([]byte(head), pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})...), nil
}

// ParseKey reads the output of [MarshalKey], and any other text with exactly one Ed25519 key as
// PKCS#8 in PEM. It returns [ErrKeyDamaged] or [ErrKeyType] with the details.
func ParseKey(text []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%w: no PEM block in it", ErrKeyDamaged)
	}
	if block.Type != pemType {
		return nil, fmt.Errorf("%w: a PEM block %q, want %q", ErrKeyType, block.Type, pemType)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the PEM block", ErrKeyDamaged, len(rest))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: not PKCS#8", ErrKeyDamaged)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: %T, want Ed25519", ErrKeyType, parsed)
	}
	head, _, _ := bytes.Cut(text, []byte("-----BEGIN"))
	for line := range strings.Lines(string(head)) {
		if want, ok := strings.CutPrefix(strings.TrimSpace(line), publicLine); ok && want != publicKey(key).String() {
			return nil, fmt.Errorf("%w: the private key does not fit the public key named above it", ErrKeyDamaged)
		}
	}
	return key, nil
}

// readKey reads a key file. The error is a *KeyError; errors.Is(err, fs.ErrNotExist) is true if
// there is no file.
func readKey(path string) (ed25519.PrivateKey, error) {
	refuse := func(err error) (ed25519.PrivateKey, error) { return nil, &KeyError{Path: path, Err: bare(err)} }
	info, err := os.Stat(path)
	if err != nil {
		return refuse(err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would block
		return refuse(errors.New("not a regular file"))
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 && runtime.GOOS != "windows" {
		return refuse(fmt.Errorf("%w: permissions are %04o; run: chmod 600 %s", ErrKeyPermissions, perm, path))
	}
	f, err := os.Open(path)
	if err != nil {
		return refuse(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return refuse(err)
	}
	key, err := ParseKey(text)
	if err != nil {
		return refuse(err)
	}
	return key, nil
}

// bare strips the path from an error of the file system, for errors that name it themselves.
func bare(err error) error {
	if inner := (*fs.PathError)(nil); errors.As(err, &inner) {
		return inner.Err
	}
	return err
}

// ReadKey reads a file with the private key of an issuer, in the form that [MarshalKey] writes. The
// file must be readable only by its owner. The error is a [*KeyError]; errors.Is(err,
// fs.ErrNotExist) is true if there is no file.
func ReadKey(path string) (ed25519.PrivateKey, error) { return readKey(path) }

// writeKey writes a key file so that after a crash at any point either the old file or the new one
// is there, whole.
func writeKey(path string, key ed25519.PrivateKey) error {
	text, err := MarshalKey(key)
	if err != nil {
		return err
	}
	if err := writeAtomic(path, text); err != nil {
		return &KeyError{Path: path, Err: err}
	}
	return nil
}

const tempSuffix = ".tmp"

func writeAtomic(path string, text []byte) (err error) {
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(dir, name+".*"+tempSuffix) // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename survive a power cut. Windows neither allows a directory to be synced nor
// needs it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeTemps removes what a crash in writeAtomic left behind.
func removeTemps(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "*.key.*"+tempSuffix))
	for _, path := range left {
		os.Remove(path)
	}
}
