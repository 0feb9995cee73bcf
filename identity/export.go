package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// ErrOtherKey reports an import into a data directory that already belongs to another user.
var ErrOtherKey = errors.New("another user key is there already")

// ReadKeys returns the keys of a data directory. The directory may be in use, since key files are
// only ever replaced whole. ReadKeys creates no keys: errors.Is(err, fs.ErrNotExist) is true if
// there are none. The error is a [*KeyError].
func ReadKeys(dir string) (*Keys, error) {
	device, err := readKey(filepath.Join(dir, deviceFile))
	if err != nil {
		return nil, err
	}
	user, err := readKey(filepath.Join(dir, userFile))
	if errors.Is(err, fs.ErrNotExist) {
		user, err = device, nil
	}
	if err != nil {
		return nil, err
	}
	return &Keys{Device: device, User: user}, nil
}

// ExportUserKey returns the user key of a data directory in the form that [ImportUserKey] takes, to
// carry the user to another device. It is a private key: anyone who has it is that user. The
// directory may be in use. The error is a [*KeyError]; errors.Is(err, fs.ErrNotExist) is true if
// there is no key.
func ExportUserKey(dir string) (pemText []byte, err error) {
	key, err := readKey(filepath.Join(dir, userFile))
	if errors.Is(err, fs.ErrNotExist) {
		key, err = readKey(filepath.Join(dir, deviceFile))
	}
	if err != nil {
		return nil, err
	}
	return MarshalKey(key)
}

// ImportUserKey makes the exported key the user key of a data directory. The directory keeps its
// own device key, or gets one when it is next opened; it is created if it does not exist. If it
// already has the key of another user, the import fails with [ErrOtherKey] and changes nothing. It
// fails with [ErrInUse] while a node uses the directory, and with [ErrKeyDamaged] or [ErrKeyType]
// for text that contains no key.
func ImportUserKey(dir string, pemText []byte) error { return importUserKey(dir, pemText, false) }

// ReplaceUserKey is [ImportUserKey], but overwrites another user's key. The overwritten key is lost
// unless it was exported.
func ReplaceUserKey(dir string, pemText []byte) error { return importUserKey(dir, pemText, true) }

func importUserKey(dir string, pemText []byte, replace bool) error {
	key, err := ParseKey(pemText)
	if err != nil {
		return fmt.Errorf("user key: %w", err)
	}
	db, err := openDB(dir) // keeps nodes from reading the keys meanwhile
	if err != nil {
		return err
	}
	defer db.Close()

	path := filepath.Join(dir, userFile)
	has, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		has, err = readKey(filepath.Join(dir, deviceFile))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) || replace:
	case err != nil:
		return err
	case has.Equal(key):
		return nil
	default:
		return &KeyError{Path: path, Err: fmt.Errorf("%w: %s, not %s", ErrOtherKey,
			publicKey(has).Fingerprint(), publicKey(key).Fingerprint())}
	}
	return writeKey(path, key)
}
