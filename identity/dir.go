package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/starling-mesh/starling/internal/walltime"
)

// The files of a data directory. Keys have files of their own, so that people can see, copy and
// protect them. Everything else is in one database, whose lock is the lock of the directory.
const (
	deviceFile   = "device.key"
	userFile     = "user.key" // absent while the device key is the user key
	databaseFile = "starling.db"
)

// lockTimeout is how long OpenDir waits for another process to release the directory: long enough
// for a process that is closing.
const lockTimeout = time.Second

// ErrInUse reports a data directory that another process, or another Dir of this one, holds open.
var ErrInUse = errors.New("in use by another node")

// DirError reports a data directory that cannot be used.
type DirError struct {
	Path string
	Err  error
}

func (e *DirError) Error() string {
	return fmt.Sprintf("data directory %s: %v", e.Path, e.Err)
}

// Unwrap returns Err.
func (e *DirError) Unwrap() error { return e.Err }

// Dir is an open data directory: what a node keeps from one run to the next. Only one Dir at a time
// can hold a directory. It is safe for concurrent use; reads come from memory, writes reach the
// disk before they return.
type Dir struct {
	path  string
	db    *bolt.DB
	keys  *Keys
	pins  *Pins
	close func() error
	clock walltime.Clock

	mu       sync.Mutex
	ports    map[string]int
	user     string
	sequence uint64
	peers    map[peer.ID]*remembered
	lists    map[AppID][]byte // of revocations, sealed
	orders   map[[32]byte][]byte
	failed   error // the first write that failed
}

// OpenDir opens the data directory at path. It creates the directory (0700) and the keys (0600) if
// they are missing. It waits up to a second for another process to release the directory. Errors
// are a [*DirError], which may wrap [ErrInUse], or a [*KeyError].
func OpenDir(path string) (*Dir, error) {
	db, err := openDB(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, db: db}
	d.close = sync.OnceValue(d.shutdown)
	if err = d.loadKeys(); err == nil {
		err = guard(path, d.load)
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return d, nil
}

// SetClock sets the clock by which the directory notes when a name was pinned. Without it, that is
// the machine's clock. Call it before names are pinned. It is for tests of this module, since no
// other module can make a clock.
func (d *Dir) SetClock(c walltime.Clock) { d.clock = c }

// Path returns the path that the directory was opened with.
func (d *Dir) Path() string { return d.path }

// Keys returns the node's keys.
func (d *Dir) Keys() *Keys { return d.keys }

// Pins returns the directory's pins. Changes to them are saved.
func (d *Dir) Pins() *Pins { return d.pins }

// Close writes what is not yet written and releases the directory. It returns the first error of
// any write since OpenDir. It may be called again; every call returns the same error.
func (d *Dir) Close() error { return d.close() }

func (d *Dir) shutdown() error {
	d.flushPeers()
	err := d.db.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err = errors.Join(d.failed, err); err != nil {
		return &DirError{Path: d.path, Err: err}
	}
	return nil
}

// Ports returns the ports that the node last listened on, under the names that the caller gave
// them; empty at first.
func (d *Dir) Ports() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.ports)
}

// SetPorts saves the ports that the node listens on.
func (d *Dir) SetPorts(ports map[string]int) error {
	d.mu.Lock()
	d.ports = maps.Clone(ports)
	d.mu.Unlock()
	return d.save(saveMeta)
}

// LastUser returns the user ID that the node had last; empty at first.
func (d *Dir) LastUser() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.user
}

// SetLastUser saves the node's user ID.
func (d *Dir) SetLastUser(user string) error {
	d.mu.Lock()
	d.user = user
	d.mu.Unlock()
	return d.save(saveMeta)
}

// Sequence returns the highest log-in sequence saved; 0 at first. See [NextSequence].
func (d *Dir) Sequence() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sequence
}

// SetSequence saves the log-in sequence that the node uses now.
func (d *Dir) SetSequence(sequence uint64) error {
	d.mu.Lock()
	d.sequence = sequence
	d.mu.Unlock()
	return d.save(saveMeta)
}

// Revocations returns a copy of the list of revocations saved for an app; nil if there is none. It
// has not been verified: pass it to [Authority.Revoke].
func (d *Dir) Revocations(app AppID) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.lists[app])
}

// SetRevocations saves the list of revocations of an app in place of the previous one.
func (d *Dir) SetRevocations(app AppID, sealed []byte) error {
	if len(sealed) > MaxRevocations {
		return &DirError{Path: d.path, Err: ErrRevocations}
	}
	d.mu.Lock()
	d.lists[app] = bytes.Clone(sealed)
	d.mu.Unlock()
	return d.save(func(d *Dir, tx *bolt.Tx) error { return tx.Bucket(listsBucket).Put(app[:], d.Revocations(app)) })
}

// maxOrderRooms bounds the rooms whose orders are saved.
const maxOrderRooms = 256

// Orders returns what SetOrders saved for a room, by its tag; nil: nothing.
func (d *Dir) Orders(room [32]byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.orders[room])
}

// SetOrders saves what a mesh keeps of the orders in a room, as bytes that only the mesh reads;
// none: nothing. Those of at most 256 rooms are kept: beyond that, those of another room are
// forgotten.
func (d *Dir) SetOrders(room [32]byte, kept []byte) error {
	d.mu.Lock()
	gone := room
	if delete(d.orders, room); len(kept) > 0 {
		for other := range d.orders {
			if len(d.orders) < maxOrderRooms {
				break
			}
			gone = other
			delete(d.orders, other)
		}
		d.orders[room] = bytes.Clone(kept)
	}
	d.mu.Unlock()
	return d.save(func(d *Dir, tx *bolt.Tx) error {
		for _, tag := range [][32]byte{gone, room} {
			if now := d.Orders(tag); now == nil {
				if err := tx.Bucket(ordersBucket).Delete(tag[:]); err != nil {
					return err
				}
			} else if err := tx.Bucket(ordersBucket).Put(tag[:], now); err != nil {
				return err
			}
		}
		return nil
	})
}

// loadKeys reads the keys, and creates those that are missing.
func (d *Dir) loadKeys() error {
	removeTemps(d.path)
	if _, err := readKey(filepath.Join(d.path, deviceFile)); errors.Is(err, fs.ErrNotExist) {
		if err := d.newDeviceKey(); err != nil {
			return err
		}
	}
	var err error
	d.keys, err = ReadKeys(d.path)
	return err
}

func (d *Dir) newDeviceKey() error {
	keys, err := GenerateKeys()
	if err != nil {
		return err
	}
	return writeKey(filepath.Join(d.path, deviceFile), keys.Device)
}

// openDB creates the directory if needed, and takes its lock.
func openDB(path string) (db *bolt.DB, err error) {
	if path == "" {
		return nil, &DirError{Path: path, Err: errors.New("no path given")}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, &DirError{Path: path, Err: err}
	}
	err = guard(path, func() (err error) {
		db, err = bolt.Open(filepath.Join(path, databaseFile), 0o600, &bolt.Options{Timeout: lockTimeout})
		if errors.Is(err, bolterrors.ErrTimeout) {
			err = ErrInUse
		}
		return err
	})
	return db, err
}

// guard runs f, which works on the database, and adds the path to its errors. It turns a damaged
// file into an error: bbolt panics on invalid pages, and a truncated file faults in its memory map.
func guard(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s is damaged: %v", databaseFile, r)
		}
		if err != nil {
			err = &DirError{Path: path, Err: err}
		}
	}()
	return f()
}
