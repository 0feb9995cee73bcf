package mesh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// maxRestored is how many feeds of one user are taken from a store, those used last. It leaves half
// of the remembered feeds for coming stays.
const maxRestored = maxStays / 2

// load reads what the file has of a room; the file keeps it until done is called. What waits is
// written first: a stay in the room may just have ended, or the room may be about to be dropped. A
// store that cannot be read is logged, and does not prevent joining. load returns nothing for a nil
// store.
func (s *Store) load(ctx context.Context, m *Mesh, tag [32]byte) (feeds []storedFeed, done func()) {
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
			feeds, err = loadRoom(time.Now(), room)
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

func loadRoom(now time.Time, room *bolt.Bucket) (feeds []storedFeed, err error) {
	envelopes := room.Bucket(envelopesBucket).Cursor()
	err = room.Bucket(feedsBucket).ForEach(func(k, v []byte) error {
		f, err := readRecord(now, k, v)
		if err != nil {
			return err
		}
		for k, v := envelopes.Seek(f.tag[:]); bytes.HasPrefix(k, f.tag[:]); k, v = envelopes.Next() {
			f.list = append(f.list, kept{
				first: binary.BigEndian.Uint64(k[len(f.tag):]), saved: true,
				sealed: bytes.Clone(v[8:]), at: readTime(now, v),
			})
		}
		feeds = append(feeds, f)
		return nil
	})
	return feeds, err
}

// restore makes a new stay begin with what the store had of the room. Nobody else knows the room
// yet.
func (r *Room) restore(now time.Time, feeds []storedFeed) {
	j := r.journal
	slices.SortFunc(feeds, func(a, b storedFeed) int { return b.used.Compare(a.used) })
	stays := make(map[identity.Subject]int)
	for i := range feeds {
		s := &feeds[i]
		entry, err := r.door.open(s.entry, now)
		if err != nil && s.ahead {
			continue // a wrong clock rejects it: it stays until the clock is right
		}
		j.ring.touch(s.tag) // what is not taken is dropped
		if err != nil || !entry.joined || entry.tag() != s.tag || stays[entry.key()] >= maxRestored || now.Sub(s.used) > 2*j.ring.limits.Age {
			if err != nil {
				r.mesh.log.Debug("feed not restored", "room", r.name, "err", err)
			}
			continue
		}
		stays[entry.key()]++
		f := j.open(now, entry)
		if f == nil {
			continue
		}
		r.verify(s)
		f.stored, f.end, f.began, f.used = s.through, s.end, s.began, s.used
		for _, k := range s.list {
			j.ring.put(s.tag, entry.key(), k)
		}
		r.baseline(now, f, s.floor)
	}
	j.ring.expire(now)
}

// verify drops what the feed's author has not signed: a disk can fail. It checks the hashes by
// which envelopes name the one before them, and where they do not match, the signatures.
func (r *Room) verify(s *storedFeed) {
	next, want := s.through+1, s.end
	bad := 0
	for i := len(s.list) - 1; i >= 0; i-- {
		k := &s.list[i]
		e, err := wire.ParseEnvelope(k.sealed)
		if err == nil && (want == nil || e.Next() != next || sha256.Sum256(k.sealed) != *want) {
			var opened *envelope
			if opened, err = r.openEnvelope(k.sealed); err == nil && opened.tag != s.tag {
				err = errOthersEnvelope
			}
		}
		if err == nil && e.First != k.first {
			err = errOthersEnvelope
		}
		if err != nil {
			bad++
			k.sealed = nil
			want = nil
			continue
		}
		k.count = e.Count
		next, want = e.First, nil
		if len(e.Previous) == sha256.Size {
			want = (*[32]byte)(e.Previous)
		}
	}
	if bad > 0 {
		r.mesh.log.Warn("damaged broadcasts in the history", "room", r.name, "path", r.mesh.cfg.store.path, "envelopes", bad)
		s.list = slices.DeleteFunc(s.list, func(k kept) bool { return k.sealed == nil })
	}
}

// baseline settles where a feed of the store begins for the app, as far as that is known before
// neighbours are heard. floor is where it began in the stay before; 0: nowhere.
func (r *Room) baseline(now time.Time, f *feed, floor uint64) {
	j := r.journal
	last, read := j.resume[f.tag]
	switch {
	case f.peer() == r.mesh.host.ID():
		f.begin(f.stored + 1) // its messages are not for the app
	case read:
		f.begin(last + 1)
	case len(j.resume) > 0 && floor > 0:
		f.begin(floor) // the reader has read nothing of it
	case r.past.all || r.past.age > 0:
		age, _ := pastAsked(r.past.ask(0, 0))
		first, _ := j.firsts(now, age, 0)(f)
		j.wish(now, f, first)
	}
}

// wish notes where the app wants a feed of the store to begin.
func (j *journal) wish(now time.Time, f *feed, first uint64) {
	if f.next > 0 || first > f.stored {
		return
	}
	f.claim = lowest(f.claim, first)
	if f.claimed.IsZero() {
		f.claimed = now
	}
	j.waiting[f] = struct{}{}
}

// recall returns what the store has for the app, once neighbours have been heard. A member that
// asked for the last messages gets them from neighbours, or from the store if it is alone.
func (j *journal) recall(now time.Time, count int, alone bool) (out []arrival) {
	if alone && count > 0 {
		for tag, first := range j.ring.latest(count) {
			if f := j.feeds[tag]; f.stored > 0 {
				j.wish(now, f, first)
			}
		}
	}
	for _, f := range j.feeds {
		if f.stored > 0 && f.next > 0 {
			ready, v := j.advanced(now, f, nil, taken)
			out = append(out, arrival{feed: f, ready: ready, verdict: v})
		}
	}
	return out
}

// restock adds to what a feed delivers what the store has of it next. That has been in the ring
// since the stay began.
func (j *journal) restock(now time.Time, f *feed, ready []*envelope, v verdict) ([]*envelope, verdict) {
	for v == taken && f.next > 0 && f.next <= f.stored {
		list, _ := j.ring.from(f.tag, f.next, f.stored, 0)
		if len(list) == 0 {
			return ready, v
		}
		e, err := f.reopen(&list[0])
		if err != nil {
			return ready, v
		}
		var more []*envelope
		if more, v = f.take(now, e); len(more) == 0 {
			if v != forked {
				v = taken // it waits behind a gap
			}
			return ready, v
		}
		ready = append(ready, more...)
	}
	return ready, v
}

// reopen makes an envelope of what the ring has.
func (f *feed) reopen(k *kept) (*envelope, error) {
	e, err := wire.ParseEnvelope(k.sealed)
	if err != nil {
		return nil, err
	}
	return &envelope{
		Envelope: e, device: f.entry.statement.Device, peer: f.peer(), feed: f.entry.feed, tag: f.tag,
		hash: sha256.Sum256(k.sealed), sealed: k.sealed, size: len(k.sealed), came: k.at, stored: true,
	}, nil
}
