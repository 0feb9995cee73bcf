package identity

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The buckets of the database.
var (
	metaBucket  = []byte("meta")  // one key, metaKey: the JSON of metaRecord
	pinsBucket  = []byte("pins")  // user → the JSON of pinRecord
	peersBucket = []byte("peers") // peer ID as text → the JSON of peerRecord
	listsBucket = []byte("lists") // app ID → its sealed list of revocations

	ordersBucket = []byte("orders") // tag of a room → what the mesh keeps of its orders
	metaKey      = []byte("v1")
)

type metaRecord struct {
	Ports    map[string]int `json:"ports,omitempty"`
	User     string         `json:"user,omitempty"`
	Sequence uint64         `json:"sequence,omitempty,string"`
}

type pinRecord struct {
	Key []byte    `json:"key"`
	At  time.Time `json:"at"`
}

// load reads the whole database into memory.
func (d *Dir) load() error {
	d.peers = make(map[peer.ID]*remembered)
	d.lists = make(map[AppID][]byte)
	d.orders = make(map[[32]byte][]byte)
	type pin struct {
		user string
		pinRecord
	}
	var pins []pin
	err := d.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{metaBucket, pinsBucket, peersBucket, listsBucket, ordersBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		if raw := tx.Bucket(metaBucket).Get(metaKey); raw != nil {
			var meta metaRecord
			if err := json.Unmarshal(raw, &meta); err != nil {
				return fmt.Errorf("%s is damaged: %w", databaseFile, err)
			}
			d.ports, d.user, d.sequence = meta.Ports, meta.User, meta.Sequence
		}
		err := tx.Bucket(pinsBucket).ForEach(func(k, v []byte) error {
			p := pin{user: string(k)}
			if err := json.Unmarshal(v, &p.pinRecord); err != nil || len(p.Key) != len(PublicKey{}) {
				return fmt.Errorf("%s is damaged: pin of %q", databaseFile, k)
			}
			pins = append(pins, p)
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.Bucket(listsBucket).ForEach(func(k, v []byte) error {
			if len(k) != len(AppID{}) {
				return fmt.Errorf("%s is damaged: list of %d bytes of an app", databaseFile, len(k))
			}
			d.lists[AppID(k)] = bytes.Clone(v)
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.Bucket(ordersBucket).ForEach(func(k, v []byte) error {
			if len(k) != len([32]byte{}) {
				return fmt.Errorf("%s is damaged: orders of a room with a tag of %d bytes", databaseFile, len(k))
			}
			d.orders[[32]byte(k)] = bytes.Clone(v)
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(peersBucket).ForEach(func(k, v []byte) error {
			r, err := decodePeer(k, v)
			if err != nil {
				return fmt.Errorf("%s is damaged: peer %q: %w", databaseFile, k, err)
			}
			d.peers[r.Login.Peer] = &remembered{Remembered: r, saved: r.Seen}
			return nil
		})
	})
	if err != nil {
		return err
	}
	d.pins = newPins(maxPins, func(string) {})
	slices.SortFunc(pins, func(a, b pin) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.user, b.user)) })
	for _, p := range pins {
		d.pins.Pin(p.user, PublicKey(p.Key))
	}
	d.pins.save = d.savePin
	return nil
}

// save runs one write. write must read what it stores inside the transaction: transactions are
// serialised, so the last one has the latest state, and we hold no lock of our own during disk
// access.
func (d *Dir) save(write func(*Dir, *bolt.Tx) error) error {
	err := d.db.Update(func(tx *bolt.Tx) error { return write(d, tx) })
	if err == nil {
		return nil
	}
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = fs.ErrClosed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil && !errors.Is(err, fs.ErrClosed) {
		d.failed = err
	}
	return &DirError{Path: d.path, Err: err}
}

func saveMeta(d *Dir, tx *bolt.Tx) error {
	d.mu.Lock()
	raw, err := json.Marshal(metaRecord{Ports: d.ports, User: d.user, Sequence: d.sequence})
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return tx.Bucket(metaBucket).Put(metaKey, raw)
}

// savePin stores the current pin of user. Pin returns no error, so Close reports a failure.
func (d *Dir) savePin(user string) {
	_ = d.save(func(d *Dir, tx *bolt.Tx) error {
		key, ok := d.pins.Lookup(user)
		if !ok {
			return tx.Bucket(pinsBucket).Delete([]byte(user))
		}
		raw, err := json.Marshal(pinRecord{Key: key[:], At: d.clock.Now().UTC()})
		if err != nil {
			return err
		}
		return tx.Bucket(pinsBucket).Put([]byte(user), raw)
	})
}
