package mesh

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/starling-mesh/starling/mesh/internal/stay"
	bolt "go.etcd.io/bbolt"
)

const (
	// storeEvery is how often the store is written, at most: what a crash can lose. A write costs
	// the disk a flush or two, usually a few milliseconds, and several of them a second wear out no
	// flash.
	storeEvery = 100 * time.Millisecond
	// storeRetry is how long after a failed write the next one is tried.
	storeRetry = 5 * time.Second
	// storeBatch is how many bytes of envelopes one write takes.
	storeBatch = 4 << 20
)

// ErrNoStore reports that the mesh keeps nothing on disk.
var ErrNoStore = errors.New("no store")

// Flush returns when everything that the room has sealed or taken in before is in the [Store], on
// the disk. It returns [ErrNoStore] without a store, why the store could not be written, ctx's
// error, or [ErrClosed].
func (r *Room) Flush(ctx context.Context) error {
	if r.mesh.cfg.store == nil {
		return ErrNoStore
	}
	if !r.mesh.tasks.Enter() {
		return ErrClosed
	}
	defer r.mesh.tasks.Leave()
	return r.mesh.cfg.store.flush(ctx, r.mesh)
}

// flush waits for a write that begins after the call.
func (s *Store) flush(ctx context.Context, m *Mesh) error {
	written := make(chan error, 1)
	select {
	case s.requests <- written:
	case <-ctx.Done():
		return ctx.Err()
	case <-m.ctx.Done():
		return ErrClosed
	}
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-m.ctx.Done():
		return ErrClosed
	}
}

// roomChange is what to write about a room.
type roomChange struct {
	tag   [32]byte
	drop  bool // the whole room
	at    time.Time
	feeds []feedChange
}

// feedChange is what to write about a feed.
type feedChange struct {
	tag    stay.FeedTag
	record []byte // nil: nothing is left of it
	lowest uint64 // what lies before it is deleted
	add    []stay.Kept
}

// unsaved takes what is to be written about a room, up to a budget of bytes, and reports whether it
// left something over.
func (r *Room) unsaved(now time.Time, budget *int64) (feeds []feedChange, cut bool) {
	r.mu.Lock()
	list, cut := r.stay.Unsaved(now, storeOverhead, budget)
	r.mu.Unlock()
	for _, c := range list {
		f := feedChange{tag: c.Tag, lowest: c.Lowest, add: c.Add}
		if c.Feed != nil {
			f.record = record(c.Feed, now)
		}
		feeds = append(feeds, f)
	}
	return feeds, cut
}

// run writes what rooms retain, until the mesh ends.
func (s *Store) run(m *Mesh) {
	if s.aside != "" {
		m.log.Warn("history was damaged and set aside", "path", s.aside)
	}
	s.tidy(m.cfg.retention.Age)
	tidy := time.NewTicker(stay.TickEvery)
	defer tidy.Stop()
	pause := time.NewTimer(storeEvery)
	defer pause.Stop()
	wake := s.wake // nil after a write, for a moment
	for {
		var asked chan error
		select {
		case <-wake:
		case asked = <-s.requests:
		case <-tidy.C:
			s.tidy(m.cfg.retention.Age)
		case <-pause.C:
			wake = s.wake
			continue
		case <-m.ctx.Done():
			s.report(m, s.write())
			return
		}
		err := s.write()
		s.report(m, err)
		if asked != nil {
			asked <- err
		}
		wake = nil
		if err != nil {
			pause.Reset(storeRetry)
			s.again()
		} else {
			pause.Reset(storeEvery)
		}
	}
}

// again makes the writer look once more when it may.
func (s *Store) again() {
	s.wake.Set()
}

// report logs that writing has begun to fail, or works again.
func (s *Store) report(m *Mesh, err error) {
	switch {
	case err != nil && !s.failed:
		m.log.Warn("history cannot be written: it is kept in memory alone", "err", err)
	case err == nil && s.failed:
		m.log.Info("history is written again", "path", s.path)
	}
	s.failed = err != nil
}

// write brings the file up to date with what the rooms retain. What could not be written before is
// tried first.
func (s *Store) write() error {
	for more := true; more; {
		var ended []*Room
		if len(s.pending) == 0 {
			ended, more = s.collect()
		}
		if len(s.pending) > 0 {
			if err := s.commit(s.pending); err != nil {
				return &StoreError{s.path, err}
			}
			s.pending = nil
		}
		s.detach(ended)
	}
	return nil
}

// collect takes what is to be written next. It returns the rooms that have ended and then are
// written completely, and whether there is more.
func (s *Store) collect() (ended []*Room, more bool) {
	s.mu.Lock()
	live := slices.Collect(maps.Keys(s.live))
	s.mu.Unlock()
	now := s.clock.Now()
	freed := s.makeRoom()
	budget := min(storeBatch, s.limit-s.bytes+freed)
	size := budget
	for _, r := range live {
		over := r.ctx.Err() != nil
		feeds, cut := r.unsaved(now, &budget)
		if len(feeds) > 0 {
			s.pending = append(s.pending, roomChange{tag: r.tag, at: now, feeds: feeds})
		}
		if over && (!cut || budget == size) {
			ended = append(ended, r)
		}
		more = more || cut
	}
	return ended, more && budget < size
}

func (s *Store) detach(rooms []*Room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rooms {
		delete(s.live, r)
	}
}

// makeRoom drops rooms that are not joined if there may not be space for another write, and returns
// what that frees.
func (s *Store) makeRoom() (freed int64) {
	if s.limit-s.bytes >= storeBatch {
		return 0
	}
	idle := s.idle()
	tags := slices.SortedFunc(maps.Keys(idle), func(a, b [32]byte) int { return idle[a].used.Compare(idle[b].used) })
	for _, tag := range tags {
		if s.limit-s.bytes+freed >= storeBatch {
			break
		}
		s.pending = append(s.pending, roomChange{tag: tag, drop: true})
		freed += idle[tag].bytes
	}
	return freed
}

// idle returns the rooms that this node is neither in nor about to join.
func (s *Store) idle() map[[32]byte]*storedRoom {
	idle := maps.Clone(s.rooms)
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.live {
		delete(idle, r.tag)
	}
	for tag := range s.joining {
		delete(idle, tag)
	}
	return idle
}

// tidy drops rooms that have not been joined for so long that nothing in them counts.
func (s *Store) tidy(age time.Duration) {
	now := s.clock.Now()
	for tag, room := range s.idle() {
		if now.Sub(room.used) > 2*age {
			s.pending = append(s.pending, roomChange{tag: tag, drop: true})
		}
	}
	s.again()
}

// commit writes everything or nothing.
func (s *Store) commit(list []roomChange) error {
	grown := make([]int64, len(list))
	err := guarded(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			rooms := tx.Bucket(roomsBucket)
			for i, c := range list {
				n, err := c.write(rooms)
				if err != nil {
					return err
				}
				grown[i] = n
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for i, c := range list {
		room := s.rooms[c.tag]
		switch {
		case c.drop && room != nil:
			s.bytes -= room.bytes
			delete(s.rooms, c.tag)
			continue
		case c.drop:
			continue
		case room == nil:
			room = new(storedRoom)
			s.rooms[c.tag] = room
		}
		room.bytes += grown[i]
		room.used = c.at
		s.bytes += grown[i]
	}
	return nil
}

// write brings a room's bucket up to date, and returns by how much it has grown.
func (c *roomChange) write(rooms *bolt.Bucket) (grown int64, err error) {
	if c.drop {
		if rooms.Bucket(c.tag[:]) == nil {
			return 0, nil
		}
		return 0, rooms.DeleteBucket(c.tag[:])
	}
	room, err := rooms.CreateBucketIfNotExists(c.tag[:])
	if err != nil {
		return 0, err
	}
	feeds, err := room.CreateBucketIfNotExists(feedsBucket)
	if err != nil {
		return 0, err
	}
	envelopes, err := room.CreateBucketIfNotExists(envelopesBucket)
	if err != nil {
		return 0, err
	}
	for _, f := range c.feeds {
		n, err := f.write(c.at, feeds, envelopes)
		if err != nil {
			return 0, err
		}
		grown += n
	}
	return grown, nil
}

func (f *feedChange) write(now time.Time, feeds, envelopes *bolt.Bucket) (grown int64, err error) {
	if f.record == nil {
		if err := feeds.Delete(f.tag[:]); err != nil {
			return 0, err
		}
		f.lowest = math.MaxUint64
	} else if err := feeds.Put(f.tag[:], f.record); err != nil {
		return 0, err
	}
	for cursor := envelopes.Cursor(); ; {
		k, v := cursor.Seek(f.tag[:]) // seek again each time: after a Delete, Next may skip one
		if !bytes.HasPrefix(k, f.tag[:]) || binary.BigEndian.Uint64(k[len(f.tag):]) >= f.lowest {
			break
		}
		grown -= int64(len(v)) + storeOverhead
		if err := cursor.Delete(); err != nil {
			return 0, err
		}
	}
	for _, k := range f.add {
		value := append(appendTime(make([]byte, 0, 8+len(k.Sealed)), now, k.At), k.Sealed...)
		if err := envelopes.Put(envelopeKey(f.tag, k.First), value); err != nil {
			return 0, err
		}
		grown += int64(len(value)) + storeOverhead
	}
	return grown, nil
}
