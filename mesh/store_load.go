package mesh

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/starling-mesh/starling/mesh/internal/stay"
	bolt "go.etcd.io/bbolt"
)

// load reads what the file has of a room; the file keeps it until done is called. What waits is
// written first: a stay in the room may just have ended, or the room may be about to be dropped. A
// store that cannot be read is logged, and does not prevent joining. load returns nothing for a nil
// store.
func (s *Store) load(ctx context.Context, m *Mesh, tag [32]byte) (feeds []stay.StoredFeed, done func()) {
	if s == nil {
		return nil, func() {}
	}
	s.expect(tag, 1)
	done = func() { s.expect(tag, -1) }
	_ = s.flush(ctx, m) // the writer logs what cannot be written
	err := guarded(func() error {
		return s.db.View(func(tx *bolt.Tx) (err error) {
			room := tx.Bucket(roomsBucket).Bucket(tag[:])
			if room == nil {
				return nil
			}
			feeds, err = loadRoom(s.clock.Now(), room)
			return err
		})
	})
	if err != nil {
		m.log.Warn("history cannot be read: the room begins without", "path", s.path, "err", err)
		return nil, done
	}
	return feeds, done
}

func (s *Store) expect(tag [32]byte, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.joining[tag] += n; s.joining[tag] == 0 {
		delete(s.joining, tag)
	}
}

func loadRoom(now time.Time, room *bolt.Bucket) (feeds []stay.StoredFeed, err error) {
	envelopes := room.Bucket(envelopesBucket).Cursor()
	err = room.Bucket(feedsBucket).ForEach(func(k, v []byte) error {
		f, err := readRecord(now, k, v)
		if err != nil {
			return err
		}
		for k, v := envelopes.Seek(f.Tag[:]); bytes.HasPrefix(k, f.Tag[:]); k, v = envelopes.Next() {
			f.List = append(f.List, stay.Kept{
				First: binary.BigEndian.Uint64(k[len(f.Tag):]), Saved: true,
				Sealed: bytes.Clone(v[8:]), At: readTime(now, v),
			})
		}
		feeds = append(feeds, f)
		return nil
	})
	return feeds, err
}
