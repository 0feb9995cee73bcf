package stay

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// simItem is an item of a feed.
type simItem struct {
	at      time.Time
	message bool // a message; otherwise what a member says about itself
}

// simAccount is what a stay's reader has been told about one feed.
type simAccount struct {
	next uint64 // behind the last message or loss; 0: nothing yet
	got  map[uint64]struct{}
	lost []span
}

// lostStable is how long a neighbour that has what is given up must have been within reach for the
// giving up to be wrong.
const lostStable = 3 * time.Second

// number is a short name of a feed.
func (r *simRoom) number() int { return slices.Index(r.w.rooms, r) + 1 }

func (r *simRoom) account(f *Feed) *simAccount {
	a := r.accounts[f.tag]
	if a == nil {
		a = &simAccount{got: make(map[uint64]struct{})}
		r.accounts[f.tag] = a
	}
	if a.next == 0 {
		a.next = f.floor
	}
	r.movedAt = r.w.now
	return a
}

// passed checks that a reader does not go past messages that it has been told nothing about.
func (r *simRoom) passed(from *simRoom, a *simAccount, to uint64) {
	for n := max(a.next, 1); n < to; n++ {
		if from.kinds[n-1].message {
			r.w.breach("%d goes past number %d of feed %d to %d, and nobody is told", r.dev.i, n, from.number(), to)
		}
	}
}

// delivered is called for a message to the reader.
func (r *simRoom) delivered(f *Feed, number uint64) {
	from, a := r.w.feeds[f.tag], r.account(f)
	r.w.note("%d gets %d of feed %d", r.dev.i, number, from.number())
	if number < a.next {
		r.w.breach("%d gets number %d of feed %d twice or out of order", r.dev.i, number, from.number())
	}
	if number > uint64(len(from.kinds)) {
		r.w.breach("%d gets number %d of feed %d, which ends before", r.dev.i, number, from.number())
		return
	}
	r.passed(from, a, number)
	a.got[number] = struct{}{}
	a.next = number + 1
}

// lost is called for a [GapLost] to the reader: it is right only if nobody near can give what is
// lost.
func (r *simRoom) lost(f *Feed, lost span) {
	from, a := r.w.feeds[f.tag], r.account(f)
	r.w.note("%d is told that %v of feed %d are lost", r.dev.i, lost, from.number())
	if f.floor > 0 && lost.last == f.floor-1 && lost.first < a.next && !slices.ContainsFunc(a.lost, func(l span) bool { return l.first <= lost.last && l.last >= lost.first }) {
		a.lost = append(a.lost, lost) // it began too late, and learnt that: what it skipped can no longer come in order
		return
	}
	if lost.first < a.next || lost.last > uint64(len(from.kinds)) || lost.last < lost.first {
		r.w.breach("%d is told that %v of feed %d are lost, of which it has been told up to %d", r.dev.i, lost, from.number(), a.next)
		return
	}
	r.passed(from, a, lost.first)
	for n := lost.first; n <= lost.last; n++ {
		if r.w.now.Sub(from.kinds[n-1].at) > r.w.limits.Age {
			continue // beyond retention: a member that still has it is about to drop it
		}
		if p := r.holder(f.tag, n); p >= 0 && from.kinds[n-1].message && r.wants(f.tag, n, from.kinds[n-1]) {
			r.w.breach("%d gives up number %d of feed %d, which its neighbour %d has", r.dev.i, n, from.number(), p)
			return
		}
	}
	a.lost = append(a.lost, lost)
	a.next = lost.last + 1
}

// holder returns a neighbour that has been within reach for a while and retains an item, or -1.
func (r *simRoom) holder(tag FeedTag, n uint64) int {
	for j, d := range r.w.all {
		l := r.w.link(r.dev.i, j)
		if l == nil || !l.up || !r.w.passes(r.dev.i, j) || r.w.now.Sub(l.since) < lostStable {
			continue
		}
		if q := d.room; q != nil && !q.readyAt.IsZero() && r.w.now.Sub(q.readyAt) >= lostStable && q.serves(r.dev.id) && r.neighbours[d.id] != nil {
			if list, _ := q.journal.ring.from(tag, n, n, 1); len(list) > 0 {
				return j
			}
		}
	}
	return -1
}

// resumeFrom makes a stay go on where the reader of an earlier one was.
func (r *simRoom) resumeFrom(old *simRoom) {
	r.journal.resume = make(map[FeedTag]uint64)
	for _, from := range r.w.rooms {
		tag := from.journal.self
		a := old.accounts[tag]
		if a == nil {
			continue
		}
		// It may have ended in the middle of an envelope.
		next := a.next
		for range r.w.rng.IntN(3) {
			if _, ok := a.got[next-1]; ok {
				next--
			}
		}
		r.journal.resume[tag] = next - 1
		r.accounts[tag] = &simAccount{next: next, got: make(map[uint64]struct{})}
	}
	r.movedAt = old.movedAt
	r.past = Past{Age: r.w.now.Sub(old.movedAt)}
}

// told reports whether a stay's reader has got a message, or been told that it is lost.
func (r *simRoom) told(tag FeedTag, n uint64) bool {
	a := r.accounts[tag]
	if a == nil {
		return false
	}
	if _, ok := a.got[n]; ok {
		return true
	}
	for _, s := range a.lost {
		if s.first <= n && n <= s.last {
			return true
		}
	}
	// What is from before the beginning of a feed that begins with a loss that nobody can name.
	f := r.journal.feeds[tag]
	return f != nil && len(a.lost) > 0 && a.lost[0].first == f.floor && n < f.floor
}

// noteTried notes which neighbour could not help, and with what.
func (r *simRoom) noteTried(p Pull) {
	for _, w := range p.wants {
		r.hasTried(w.feed, p.From)
	}
}

func (r *simRoom) hasTried(f *Feed, p peer.ID) {
	if r.tried[f] == nil {
		r.tried[f] = make(map[peer.ID]uint64)
	}
	r.tried[f][p] = f.next
}

// consistent checks what the journal and the roster remember against what they could work out from
// the rest.
func (r *simRoom) consistent() {
	bytes, counted := 0, 0
	for tag, sh := range r.journal.ring.shelves {
		for i, k := range sh.list {
			bytes, counted = bytes+len(k.Sealed), counted+int(k.count)
			if i > 0 && k.First <= sh.list[i-1].Last() {
				r.w.breach("%d retains feed %d out of order", r.dev.i, r.w.feeds[tag].number())
			}
		}
	}
	if ring := &r.journal.ring; ring.bytes != bytes || ring.messages != counted || bytes > ring.limits.Bytes {
		r.w.breach("%d retains %d bytes and takes them for %d", r.dev.i, bytes, ring.bytes)
	}
	if old := r.journal.digest; old != nil {
		if r.journal.digest = nil; string(r.journal.sum()) != string(old) {
			r.w.breach("%d has an old digest of its feeds", r.dev.i)
		}
	}
	if old := r.roster.digest; old != nil {
		if r.roster.digest = nil; string(r.roster.sum()) != string(old) {
			r.w.breach("%d has an old digest of its roster", r.dev.i)
		}
	}
	if n := len(r.roster.members()); n != r.roster.present {
		r.w.breach("%d has %d members and counts %d", r.dev.i, n, r.roster.present)
	}
	for f := range r.journal.lacking {
		for p := range f.repair.tried {
			if r.tried[f][p] < f.next {
				r.w.breach("%d does not ask %d for feed %d, which has moved since it could not help", r.dev.i, simIndex(p), r.w.feeds[f.tag].number())
			}
		}
	}
	for _, f := range r.journal.feeds {
		_, lacking := r.journal.lacking[f]
		if lacks := len(f.missing(f.repair.upTo())) > 0; lacks && !lacking {
			r.w.breach("%d lacks some of feed %d and does not know", r.dev.i, r.w.feeds[f.tag].number())
		}
	}
}

// present returns the stays in the room at the end, by islands that can reach each other.
func (w *simWorld) present() (islands [][]*simRoom) {
	seen := make(map[*simRoom]bool)
	for _, d := range w.all {
		if d.room == nil || d.dead || d.room.leaving || seen[d.room] {
			continue
		}
		island := []*simRoom{d.room}
		seen[d.room] = true
		for k := 0; k < len(island); k++ {
			for j, to := range w.all {
				if w.connected(island[k].dev.i, j) && to.room != nil && !to.dead && !to.room.leaving && !seen[to.room] {
					seen[to.room] = true
					island = append(island, to.room)
				}
			}
		}
		islands = append(islands, island)
	}
	return islands
}

// settled returns what is not yet as it must be in the end; "": everything is.
func (w *simWorld) settled() string {
	for _, island := range w.present() {
		for _, r := range island {
			if what := r.settled(island); what != "" {
				return what
			}
		}
	}
	return ""
}

func (r *simRoom) settled(island []*simRoom) string {
	if r.readyAt.IsZero() {
		return sprintf("%d has not joined", r.dev.i)
	}
	for _, from := range r.w.rooms {
		if from.dev == r.dev {
			continue
		}
		here := slices.Contains(island, from)
		s := r.roster.devices[from.dev.id]
		switch {
		case here && (s == nil || !s.present || s.entry.Feed != from.feed):
			return sprintf("%d does not have %d in its roster", r.dev.i, from.dev.i)
		case from.said && s != nil && s.present && s.entry.Feed == from.feed && knownGone(island, from):
			return sprintf("%d has %d in its roster, which others know to have left", r.dev.i, from.dev.i)
		}
		if here {
			if f := r.journal.feeds[from.journal.self]; f == nil || len(f.held) > 0 {
				return sprintf("%d goes on holding back what it has of feed %d", r.dev.i, from.number())
			}
		}
		if what := r.owes(island, from, here); what != "" {
			return what
		}
	}
	for f := range r.journal.lacking {
		if slices.Contains(island, r.w.feeds[f.tag]) {
			return sprintf("%d goes on asking for feed %d", r.dev.i, r.w.feeds[f.tag].number())
		}
	}
	return ""
}

// knownGone reports whether anybody has learnt that a member has left.
func knownGone(island []*simRoom, from *simRoom) bool {
	return slices.ContainsFunc(island, func(r *simRoom) bool {
		s := r.roster.devices[from.dev.id]
		return s != nil && !s.present && !s.entry.Joined && s.entry.Feed == from.feed
	})
}

// owes returns what a stay's reader should have been told and was not. It should have been told
// everything published since it joined by members that are still there and, of the others'
// messages, what anybody here was told. These come by way of members that were there as well:
// nobody keeps what is from before its own time.
func (r *simRoom) owes(island []*simRoom, from *simRoom, here bool) string {
	if !here && r.w.limits != plenty {
		return "" // it may be gone, and nobody left to say so
	}
	tag := from.journal.self
	for i, item := range from.kinds {
		n := uint64(i + 1)
		if !item.message || !r.wants(tag, n, item) || r.told(tag, n) {
			continue
		}
		seen := map[*simRoom]bool{r: true}
		for way := []*simRoom{r}; len(way) > 0; way = way[1:] {
			for _, o := range island {
				if seen[o] || !r.w.connected(way[0].dev.i, o.dev.i) {
					continue
				}
				if seen[o] = true; o != from && !o.wants(tag, n, item) {
					continue
				}
				if _, ok := o.gotten(tag)[n]; ok && !here || o == from {
					return sprintf("%d has not got number %d of feed %d, published at %v, which %d has", r.dev.i, n, from.number(), item.at.Sub(epoch), o.dev.i)
				}
				way = append(way, o)
			}
		}
	}
	return ""
}

// wants reports whether an item is from a stay's time.
func (r *simRoom) wants(tag FeedTag, n uint64, item simItem) bool {
	if r.journal.resume != nil {
		return n > r.journal.resume[tag] && item.at.After(r.since.Add(-r.past.Age))
	}
	return item.at.After(r.readyAt)
}

func (r *simRoom) gotten(tag FeedTag) map[uint64]struct{} {
	if a := r.accounts[tag]; a != nil {
		return a.got
	}
	return nil
}
