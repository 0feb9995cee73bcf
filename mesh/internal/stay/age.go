package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// unwanted reports whether an envelope, while nothing of its feed has been delivered, was certainly
// published before the time since, from which on the member wants broadcasts. It may have been
// fetched, or offered by GossipSub, which does so for seconds. The author's clock shows it,
// compared with the author's fresh envelopes here. So does what neighbours say of that clock, or of
// the ages of fetched envelopes, unless a neighbour that is sure says that something is for this
// node: what they say could hide what is wanted. But what that neighbour says of the clock counts:
// it may have had the envelope so late that it takes it for younger. Where a feed begins is
// answered more generously, so that nothing is missed.
func (j *journal) unwanted(f *Feed, e *Envelope, since time.Time, author *seat) bool {
	if _, resumed := j.resume[f.tag]; resumed || !f.unheard() {
		return false
	}
	if !j.history && j.stays.within(f) {
		return false // its author's clock may have been set since the earlier stay
	}
	sent := time.UnixMilli(e.SentMs)
	if author != nil && author.transit.before(sent, since) {
		return true
	}
	if f.sworn && e.how == Repaired && e.via == f.peer() {
		return before(e.came, since) // nobody knows its age better than the author
	}
	if f.stored != 0 || f.claim != 0 && (f.sworn || author == nil || f.vouched(e, &author.clocks)) {
		return false
	}
	if author != nil {
		if published, ok := author.dated(sent); ok {
			return published.Before(since)
		}
	}
	return before(e.came, since)
}

// before reports whether t is before since by the monotonic clock and by the wall clock. The first
// stands still while the machine sleeps, and the second may be set.
func before(t, since time.Time) bool { return t.Before(since) && t.Round(0).Before(since.Round(0)) }

// uncertain reports whether an envelope that came by gossip may be from before this node's time: it
// may be an old one that GossipSub has carried from one part of the room into another, and nobody
// has said what its author's clock shows, or how old another envelope of that author was. The first
// item alone is the author's entry, whose age does not matter.
func (j *journal) uncertain(f *Feed, via peer.ID, e *Envelope, author *seat) bool {
	if j.history || author == nil || f.peer() == via || !f.unheard() || f.sworn || f.claim != 0 || e.last() == 1 {
		return false
	}
	if _, resumed := j.resume[f.tag]; resumed || f.next == 0 && (e.First > f.stored+1 || !j.ready || f.sure() != 0 || f.had(e)) {
		return false // it waits for a baseline anyway, or is of an earlier stay of this node
	}
	_, known := author.dated(time.UnixMilli(e.SentMs))
	return !known
}

// bygone returns what is held of a feed without a baseline and may be of a stay that had ended
// before this node's own began: its author has left or said goodbye, this node joined a short time
// ago, and nobody has said where the feed begins or what its author's clock shows. Such items are
// reported lost rather than delivered. The goodbye is not among them.
func (j *journal) bygone(now time.Time, f *Feed) span {
	_, resumed := j.resume[f.tag]
	if f.next > 0 || f.best() > 0 || len(f.held) == 0 || f.entry == nil || f.broken || resumed || j.history {
		return span{}
	}
	first, last := f.held[0], f.held[len(f.held)-1]
	if j.stays.old(f) || !j.closing(f) || now.Sub(j.since) >= maxUnderWay || first.First <= f.stored+1 || j.dated(last) {
		return span{}
	}
	switch {
	case last.entry() == nil:
		return span{first.First, last.last()}
	case first == last:
		return span{} // there is nothing but the goodbye
	default:
		return span{first.First, last.First - 1}
	}
}

// promised notes that a neighbour has an envelope that must be fetched to learn its age.
func (j *journal) promised(now time.Time, via peer.ID, f *Feed, e *Envelope) {
	f.begin(max(e.First, f.stored+1))
	f.repair.source(via, e.last())
	j.lack(now, f)
}

// skip passes over an envelope that is from before this node's time, although neighbours have said
// otherwise.
func (j *journal) skip(now time.Time, f *Feed, e *Envelope) ([]*Envelope, verdict) {
	if f.broken || f.next == 0 || e.Next() <= f.next {
		return nil, stale
	}
	f.next, f.tip = j.passed(f, e.Next()), nil
	f.floor, f.lostByGuess = f.next, 0
	f.supposed = time.Time{}
	j.guess(now, f, false) // all before it is older still: nobody can say any more that it is missed
	f.repair.moved(f.next)
	ready, v := f.settle(now)
	j.changed(f)
	return j.advanced(now, f, ready, v)
}

// passed returns the first item behind what is held of a feed and is from before this node's time;
// at least first.
func (j *journal) passed(f *Feed, first uint64) uint64 {
	for _, e := range f.held {
		if e.Next() > first && j.early(f, e) {
			first = e.Next()
		}
	}
	return first
}
