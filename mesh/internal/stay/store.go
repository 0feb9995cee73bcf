package stay

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// maxRestored is how many feeds of one user are taken from a store, those used last. It leaves half
// of the remembered feeds for coming stays.
const maxRestored = maxStays / 2

// StoredFeed is what a store has of a feed.
type StoredFeed struct {
	Tag     FeedTag
	Through uint64 // the last item that was delivered, or is from before the node's time, or was lost
	Floor   uint64 // the first item that was for the app; 0: none was
	Began   time.Time
	Used    time.Time
	Ahead   bool      // the clock has been set back since, by more than clocks may differ
	End     *[32]byte // the hash of the envelope that ends with through; nil: not known
	Entry   []byte    // sealed
	List    []Kept    // by rising first
}

// Restore makes a new stay begin with what the store had of the room, before Enter. It returns how
// many of the envelopes are damaged.
func (st *Stay) Restore(now time.Time, feeds []StoredFeed) (damaged int) {
	j := st.journal
	slices.SortFunc(feeds, func(a, b StoredFeed) int { return b.Used.Compare(a.Used) })
	stays := make(map[identity.Subject]int)
	for i := range feeds {
		s := &feeds[i]
		entry, err := st.Door.open(s.Entry, now)
		if err != nil && s.Ahead {
			continue // a wrong clock rejects it: it stays until the clock is right
		}
		j.ring.touch(s.Tag) // what is not taken is dropped
		if err != nil || !entry.Joined || entry.Tag() != s.Tag || stays[entry.key()] >= maxRestored || now.Sub(s.Used) > 2*j.ring.limits.Age {
			if err != nil {
				st.log.Debug("feed not restored", "room", st.Room, "err", err)
			}
			continue
		}
		stays[entry.key()]++
		f := j.open(now, entry)
		if f == nil {
			continue
		}
		damaged += s.verify(now, st.Door)
		f.stored, f.end, f.began, f.used = s.Through, s.End, s.Began, s.Used
		for _, k := range s.List {
			j.ring.put(s.Tag, entry.key(), k)
		}
		st.baseline(now, f, s.Floor)
	}
	j.ring.expire(now)
	return damaged
}

// verify drops what the feed's author has not signed: a disk can fail. It checks the hashes by
// which envelopes name the one before them, and where they do not match, the signatures. It returns
// how many it has dropped.
func (s *StoredFeed) verify(now time.Time, d *Door) (bad int) {
	next, want := s.Through+1, s.End
	for i := len(s.List) - 1; i >= 0; i-- {
		k := &s.List[i]
		e, err := wire.ParseEnvelope(k.Sealed)
		if err == nil && (want == nil || e.Next() != next || sha256.Sum256(k.Sealed) != *want) {
			var opened *Envelope
			if opened, err = d.OpenEnvelope(now, k.Sealed); err == nil && opened.tag != s.Tag {
				err = errOthersEnvelope
			}
		}
		if err == nil && e.First != k.First {
			err = errOthersEnvelope
		}
		if err != nil {
			bad++
			k.Sealed = nil
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
		s.List = slices.DeleteFunc(s.List, func(k Kept) bool { return k.Sealed == nil })
	}
	return bad
}

// baseline settles where a feed of the store begins for the app, as far as that is known before
// neighbours are heard. floor is where it began in the stay before; 0: nowhere.
func (st *Stay) baseline(now time.Time, f *Feed, floor uint64) {
	j := st.journal
	last, read := j.resume[f.tag]
	switch {
	case f.peer() == st.Self:
		f.begin(f.stored + 1) // its messages are not for the app
	case read:
		f.begin(last + 1)
	case len(j.resume) > 0 && floor > 0:
		f.begin(floor) // the reader has read nothing of it
	case st.Past.All || st.Past.Age > 0:
		age, _ := pastAsked(st.Past.ask(0, 0))
		first, _ := j.firsts(now, age, 0)(f)
		j.wish(now, f, first)
	}
}

// wish notes where the app wants a feed of the store to begin.
func (j *journal) wish(now time.Time, f *Feed, first uint64) {
	if f.next > 0 || first > f.stored {
		return
	}
	f.claim = lowest(f.claim, first)
	if f.claimed.IsZero() {
		f.claimed = now
	}
	j.waiting.add(f)
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
	feeds := slices.SortedFunc(maps.Values(j.feeds), func(a, b *Feed) int { return bytes.Compare(a.tag[:], b.tag[:]) })
	for _, f := range feeds {
		if f.stored > 0 && f.next > 0 {
			ready, v := j.advanced(now, f, nil, taken)
			out = append(out, arrival{feed: f, ready: ready, verdict: v})
		}
	}
	return out
}

// restock adds to what a feed delivers what the store has of it next. That has been in the ring
// since the stay began.
func (j *journal) restock(now time.Time, f *Feed, ready []*Envelope, v verdict) ([]*Envelope, verdict) {
	for v == taken && f.next > 0 && f.next <= f.stored {
		list, _ := j.ring.from(f.tag, f.next, f.stored, 0)
		if len(list) == 0 {
			return ready, v
		}
		e, err := f.reopen(&list[0])
		if err != nil {
			return ready, v
		}
		var more []*Envelope
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
func (f *Feed) reopen(k *Kept) (*Envelope, error) {
	e, err := wire.ParseEnvelope(k.Sealed)
	if err != nil {
		return nil, err
	}
	return &Envelope{
		Envelope: e, device: f.entry.Statement.Device, Peer: f.peer(), Feed: f.entry.Feed, tag: f.tag,
		hash: sha256.Sum256(k.Sealed), sealed: k.Sealed, Size: len(k.Sealed), came: k.At, stored: true,
	}, nil
}

// changes are the feeds of a room whose present state is not in the store. What waits to be written
// is in the ring and nowhere else. So it is bounded, and what the ring has dropped meanwhile is not
// written. The zero value is for a room without a store.
type changes struct {
	dirty map[FeedTag]struct{}
	wake  func()
}

// touch notes that a feed has changed.
func (c *changes) touch(tag FeedTag) {
	if c.dirty == nil {
		return
	}
	c.dirty[tag] = struct{}{}
	c.wake()
}

// savedChange is what to write about a feed.
type savedChange struct {
	Tag    FeedTag
	Feed   *StoredFeed // nil: nothing is left of it
	Lowest uint64      // what lies before it is deleted
	Add    []Kept
}

// Unsaved takes what is to be written to the store, up to a budget of bytes, and reports whether it
// left something over. Each envelope takes overhead bytes beside its own.
func (st *Stay) Unsaved(now time.Time, overhead int, budget *int64) (list []savedChange, cut bool) {
	j := st.journal
	for tag := range j.ring.dirty {
		c, all := j.change(now, tag, overhead, budget)
		if all {
			delete(j.ring.dirty, tag)
		}
		cut = cut || !all
		if c.Feed != nil || all {
			list = append(list, c)
		}
	}
	return list, cut
}

// change returns what is to be written about a feed, as far as the budget goes, and whether that is
// all of it. Its record describes what the file will contain after the write.
func (j *journal) change(now time.Time, tag FeedTag, overhead int, budget *int64) (c savedChange, all bool) {
	c.Tag = tag
	f := j.feeds[tag]
	if f == nil || f.entry == nil || f.broken || f.silent || f.last() == 0 {
		return c, true
	}
	stored := StoredFeed{Through: f.last(), Floor: f.floor, Began: f.began, Used: f.used, End: f.tip, Entry: f.entry.Sealed}
	if f.next == 0 {
		stored.End = f.end
	} else if f.tip != nil {
		end := *f.tip // that of this node's own feed changes as it publishes
		stored.End = &end
	}
	c.Lowest, all = math.MaxUint64, true
	if sh := j.ring.shelves[tag]; sh != nil && len(sh.list) > 0 {
		c.Lowest = sh.list[0].First
		if left := sh.save(&c, overhead, budget); left >= 0 {
			all = false
			stored.Through, stored.End = sh.list[left].First-1, nil
			if left > 0 && sh.list[left-1].Last() == stored.Through {
				end := sha256.Sum256(sh.list[left-1].Sealed)
				stored.End = &end
			}
		}
	}
	if stored.Through > 0 {
		c.Feed = &stored
	}
	return c, all
}

// save takes what is not in the store, oldest first, and returns the index of the first envelope
// that the budget does not hold; -1: none.
func (sh *shelf) save(c *savedChange, overhead int, budget *int64) (left int) {
	start := len(sh.list)
	for n := sh.unsaved; n > 0; {
		if start--; !sh.list[start].Saved {
			n--
		}
	}
	for i := start; i < len(sh.list); i++ {
		k := &sh.list[i]
		if k.Saved {
			continue
		}
		size := int64(len(k.Sealed) + overhead)
		if size > *budget {
			return i
		}
		*budget -= size
		k.Saved = true
		sh.unsaved--
		c.Add = append(c.Add, *k)
	}
	return -1
}
