package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

// succession puts the stays of each device into order. What a member published in one stay is never
// handed up after what it published in the next, nor is what it published in a stay that had ended
// before this node's own stay was ready. Each stay has a feed; the sequence of its roster entry
// says which is later. succession is part of a [journal], and does not apply to feeds whose past
// the app asked for.
type succession struct {
	feeds  map[peer.ID][]*Feed // feeds with a known author
	latest map[peer.ID]Mark    // the last stay of which a message was handed up
	before map[peer.ID]Mark    // the last stay that was known when this node's own was ready
	lively map[peer.ID]Mark    // the last stay that certainly lasted into this node's own
	handed map[FeedTag]uint64  // how far feeds were handed up in earlier stays of this process
}

// Mark marks a stay of a device, by its feed and the sequence of the entry that was known of
// it.
type Mark struct {
	tag      FeedTag
	sequence uint64
}

// later reports whether the marked stay is later than the stay of feed f.
func (m Mark) later(f *Feed) bool { return m.tag != f.tag && m.sequence > f.entry.Sequence }

func newSuccession() succession {
	return succession{feeds: make(map[peer.ID][]*Feed), latest: make(map[peer.ID]Mark), before: make(map[peer.ID]Mark), lively: make(map[peer.ID]Mark)}
}

// lasted notes that the author of a feed has published after this node's own stay was ready, and
// reports whether that is news.
func (s *succession) lasted(f *Feed) bool {
	p := f.peer()
	if p == "" || f.entry.Sequence <= s.lively[p].sequence {
		return false
	}
	s.lively[p] = Mark{f.tag, f.entry.Sequence}
	return true
}

// within reports whether a feed is of a stay that began after this node's own was ready, since an
// earlier stay of the same device lasted until then: all of it is for this node.
func (s *succession) within(f *Feed) bool {
	if f.entry == nil {
		return false
	}
	m := s.lively[f.peer()]
	return m.sequence > 0 && m.tag != f.tag && m.sequence < f.entry.Sequence
}

// known notes that the author of a feed is known.
func (s *succession) known(f *Feed) { s.feeds[f.peer()] = append(s.feeds[f.peer()], f) }

// forget drops a feed.
func (s *succession) forget(f *Feed) {
	if f.entry == nil {
		return
	}
	p := f.peer()
	for i, g := range s.feeds[p] {
		if g == f {
			list := append(s.feeds[p][:i:i], s.feeds[p][i+1:]...)
			if s.feeds[p] = list; len(list) == 0 {
				delete(s.feeds, p)
				delete(s.lively, p)
			}
			return
		}
	}
}

// ended notes the stay that is known when this node's own becomes ready: all before it have ended.
// If it has ended too, its feed is the zero tag.
func (s *succession) ended(p peer.ID, m Mark) { s.before[p] = m }

// delivers notes that a message of a feed is handed up.
func (s *succession) delivers(f *Feed) {
	if p := f.peer(); f.entry.Sequence > s.latest[p].sequence {
		s.latest[p] = Mark{f.tag, f.entry.Sequence}
	}
}

// old reports whether a feed is of a stay that had ended before this node's own was ready.
func (s *succession) old(f *Feed) bool { return f.entry != nil && s.before[f.peer()].later(f) }

// over reports whether a message of a later stay of the same device has been handed up.
func (s *succession) over(f *Feed) bool { return f.entry != nil && s.latest[f.peer()].later(f) }

// meetWait is how long a neighbour may take, once it is met, to say what it has of a stay whose end
// has not come here: a round trip, and the time until another way into its part of the room is
// found. Where members that were apart meet again, 0.3 s was measured.
const meetWait = 600 * time.Millisecond

// returnWait is how long a node that was cut off from everybody may take to meet a neighbour that
// was there all the time: each is dialled once a second.
const returnWait = 3 * time.Second

// behind reports whether a feed has to wait for the feed of an earlier stay: for up to lackWait if
// something of that is being fetched or may be for this node. If it ended without a goodbye, the
// feed also waits while members that were met less than meetWait ago may have more of it, for up to
// 2*meetWait. It waits for up to returnWait if other members are still away, or nothing has been
// heard of the earlier stay, from anybody who knows it, since this node was cut off.
func (j *journal) behind(now time.Time, f *Feed) bool {
	if f.entry == nil || j.history {
		return false
	}
	wait, unended, uncertain := time.Duration(0), false, false
	for _, g := range j.stays.feeds[f.peer()] {
		switch {
		case g == f || g.broken || g.entry.Sequence >= f.entry.Sequence || j.stays.old(g) || j.stays.over(g):
		case j.unsettled(g):
			wait = lackWait
		case !g.ended && !g.silent:
			unended = true
			uncertain = uncertain || g.assured.Before(j.returned) && g.used.Before(j.returned)
		}
		if wait > 0 {
			break
		}
	}
	if wait == 0 && unended {
		meeting, away := j.meeting(now, f.peer()), j.away(now, f.peer())
		switch {
		case away && (meeting || uncertain), uncertain && meeting:
			wait = returnWait
		case meeting:
			wait = 2 * meetWait
		}
	}
	if wait > 0 && f.queued.IsZero() {
		f.queued = now
	}
	return wait > 0 && now.Sub(f.queued) < wait
}

// proves reports whether what a neighbour brings by gossip so long after this node joined was
// published after that.
func (j *journal) proves(via peer.ID, f *Feed, after time.Duration) bool {
	if via == f.peer() {
		return after >= authorProof
	}
	return after >= baselineProof
}

// whole reports whether all of a feed is for this node: its stay began in this node's own.
func (j *journal) whole(f *Feed) bool {
	_, resumed := j.resume[f.tag]
	return j.ready && !resumed && !j.history && !f.broken && j.stays.within(f)
}

// certain reports whether a feed without a baseline begins for this node at its first item.
func (j *journal) certain(f *Feed) bool { return f.next == 0 && j.whole(f) }

// anchor begins a feed that is certain, if it need not wait for an earlier stay. If something of it
// is held, it begins when that has waited for the neighbours.
func (j *journal) anchor(now time.Time, f *Feed) {
	if !j.certain(f) {
		return
	}
	if f.claim = f.stored + 1; len(f.held) == 0 && !j.behind(now, f) {
		f.begin(f.claim)
		f.supposed = now
		j.waiting.remove(f)
		j.changed(f)
	}
}

// reconsider takes back the baseline of a feed of which nothing has been delivered, if what has
// become known since shows that the feed has to wait for an earlier stay, or that all of it is for
// this node: when the baseline was set, its author, or that of an earlier stay, was not known.
func (j *journal) reconsider(now time.Time, f *Feed) {
	if _, resumed := j.resume[f.tag]; resumed || f.next == 0 || f.supposed.IsZero() || !f.untouched() {
		return
	}
	if late := f.floor > f.stored+1 && j.whole(f); !late && !j.behind(now, f) {
		return
	}
	f.next, f.floor, f.supposed = 0, 0, time.Time{}
	j.guess(now, f, false)
	j.changed(f)
	if f.claimed.IsZero() {
		f.claimed = now
	}
	f.repair.moved(0)
	f.repair.from = "" // what the present answer brings is held
	j.waiting.add(f)
	j.lack(now, f)
}

// reconsiderAll reconsiders the baselines of all stays of a device.
func (j *journal) reconsiderAll(now time.Time, p peer.ID) {
	for _, f := range j.stays.feeds[p] {
		j.reconsider(now, f)
	}
}

// beginningsLast returns positions of feeds that have begun here before those of others, which may
// be of later stays.
func (j *journal) beginningsLast(list []*wire.Position) []*wire.Position {
	out := make([]*wire.Position, 0, len(list))
	for _, begun := range []bool{true, false} {
		for _, pos := range list {
			if f := j.feeds[FeedTag(pos.Feed)]; (f != nil && f.next > 0) == begun {
				out = append(out, pos)
			}
		}
	}
	return out
}

// unsettled reports whether something of a feed may yet come.
func (j *journal) unsettled(f *Feed) bool {
	return j.lacking.has(f) || j.waiting.has(f)
}
