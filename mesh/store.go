package mesh

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

const (
	// DefaultStoreLimit is how many bytes of envelopes a [Store] holds by default: eight busy
	// rooms, at the default [Retention] of 32 MiB.
	DefaultStoreLimit = 256 << 20
	// storeSchema is the version of the file.
	storeSchema = 1
	// storeOverhead is what an envelope takes beside its own bytes: its key, its age and what bbolt
	// records for it.
	storeOverhead = 64
	// storeLock is how long OpenStore waits for another process, which is closing, to release the
	// file.
	storeLock = time.Second
)

// The buckets of the file. The bucket of rooms holds one bucket for each room, named by its tag,
// with two in it.
var (
	metaBucket      = []byte("meta")      // schemaKey → storeSchema, as 8 bytes
	roomsBucket     = []byte("rooms")     // room tag → bucket
	feedsBucket     = []byte("feeds")     // feed tag → storedFeed.record
	envelopesBucket = []byte("envelopes") // feed tag ‖ first → when it came ‖ sealed envelope
	schemaKey       = []byte("schema")
)

// ErrStoreVersion reports a store of another version of this package.
var ErrStoreVersion = errors.New("written by another version")

// StoreError reports that the file of a [Store] cannot be used. It may wrap [ErrStoreVersion], or
// [identity.ErrInUse] if another node holds the file.
type StoreError struct {
	Path string
	Err  error
}

func (e *StoreError) Error() string { return fmt.Sprintf("store %s: %v", e.Path, e.Err) }

// Unwrap returns Err.
func (e *StoreError) Unwrap() error { return e.Err }

// Store keeps what rooms retain in a file: sealed envelopes with their age, whose feeds they are,
// and how far each feed has got. A mesh with a store ([WithStore]) goes on after a restart with
// what it had before:
//
//   - It sends neighbours what they lack. That includes its own broadcasts of the run before, such
//     as those that nobody had acknowledged when the process died.
//   - Its own app gets nothing of it, unless it joins [WithHistory] or [WithResume]. With
//     WithResume it gets what the reader had not read.
//   - What it had is not delivered again, and not counted as lost.
//
// A room keeps in the file what its [Retention] allows it in memory. Ages go on while no process
// runs. A clock that was set back makes nothing older, and what is from the future counts as new. A
// room that is not joined is dropped after twice its age. All rooms together hold at most the limit
// of OpenStore. At the limit, rooms that are not joined are dropped, the one used least recently
// first; after that, what is new stays in memory alone. The file itself can be twice as large, and
// does not shrink.
//
// One goroutine writes, every 100 ms at most, and nothing waits for it but [Room.Flush]. Each write
// is one transaction that is on the disk (fdatasync) before it counts. A process that is killed, or
// a machine that loses power, loses what came in the last 100 ms and during one write, and the file
// is whole. A message is stored once it has been sealed, which usually is at once. What still
// queues in [Room.PublishAsync] when the process dies is lost, and its [Pending] has not ended.
//
// The envelopes are stored as they travelled: signed, and not encrypted. Only the file's owner can
// read it (0600).
type Store struct {
	path  string
	limit int64
	aside string
	db    *bolt.DB

	claimed  atomic.Bool     // by a mesh
	clock    walltime.Clock  // of that mesh
	wake     task.Wake       // a room has something to write
	requests chan chan error // of Flush

	mu   sync.Mutex
	live map[*Room]struct{} // rooms that are joined, or have not been written since
	// joining counts the calls that are about to join a room: what they have read must stay.
	joining map[[32]byte]int

	// Used only by the writer, and before it runs.
	rooms   map[[32]byte]*storedRoom
	bytes   int64 // of all rooms
	pending []roomChange
	failed  bool // the last write failed
}

// storedRoom is what the file has of a room.
type storedRoom struct {
	bytes   int64
	used    time.Time // in this run; zero: the store has not been claimed yet, or no feed has a time
	wasUsed uint64    // by an earlier run, as the file has it
}

// OpenStore opens the file at path, and creates it if it is missing. Limit bounds the envelopes in
// it, in bytes; 0 means [DefaultStoreLimit]. It waits up to a second for another process to release
// the file. Errors are a [*StoreError].
//
// A damaged file is moved to the same path with ".damaged" at its end, where it replaces an earlier
// one, and a new file is begun: see [Store.SetAside]. A file of another version ([ErrStoreVersion])
// is left as it is.
func OpenStore(path string, limit int64) (*Store, error) {
	if limit == 0 {
		limit = DefaultStoreLimit
	}
	if limit < 0 {
		return nil, &StoreError{path, fmt.Errorf("a limit of %d bytes", limit)}
	}
	s := &Store{
		path: path, limit: limit,
		wake: task.NewWake(), requests: make(chan chan error),
		live: make(map[*Room]struct{}), joining: make(map[[32]byte]int),
	}
	err := s.open()
	if _, damaged := errors.AsType[*damage](err); damaged {
		aside := path + ".damaged"
		if e := os.Rename(path, aside); e != nil {
			return nil, &StoreError{path, fmt.Errorf("%w, and cannot be moved out of the way: %w", err, e)}
		}
		s.aside = aside
		err = s.open()
	}
	if err != nil {
		return nil, &StoreError{path, err}
	}
	return s, nil
}

// SetAside returns the path to which OpenStore has moved a damaged file; empty if there was none.
func (s *Store) SetAside() string { return s.aside }

// Close releases the file. It must not be called before the mesh that uses the store has been
// closed.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return &StoreError{s.path, err}
	}
	return nil
}

// damage is the error for a file that cannot be read.
type damage struct{ what string }

func (d *damage) Error() string { return "damaged: " + d.what }

// open opens the database and checks all of it.
func (s *Store) open() (err error) {
	s.db, s.rooms, s.bytes = nil, make(map[[32]byte]*storedRoom), 0
	defer func() {
		if err != nil && s.db != nil {
			_ = s.db.Close()
		}
	}()
	return guarded(func() (err error) {
		s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{Timeout: storeLock})
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return identity.ErrInUse
		case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
			return &damage{err.Error()}
		case err != nil:
			return err
		}
		return s.db.Update(s.survey)
	})
}

// guarded runs f, which works on the database, and returns damage to the file as an error: bbolt
// panics on pages that make no sense, and a truncated file faults in its memory map.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &damage{fmt.Sprint(r)}
		}
	}()
	return f()
}

// survey checks the version and counts what is there. A new file gets its version.
func (s *Store) survey(tx *bolt.Tx) error {
	if meta := tx.Bucket(metaBucket); meta == nil {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		if err := meta.Put(schemaKey, binary.BigEndian.AppendUint64(nil, storeSchema)); err != nil {
			return err
		}
	} else if v := meta.Get(schemaKey); len(v) != 8 {
		return &damage{"it does not say its version"}
	} else if v := binary.BigEndian.Uint64(v); v != storeSchema {
		return fmt.Errorf("%w: it has schema %d, and this one knows %d; use that version, or remove the file to begin anew", ErrStoreVersion, v, storeSchema)
	}
	rooms, err := tx.CreateBucketIfNotExists(roomsBucket)
	if err != nil {
		return err
	}
	return rooms.ForEachBucket(func(k []byte) error {
		if len(k) != len([32]byte{}) {
			return &damage{fmt.Sprintf("a room tag of %d bytes", len(k))}
		}
		room, err := surveyRoom(rooms.Bucket(k))
		if err != nil {
			return err
		}
		s.rooms[[32]byte(k)] = room
		s.bytes += room.bytes
		return nil
	})
}

func surveyRoom(b *bolt.Bucket) (*storedRoom, error) {
	feeds, envelopes := b.Bucket(feedsBucket), b.Bucket(envelopesBucket)
	if feeds == nil || envelopes == nil {
		return nil, &damage{"a room without its buckets"}
	}
	room := new(storedRoom)
	err := feeds.ForEach(func(k, v []byte) error {
		if err := checkRecord(k, v); err != nil {
			return err
		}
		room.wasUsed = max(room.wasUsed, binary.BigEndian.Uint64(v[24:]))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return room, envelopes.ForEach(func(k, v []byte) error {
		if len(k) != len(stay.FeedTag{})+8 || len(v) < 8 {
			return &damage{"an envelope under a malformed key"}
		}
		room.bytes += int64(len(v)) + storeOverhead
		return nil
	})
}

const recordSize = 4*8 + 32

// record returns a feed without its envelopes: through, floor, began and used in milliseconds, end,
// entry.
func record(f *stay.StoredFeed, now time.Time) []byte {
	out := make([]byte, 0, recordSize+len(f.Entry))
	out = binary.BigEndian.AppendUint64(out, f.Through)
	out = binary.BigEndian.AppendUint64(out, f.Floor)
	out = appendTime(out, now, f.Began)
	out = appendTime(out, now, f.Used)
	var end [32]byte
	if f.End != nil {
		end = *f.End
	}
	return append(append(out, end[:]...), f.Entry...)
}

func checkRecord(key, v []byte) error {
	if len(key) != len(stay.FeedTag{}) || len(v) < recordSize {
		return &damage{"a malformed feed"}
	}
	return nil
}

func readRecord(now time.Time, key, v []byte) (f stay.StoredFeed, err error) {
	if err := checkRecord(key, v); err != nil {
		return f, err
	}
	f.Tag = stay.FeedTag(key)
	f.Through, f.Floor = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
	f.Began, f.Used = readTime(now, v[16:]), readTime(now, v[24:])
	f.Ahead = binary.BigEndian.Uint64(v[24:]) > uint64(now.Add(identity.MaxSkew).UnixMilli())
	if end := [32]byte(v[32:]); end != ([32]byte{}) {
		f.End = &end
	}
	f.Entry = bytes.Clone(v[recordSize:])
	return f, nil
}

// appendTime writes a time of this run as wall clock time, in milliseconds. It counts back from
// now, so that a clock that has been set meanwhile makes no difference. Zero stays zero.
func appendTime(out []byte, now, t time.Time) []byte {
	if t.IsZero() {
		return binary.BigEndian.AppendUint64(out, 0)
	}
	return binary.BigEndian.AppendUint64(out, uint64(max(now.UnixMilli()-now.Sub(t).Milliseconds(), 1)))
}

// readTime returns a stored time as a time of this run. A time in the future becomes now.
func readTime(now time.Time, in []byte) time.Time {
	return inThisRun(now, binary.BigEndian.Uint64(in))
}

func inThisRun(now time.Time, ms uint64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	if ms >= uint64(now.UnixMilli()) {
		return now
	}
	return now.Add(-now.Sub(time.UnixMilli(int64(ms))))
}

// envelopeKey returns the key of an envelope.
func envelopeKey(tag stay.FeedTag, first uint64) []byte {
	return binary.BigEndian.AppendUint64(tag[:len(tag):len(tag)], first)
}

// claim reserves the store for one mesh, from whose clock it reads the time then. The methods that
// follow do nothing for a nil store.
func (s *Store) claim(clock walltime.Clock) error {
	if s == nil {
		return nil
	}
	if s.claimed.Swap(true) {
		return &StoreError{s.path, errors.New("another mesh uses it")}
	}
	s.clock = clock
	now := clock.Now()
	for _, room := range s.rooms {
		if room.used.IsZero() {
			room.used = inThisRun(now, room.wasUsed)
		}
	}
	return nil
}

func (s *Store) release() {
	if s != nil {
		s.claimed.Store(false)
	}
}

// attach begins to write what a room retains.
func (s *Store) attach(r *Room) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[r] = struct{}{}
}
