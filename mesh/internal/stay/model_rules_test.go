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
func (r *simStay) number() int { return slices.Index(r.w.stays, r) + 1 }

func (r *simStay) account(f *Feed) *simAccount {
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
func (r *simStay) passed(from *simStay, a *simAccount, to uint64) {
	for n := max(a.next, 1); n < to; n++ {
		if from.kinds[n-1].message {
			r.w.breach("%d goes past number %d of feed %d to %d, and nobody is told", r.dev.i, n, from.number(), to)
		}
	}
}

// delivered is called for a message to the reader.
func (r *simStay) delivered(f *Feed, number uint64) {
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
	if r.st.Past != (Past{}) {
		return
	}
	if r.overtaken(from) {
		r.w.breach("%d gets number %d of feed %d after what its author published in a later stay", r.dev.i, number, from.number())
	}
	for _, old := range r.w.stays[:r.number()-1] {
		if _, again := old.gotten(f.tag)[number]; again && old.dev == r.dev && old.process == r.process {
			r.w.breach("%d gets number %d of feed %d, as it did in an earlier stay", r.dev.i, number, from.number())
		}
	}
}

// overtaken reports whether a message of a later stay of the same device has been handed up.
func (r *simStay) overtaken(from *simStay) bool {
	return slices.ContainsFunc(r.w.stays[from.number():], func(later *simStay) bool {
		return later.dev == from.dev && len(r.gotten(later.st.journal.self)) > 0
	})
}

// lost is called for a [GapLost] to the reader: it is right only if nobody near can give what is
// lost.
func (r *simStay) lost(f *Feed, lost span) {
	from, a := r.w.feeds[f.tag], r.account(f)
	r.w.note("%d is told that %v of feed %d are lost", r.dev.i, lost, from.number())
	further := func(l span) bool { return l.first == lost.last+1 }
	overlaps := func(l span) bool { return l.first <= lost.last && l.last >= lost.first }
	if (f.floor > 0 && lost.last == f.floor-1 || slices.ContainsFunc(a.lost, further)) && lost.first < a.next && !slices.ContainsFunc(a.lost, overlaps) {
		a.lost = append(a.lost, lost) // it began too late, and learnt that: what it skipped can no longer come in order
		wanted := r.st.Past != (Past{})
		for n := lost.first; n <= lost.last; n++ {
			wanted = wanted || r.wants(f.tag, n, from.kinds[n-1])
		}
		if !wanted {
			r.w.breach("%d is told that %v of feed %d are lost, all from before its time", r.dev.i, lost, from.number())
		}
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
		if r.st.Past == (Past{}) && r.overtaken(from) {
			continue // it would come out of order
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
func (r *simStay) holder(tag FeedTag, n uint64) int {
	for j, d := range r.w.all {
		l := r.w.link(r.dev.i, j)
		if l == nil || !l.up || !r.w.passes(r.dev.i, j) || r.w.now.Sub(l.since) < lostStable {
			continue
		}
		if q := d.stay; q != nil && !q.readyAt.IsZero() && r.w.now.Sub(q.readyAt) >= lostStable && q.st.Serves(q.dev.now(), r.dev.id) && r.st.neighbours[d.id] != nil {
			if list, _ := q.st.journal.ring.from(tag, n, n, 1); len(list) > 0 {
				return j
			}
		}
	}
	return -1
}

// resumeFrom returns where the reader of an earlier stay was, and for how long it has been away.
func (r *simStay) resumeFrom(old *simStay) (map[FeedTag]uint64, Past) {
	resume := make(map[FeedTag]uint64)
	for _, from := range r.w.stays {
		tag := from.st.journal.self
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
		resume[tag] = next - 1
		r.accounts[tag] = &simAccount{next: next, got: make(map[uint64]struct{})}
	}
	r.movedAt = old.movedAt
	return resume, Past{Age: r.w.now.Sub(old.movedAt)}
}

// told reports whether a stay's reader has got a message, or been told that it is lost.
func (r *simStay) told(tag FeedTag, n uint64) bool {
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
	f := r.st.journal.feeds[tag]
	return f != nil && len(a.lost) > 0 && a.lost[0].first == f.floor && n < f.floor
}

// noteStalled notes which neighbours are about to be given up.
func (r *simStay) noteStalled() {
	for f := range r.st.journal.lacking.all() {
		if f.stalled(r.dev.now()) {
			r.hasTried(f, f.repair.from)
		}
	}
}

func (r *simStay) hasTried(f *Feed, p peer.ID) {
	if r.tried[f] == nil {
		r.tried[f] = make(map[peer.ID]uint64)
	}
	r.tried[f][p] = f.next
}

// consistent checks what the journal and the roster remember against what they could work out from
// the rest.
func (r *simStay) consistent() {
	bytes, counted := 0, 0
	for tag, sh := range r.st.journal.ring.shelves {
		for i, k := range sh.list {
			bytes, counted = bytes+len(k.Sealed), counted+int(k.count)
			if i > 0 && k.First <= sh.list[i-1].Last() {
				r.w.breach("%d retains feed %d out of order", r.dev.i, r.w.feeds[tag].number())
			}
		}
	}
	if ring := &r.st.journal.ring; ring.bytes != bytes || ring.messages != counted || bytes > ring.limits.Bytes {
		r.w.breach("%d retains %d bytes and takes them for %d", r.dev.i, bytes, ring.bytes)
	}
	if old := r.st.journal.digest; old != nil {
		if r.st.journal.digest = nil; string(r.st.journal.sum()) != string(old) {
			r.w.breach("%d has an old digest of its feeds", r.dev.i)
		}
	}
	if old := r.st.roster.digest; old != nil {
		if r.st.roster.digest = nil; string(r.st.roster.sum()) != string(old) {
			r.w.breach("%d has an old digest of its roster", r.dev.i)
		}
	}
	if n := len(r.st.roster.members()); n != r.st.roster.present {
		r.w.breach("%d has %d members and counts %d", r.dev.i, n, r.st.roster.present)
	}
	for p := range r.kept {
		if r.st.neighbours[p] == nil {
			r.w.breach("%d keeps the connection to %d, which is no neighbour", r.dev.i, simIndex(p))
		}
	}
	if len(r.kept) != len(r.st.neighbours) || len(r.st.order) != len(r.kept) {
		r.w.breach("%d has %d neighbours and keeps %d connections", r.dev.i, len(r.st.neighbours), len(r.kept))
	}
	for f := range r.st.journal.lacking.all() {
		for p := range f.repair.tried {
			if r.tried[f][p] < f.next {
				r.w.breach("%d does not ask %d for feed %d, which has moved since it could not help", r.dev.i, simIndex(p), r.w.feeds[f.tag].number())
			}
		}
	}
	for _, f := range r.st.journal.feeds {
		lacking := r.st.journal.lacking.has(f)
		if lacks := len(f.missing(f.repair.upTo())) > 0; lacks && !lacking {
			r.w.breach("%d lacks some of feed %d and does not know", r.dev.i, r.w.feeds[f.tag].number())
		}
	}
}

// present returns the stays in the room at the end, by islands that can reach each other.
func (w *simWorld) present() (islands [][]*simStay) {
	seen := make(map[*simStay]bool)
	for _, d := range w.all {
		if d.stay == nil || d.dead || d.stay.st.Leaving() || seen[d.stay] {
			continue
		}
		island := []*simStay{d.stay}
		seen[d.stay] = true
		for k := 0; k < len(island); k++ {
			for j, to := range w.all {
				if w.connected(island[k].dev.i, j) && to.stay != nil && !to.dead && !to.stay.st.Leaving() && !seen[to.stay] {
					seen[to.stay] = true
					island = append(island, to.stay)
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

func (r *simStay) settled(island []*simStay) string {
	if r.readyAt.IsZero() {
		return sprintf("%d has not joined", r.dev.i)
	}
	for _, p := range r.polls {
		if !p.ended && r.w.now.After(p.until) {
			return sprintf("%d goes on waiting for receipts of %d to %d", r.dev.i, p.first, p.last)
		}
	}
	for _, from := range r.w.stays {
		if from.dev == r.dev {
			continue
		}
		here := slices.Contains(island, from)
		s := r.st.roster.devices[from.dev.id]
		switch {
		case here && (s == nil || !s.present || s.entry.Feed != from.feed):
			return sprintf("%d does not have %d in its roster", r.dev.i, from.dev.i)
		case from.said && s != nil && s.present && s.entry.Feed == from.feed && knownGone(island, from):
			return sprintf("%d has %d in its roster, which others know to have left", r.dev.i, from.dev.i)
		}
		if here {
			if f := r.st.journal.feeds[from.st.journal.self]; f == nil || len(f.held) > 0 {
				return sprintf("%d goes on holding back what it has of feed %d", r.dev.i, from.number())
			}
		}
		if what := r.owes(island, from, here); what != "" {
			return what
		}
	}
	for f := range r.st.journal.lacking.all() {
		if slices.Contains(island, r.w.feeds[f.tag]) {
			return sprintf("%d goes on asking for feed %d", r.dev.i, r.w.feeds[f.tag].number())
		}
	}
	return ""
}

// knownGone reports whether anybody has learnt that a member has left.
func knownGone(island []*simStay, from *simStay) bool {
	return slices.ContainsFunc(island, func(r *simStay) bool {
		s := r.st.roster.devices[from.dev.id]
		return s != nil && !s.present && !s.entry.Joined && s.entry.Feed == from.feed
	})
}

// owes returns what a stay's reader should have been told and was not. It should have been told
// everything published since it joined by members that are still there and, of the others'
// messages, what anybody here was told. These come by way of members that were there as well:
// nobody keeps what is from before its own time.
func (r *simStay) owes(island []*simStay, from *simStay, here bool) string {
	if !here && r.w.limits != plenty {
		return "" // it may be gone, and nobody left to say so
	}
	tag := from.st.journal.self
	for i, item := range from.kinds {
		n := uint64(i + 1)
		if !item.message || !r.wants(tag, n, item) || r.told(tag, n) {
			continue
		}
		seen := map[*simStay]bool{r: true}
		for way := []*simStay{r}; len(way) > 0; way = way[1:] {
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
func (r *simStay) wants(tag FeedTag, n uint64, item simItem) bool {
	if r.st.journal.resume != nil {
		return n > r.st.journal.resume[tag] && item.at.After(r.joinedAt.Add(-r.st.Past.Age))
	}
	return item.at.After(r.readyAt)
}

func (r *simStay) gotten(tag FeedTag) map[uint64]struct{} {
	if a := r.accounts[tag]; a != nil {
		return a.got
	}
	return nil
}
