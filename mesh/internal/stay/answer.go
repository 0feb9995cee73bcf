package stay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// announce returns the feeds that have been quiet for a moment and whose positions neighbours have
// not been told.
func (j *journal) announce(now time.Time) (quiet []*Feed) {
	for f := range j.moved.all() {
		if !now.Before(f.tellAt) {
			quiet = append(quiet, f)
			j.moved.remove(f)
		}
	}
	return quiet
}

// firsts answers a Past: where each feed begins for a member that wants what is no older than age,
// and the last count messages. The answer is unsure if this node's own time begins later than the
// member's.
func (j *journal) firsts(now time.Time, age time.Duration, count int) func(*Feed) (first uint64, sure bool) {
	cutoff := now.Add(-min(age, j.ring.limits.Age+time.Minute))
	var latest map[FeedTag]uint64
	if count > 0 {
		latest = j.ring.latest(count)
	}
	return func(f *Feed) (first uint64, sure bool) {
		first = j.ring.since(f.tag, cutoff, f.floor, f.position()+1, f.began)
		if first > f.position() {
			first = f.heldSince(cutoff)
		}
		if f.lostByGuess > 0 && (first <= f.floor || !cutoff.After(j.since)) {
			first = min(first, f.lostByGuess) // nobody here knows when that was published
		}
		if n, ok := latest[f.tag]; ok {
			first = min(first, n)
		}
		return first, first > f.floor || f.floor <= 1 || !f.guessed && f.lostByGuess == 0 && !cutoff.Before(j.since)
	}
}

// positions returns the feeds that have a baseline, in the order of their tags. A feed that others
// have only mentioned is left out: otherwise one member's invention would spread.
func (j *journal) positions() []*Feed {
	out := make([]*Feed, 0, len(j.feeds))
	for _, f := range j.feeds {
		if f.entry != nil && (f.next > 0 || f.stored > 0) && !f.broken && !f.silent {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *Feed) int { return bytes.Compare(a.tag[:], b.tag[:]) })
	return out
}

// sum returns a hash by which two members see whether they have the same of every feed.
func (j *journal) sum() []byte {
	if j.digest == nil {
		h := sha256.New()
		var last [8]byte
		for _, f := range j.positions() {
			h.Write(f.tag[:])
			binary.BigEndian.PutUint64(last[:], f.position())
			h.Write(last[:])
		}
		j.digest = h.Sum(nil)
	}
	return j.digest
}

// answer returns what is retained of a want, and the item gone through which the feed cannot be had
// here: it was dropped, or is from before this node's time. Both are empty for a feed that has not
// got so far.
func (j *journal) answer(tag FeedTag, s span, budget int) (list []Kept, gone uint64, more bool) {
	f := j.feeds[tag]
	if f == nil || f.broken || f.next == 0 && f.stored == 0 {
		return nil, 0, false
	}
	list, more = j.ring.from(tag, s.first, s.last, budget)
	end := f.last()
	if s.last > 0 {
		end = min(end, s.last)
	}
	if len(list) > 0 {
		end = min(end, list[0].First-1)
	}
	if end >= s.first {
		gone = end
	}
	return list, gone, more
}

// serve is answer with what is held behind a gap. So members that all lack the same wait for it at
// the same time, and not one after the other. What a feed goes on with from the store, behind a
// hole, is both retained and held.
func (j *journal) serve(tag FeedTag, s span, budget int) (list []Kept, gone uint64, more bool) {
	list, gone, more = j.answer(tag, s, budget)
	f := j.feeds[tag]
	if f == nil || f.broken || f.next == 0 || f.entry == nil || len(f.held) == 0 || more && len(list) == 0 {
		return list, gone, more
	}
	end := s.last
	if more {
		end = list[len(list)-1].First // what lies behind is asked for again
	}
	for _, e := range f.held {
		if e.Next() > s.first && (end == 0 || e.First <= end) {
			list = append(list, Kept{First: e.First, count: e.Count, Sealed: e.sealed, At: e.came})
		}
	}
	slices.SortStableFunc(list, func(a, b Kept) int { return cmp.Compare(a.First, b.First) })
	out, last := list[:0], uint64(0)
	for i, k := range list {
		switch {
		case k.First <= last:
			continue
		case i > 0 && budget < len(k.Sealed):
			return out, gone, true
		}
		budget -= len(k.Sealed)
		out, last = append(out, k), k.Last()
	}
	return out, gone, more
}
