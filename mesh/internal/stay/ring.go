package stay

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Kept is one retained envelope.
type Kept struct {
	First  uint64
	count  uint32
	Saved  bool   // it is in the store, or on its way there
	Sealed []byte // never written to
	At     time.Time
}

// Last returns the number of the envelope's last item.
func (k *Kept) Last() uint64 { return k.First + uint64(k.count) - 1 }

// shelf is what is retained of one feed, by rising first.
type shelf struct {
	tag     FeedTag
	owner   identity.Subject
	list    []Kept
	dropped uint64  // the last item that was dropped; 0: none yet
	gone    []trace // traces of the latest envelopes that were dropped
	unsaved int     // how many of the list are not in the store
}

// share is what one user takes up of a ring.
type share struct {
	messages int
	bytes    int
	shelves  []*shelf // of a few stays
}

// trace is what is remembered of an envelope that was dropped, so that a member that should have
// had it can be told from where on it is lost.
type trace struct {
	first uint64
	at    time.Time
}

// maxGone is how many traces of one feed are kept.
const maxGone = 1024

// ring retains a room's latest envelopes. Every user has the same right to it: the envelopes of a
// user that takes more than a share are dropped first, so that nobody can push out the others. It
// is a plain state machine: the caller passes the time and holds the lock.
type ring struct {
	limits   Retention
	messages int
	bytes    int
	shelves  map[FeedTag]*shelf
	shares   map[identity.Subject]*share
	nextAge  time.Time // when to look for what has become too old
	changes
}

func newRing(limits Retention) ring {
	return ring{limits: limits, shelves: make(map[FeedTag]*shelf), shares: make(map[identity.Subject]*share)}
}

// add retains an envelope. sealed is kept and must not change.
func (r *ring) add(tag FeedTag, owner identity.Subject, first uint64, count uint32, sealed []byte, at time.Time) {
	r.put(tag, owner, Kept{First: first, count: count, Sealed: sealed, At: at})
}

// put is add for what may be in the store already. Usually it follows what is retained of its feed;
// it may also fill a hole before what the store gave. What is retained already is left as it is.
func (r *ring) put(tag FeedTag, owner identity.Subject, k Kept) {
	sh := r.shelves[tag]
	if sh == nil {
		sh = &shelf{tag: tag, owner: owner}
		r.shelves[tag] = sh
		if r.shares[owner] == nil {
			r.shares[owner] = new(share)
		}
		r.shares[owner].shelves = append(r.shares[owner].shelves, sh)
	}
	i := len(sh.list)
	if i > 0 && sh.list[i-1].First >= k.First {
		var found bool
		if i, found = slices.BinarySearchFunc(sh.list, k.First, func(k Kept, first uint64) int { return cmp.Compare(k.First, first) }); found {
			return
		}
		if k.At.After(sh.list[i].At) {
			k.At = sh.list[i].At
		}
	}
	if i > 0 && k.At.Before(sh.list[i-1].At) {
		k.At = sh.list[i-1].At // within a feed nothing is older than what came before
	}
	if !k.Saved {
		sh.unsaved++
	}
	sh.list = slices.Insert(sh.list, i, k)
	r.touch(tag)
	r.messages += int(k.count)
	r.bytes += len(k.Sealed)
	own := r.shares[sh.owner]
	own.messages += int(k.count)
	own.bytes += len(k.Sealed)
	for r.bytes > r.limits.Bytes && r.evict(own, r.bytes, func(s *share) int { return s.bytes }) {
	}
	for r.messages > r.limits.Messages && r.evict(own, r.messages, func(s *share) int { return s.messages }) {
	}
}

// evict drops the oldest envelope of the user that takes up most of what is short, and reports
// false if nothing may be dropped. Usually it is the user that has just added something.
func (r *ring) evict(most *share, all int, takes func(*share) int) bool {
	if takes(most) < all/len(r.shares) {
		own, first := most, identity.Subject{}
		for owner, s := range r.shares {
			more := cmp.Compare(takes(s), takes(most))
			if more > 0 || more == 0 && most != own && compareUsers(owner, first) < 0 {
				most, first = s, owner
			}
		}
	}
	var oldest *shelf
	for _, sh := range most.shelves {
		if len(sh.list) > 0 && (oldest == nil || sh.list[0].At.Before(oldest.list[0].At)) {
			oldest = sh
		}
	}
	if oldest == nil {
		return false
	}
	r.drop(oldest)
	return true
}

func compareUsers(a, b identity.Subject) int {
	return cmp.Or(cmp.Compare(a.User, b.User), bytes.Compare(a.Key[:], b.Key[:]))
}

// drop takes the oldest envelope off a shelf.
func (r *ring) drop(sh *shelf) {
	k := sh.list[0]
	sh.list[0] = Kept{}
	sh.list = sh.list[1:]
	if sh.dropped = k.Last(); len(sh.gone) >= maxGone {
		sh.gone = slices.Delete(sh.gone, 0, maxGone/2)
	}
	sh.gone = append(sh.gone, trace{k.First, k.At})
	if !k.Saved {
		sh.unsaved--
	}
	r.touch(sh.tag)
	r.messages -= int(k.count)
	r.bytes -= len(k.Sealed)
	own := r.shares[sh.owner]
	own.messages -= int(k.count)
	own.bytes -= len(k.Sealed)
}

// expire drops what has become too old, except the latest envelope of each feed: that proves to a
// member that was away how far the feed has got. It looks several times in the span of an age.
func (r *ring) expire(now time.Time) {
	if now.Before(r.nextAge) {
		return
	}
	r.nextAge = now.Add(max(r.limits.Age/16, time.Second))
	for _, sh := range r.shelves {
		for len(sh.list) > 1 && now.Sub(sh.list[0].At) > r.limits.Age {
			r.drop(sh)
		}
	}
}

// remove forgets a feed.
func (r *ring) remove(tag FeedTag) {
	sh := r.shelves[tag]
	if sh == nil {
		return
	}
	for len(sh.list) > 0 {
		r.drop(sh)
	}
	delete(r.shelves, tag)
	own := r.shares[sh.owner]
	own.shelves = slices.DeleteFunc(own.shelves, func(o *shelf) bool { return o == sh })
	if len(own.shelves) == 0 {
		delete(r.shares, sh.owner)
	}
}

// from returns the retained envelopes of a feed that have an item from first to last (0: to the
// end), at least one and up to about budget bytes, and whether it left some out for that reason.
func (r *ring) from(tag FeedTag, first, last uint64, budget int) (out []Kept, more bool) {
	sh := r.shelves[tag]
	if sh == nil {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(sh.list, first, func(k Kept, first uint64) int { return cmp.Compare(k.Last(), first) })
	for _, k := range sh.list[i:] {
		if last > 0 && k.First > last {
			break
		}
		if budget -= len(k.Sealed); budget < 0 && len(out) > 0 {
			return out, true
		}
		out = append(out, k)
	}
	return out, false
}

// since returns the first item of a feed that came at cutoff or later. The feed begins for this
// node at floor and goes on with item next; began, if not zero, is when its first item was
// published.
func (r *ring) since(tag FeedTag, cutoff time.Time, floor, next uint64, began time.Time) uint64 {
	if !began.IsZero() && !began.Before(cutoff) {
		return 1
	}
	sh := r.shelves[tag]
	if sh == nil {
		return next
	}
	// What was dropped is lost, and reported as lost by each member that should have had it.
	if i, _ := slices.BinarySearchFunc(sh.gone, cutoff, func(g trace, cutoff time.Time) int { return g.at.Compare(cutoff) }); i < len(sh.gone) {
		return sh.gone[i].first
	}
	i, _ := slices.BinarySearchFunc(sh.list, cutoff, func(k Kept, cutoff time.Time) int { return k.At.Compare(cutoff) })
	if i == len(sh.list) {
		return next
	}
	before := sh.dropped
	if i > 0 {
		before = sh.list[i-1].Last()
	}
	switch first := sh.list[i].First; {
	case before > 0:
		return min(first, before+1) // what lies between was lost here, too
	case first <= floor:
		return first
	}
	return sh.list[0].First - 1 // this node has not had what came before either, and does not know when that was
}

// latest returns, for each feed, the first item of the last n messages of the room.
func (r *ring) latest(n int) map[FeedTag]uint64 {
	type place struct {
		tag FeedTag
		k   *Kept
	}
	var all []place
	for tag, sh := range r.shelves {
		for i := range sh.list {
			all = append(all, place{tag, &sh.list[i]})
		}
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(b.k.At.Compare(a.k.At), cmp.Compare(b.k.First, a.k.First), bytes.Compare(a.tag[:], b.tag[:]))
	})
	firsts := make(map[FeedTag]uint64)
	for _, p := range all {
		if n <= 0 {
			break
		}
		numbers := p.k.numbers()
		take := min(n, len(numbers))
		if n -= take; take > 0 {
			firsts[p.tag] = numbers[len(numbers)-take]
		}
	}
	return firsts
}

// numbers returns the numbers of the messages in an envelope, not of what members say about
// themselves.
func (k *Kept) numbers() (out []uint64) {
	e, err := wire.ParseEnvelope(k.Sealed)
	if err != nil || e.Scheme != 0 {
		return nil
	}
	number := k.First
	for content := e.Content; len(content) > 0; number++ {
		kind, _, rest, err := wire.NextItem(content)
		if err != nil {
			break
		}
		if content = rest; kind == wire.Kind_KIND_TEXT || kind == wire.Kind_KIND_BINARY {
			out = append(out, number)
		}
	}
	return out
}
