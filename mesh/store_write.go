package mesh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/starling-mesh/starling/internal/task"
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

// changes are the feeds of a room whose present state is not in the store. What waits to be written
// is in the ring and nowhere else. So it is bounded, and what the ring has dropped meanwhile is not
// written. The zero value is for a room without a store.
type changes struct {
	dirty map[feedTag]struct{}
	wake  task.Wake
}

func (s *Store) changes() changes { return changes{make(map[feedTag]struct{}), s.wake} }

// touch notes that a feed has changed.
func (c *changes) touch(tag feedTag) {
	if c.dirty == nil {
		return
	}
	c.dirty[tag] = struct{}{}
	c.wake.Set()
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
	tag    feedTag
	record []byte // nil: nothing is left of it
	lowest uint64 // what lies before it is deleted
	add    []kept
}

// unsaved takes what is to be written about a room, up to a budget of bytes, and reports whether it
// left something over.
func (r *Room) unsaved(now time.Time, budget *int64) (feeds []feedChange, cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	j := r.journal
	for tag := range j.ring.dirty {
		c, all := j.change(now, tag, budget)
		if all {
			delete(j.ring.dirty, tag)
		}
		cut = cut || !all
		if c.record != nil || all {
			feeds = append(feeds, c)
		}
	}
	return feeds, cut
}

// change returns what is to be written about a feed, as far as the budget goes, and whether that is
// all of it. Its record describes what the file will contain after the write.
func (j *journal) change(now time.Time, tag feedTag, budget *int64) (c feedChange, all bool) {
	c.tag = tag
	f := j.feeds[tag]
	if f == nil || f.entry == nil || f.broken || f.silent || f.last() == 0 {
		return c, true
	}
	stored := storedFeed{through: f.last(), floor: f.floor, began: f.began, used: f.used, end: f.tip, entry: f.entry.sealed}
	if f.next == 0 {
		stored.end = f.end
	}
	c.lowest, all = math.MaxUint64, true
	if sh := j.ring.shelves[tag]; sh != nil && len(sh.list) > 0 {
		c.lowest = sh.list[0].first
		if left := sh.save(&c, budget); left >= 0 {
			all = false
			stored.through, stored.end = sh.list[left].first-1, nil
			if left > 0 && sh.list[left-1].last() == stored.through {
				end := sha256.Sum256(sh.list[left-1].sealed)
				stored.end = &end
			}
		}
	}
	if stored.through > 0 {
		c.record = stored.record(now)
	}
	return c, all
}

// save takes what is not in the store, oldest first, and returns the index of the first envelope
// that the budget does not hold; -1: none.
func (sh *shelf) save(c *feedChange, budget *int64) (left int) {
	start := len(sh.list)
	for n := sh.unsaved; n > 0; {
		if start--; !sh.list[start].saved {
			n--
		}
	}
	for i := start; i < len(sh.list); i++ {
		k := &sh.list[i]
		if k.saved {
			continue
		}
		size := int64(len(k.sealed) + storeOverhead)
		if size > *budget {
			return i
		}
		*budget -= size
		k.saved = true
		sh.unsaved--
		c.add = append(c.add, *k)
	}
	return -1
}

// run writes what rooms retain, until the mesh ends.
func (s *Store) run(m *Mesh) {
	if s.aside != "" {
		m.log.Warn("history was damaged and set aside", "path", s.aside)
	}
	s.tidy(m.cfg.retention.Age)
	tidy := time.NewTicker(renewCheck)
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
	now := time.Now()
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
	now := time.Now()
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
		value := append(appendTime(make([]byte, 0, 8+len(k.sealed)), now, k.at), k.sealed...)
		if err := envelopes.Put(envelopeKey(f.tag, k.first), value); err != nil {
			return 0, err
		}
		grown += int64(len(value)) + storeOverhead
	}
	return grown, nil
}
