package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// quietWait is how long after a feed's last item neighbours are told how far it has got:
	// nothing else would show the loss of a last message. They are told sooner about what had to be
	// fetched, since others may lack it as well.
	quietWait   = 250 * time.Millisecond
	fetchedWait = 40 * time.Millisecond
	// MaxFeeds bounds the feeds that a room knows of: each member's present one, and past ones.
	MaxFeeds = 2 * MaxMembers
	// maxStays is how many feeds of one user are remembered. They stay known after their broadcasts
	// are gone: a feed that had been forgotten would be delivered once more.
	maxStays = 1024
)

// journal holds the broadcasts of a room: every member's feeds in order, what is missing of them,
// and the ring of what can be sent to others. It is a plain state machine: the caller passes the
// time, holds the lock, sends what plan and announce return, and reports the outcome.
type journal struct {
	jitter  func(time.Duration) time.Duration // a random time, less than its argument
	self    FeedTag
	since   time.Time // when the stay began
	feeds   map[FeedTag]*Feed
	resume  map[FeedTag]uint64 // where a reader's cursor was; nil: there was none
	history bool               // the app wants broadcasts from before its stay
	ring    ring
	present func(*Feed) bool // whether a feed is the one of a member's present stay
	closing func(*Feed) bool // whether the member is known to have another stay, to have left, or to have said goodbye
	// early reports whether an envelope is certainly from before this node's time, see unwanted.
	early func(*Feed, *Envelope) bool
	// dated reports whether it is known when an envelope was published.
	dated func(*Envelope) bool
	// meeting reports whether a neighbour that may know more of a device was met less than meetWait
	// ago.
	meeting func(time.Time, peer.ID) bool
	near    func(peer.ID) bool // whether a device is a neighbour
	// away reports whether a member other than a device parted from this node lately, and is not
	// back.
	away     func(time.Time, peer.ID) bool
	returned time.Time // when this node last had a neighbour again, or heard one, after it had none
	ready    bool      // the node has joined: feeds that nobody knew then begin later
	readyAt  time.Time
	lacking  set[*Feed]
	moved    set[*Feed] // feeds that have got further since neighbours were told
	waiting  set[*Feed] // feeds without a baseline of which something is known
	guesses  set[*Feed] // feeds whose baseline is a guess that a neighbour may correct
	sought   time.Time  // when neighbours were last asked where those begin
	digest   []byte     // nil: to be computed
	stays    succession
}

func newJournal(self FeedTag, limits Retention) *journal {
	return &journal{
		jitter: none, self: self, present: func(*Feed) bool { return true }, closing: func(*Feed) bool { return false },
		early: func(*Feed, *Envelope) bool { return false }, dated: func(*Envelope) bool { return true }, meeting: func(time.Time, peer.ID) bool { return false },
		near: func(peer.ID) bool { return false }, away: func(time.Time, peer.ID) bool { return false },
		feeds: make(map[FeedTag]*Feed), ring: newRing(limits),
		stays: newSuccession(),
	}
}

// open returns the feed that a roster entry names, and notes whose it is. It returns nil if there
// are too many feeds.
func (j *journal) open(now time.Time, e *Entry) *Feed {
	tag := e.Tag()
	f := j.feeds[tag]
	if f == nil {
		if j.crowded(e) {
			return nil
		}
		if f = j.create(now, tag); f == nil {
			return nil
		}
	}
	// A goodbye needs no token, so it must not let its author publish.
	if e.Joined && (f.entry == nil || e.newer(f.entry)) {
		if f.entry == nil {
			j.digest = nil // the feed may have got somewhere already
			f.entry = e
			j.guess(now, f, f.guessed)
			j.stays.known(f)
			j.reconsiderAll(now, f.peer())
		}
		f.entry = e
		j.ring.touch(tag)
	}
	return f
}

func (j *journal) create(now time.Time, tag FeedTag) *Feed {
	if len(j.feeds) >= MaxFeeds && !j.forget() {
		return nil
	}
	f := &Feed{tag: tag, seen: now, used: now, handed: j.stays.handed[tag]}
	if last, ok := j.resume[tag]; ok {
		f.begin(last + 1)
	}
	j.feeds[tag] = f
	return f
}

// forget drops the feed that was used least recently: one whose author is unknown, or else one
// whose author is not present. It reports false if there is none.
func (j *journal) forget() bool {
	var oldest *Feed
	for _, f := range j.feeds {
		if f.tag == j.self || f.entry != nil && j.present(f) {
			continue
		}
		if oldest == nil || f.entry == nil && oldest.entry != nil ||
			(f.entry == nil) == (oldest.entry == nil) && f.used.Before(oldest.used) {
			oldest = f
		}
	}
	if oldest != nil {
		j.remove(oldest)
	}
	return oldest != nil
}

// crowded reports whether a user has had too many stays recently for another one. A stay of which
// nobody has anything any more is dropped to make space.
func (j *journal) crowded(e *Entry) bool {
	if len(j.feeds) < maxStays {
		return false
	}
	stays := 0
	var oldest *Feed
	for _, f := range j.feeds {
		if f.entry == nil || f.entry.key() != e.key() {
			continue
		}
		stays++
		if f.silent && !j.present(f) && f.tag != j.self && (oldest == nil || f.used.Before(oldest.used)) {
			oldest = f
		}
	}
	if stays < maxStays {
		return false
	}
	if oldest != nil {
		j.remove(oldest)
	}
	return oldest == nil
}

func (j *journal) remove(f *Feed) {
	delete(j.feeds, f.tag)
	j.lacking.remove(f)
	j.moved.remove(f)
	j.waiting.remove(f)
	j.guesses.remove(f)
	j.stays.forget(f)
	f.broken = true // what still comes for it from a question under way is for nobody
	j.ring.remove(f.tag)
	j.changed(f)
}

// quit gives up a feed whose author was put out: nothing more of it is delivered, fetched or
// served.
func (j *journal) quit(f *Feed) {
	f.shut = f.shut || !f.broken
	f.broken, f.held, f.heldBytes = true, nil, 0
	j.lacking.remove(f)
	j.moved.remove(f)
	j.waiting.remove(f)
	j.guesses.remove(f)
	j.changed(f)
}

// reopen undoes quit. What has been missed meanwhile is fetched.
func (j *journal) reopen(f *Feed) {
	if f.shut {
		f.broken, f.shut = f.barred, false
		j.changed(f)
	}
}

// changed notes that a feed has another position.
func (j *journal) changed(f *Feed) {
	j.digest = nil
	j.ring.touch(f.tag)
}

// publish notes an envelope of this node's own.
func (j *journal) publish(now time.Time, f *Feed, first uint64, count uint32, sealed []byte) {
	f.next, f.used = first+uint64(count), now
	if first == 1 {
		f.floor, f.began = 1, now
	}
	j.keep(f, first, count, sealed, now)
	j.note(now, f, quietWait)
}

// keep puts an envelope into the ring, even one that is too old already. As the latest of its feed
// it proves how far the feed has got; otherwise it is dropped when the ring next looks.
func (j *journal) keep(f *Feed, first uint64, count uint32, sealed []byte, at time.Time) {
	j.ring.add(f.tag, f.entry.key(), first, count, sealed, at)
}

// note records that a feed has got further, which neighbours are told after a wait.
func (j *journal) note(now time.Time, f *Feed, wait time.Duration) {
	j.changed(f)
	f.used, f.silent = now, false
	f.tellAt = now.Add(wait)
	j.moved.add(f)
}

// take brings an envelope to its feed, which must be known, and returns what is ready for the app.
// via is the neighbour that it came from.
func (j *journal) take(now time.Time, via peer.ID, f *Feed, e *Envelope) ([]*Envelope, verdict) {
	if f.next == 0 && f.had(e) {
		return nil, stale
	}
	if j.anchor(now, f); f.next == 0 && e.First == f.stored+1 && j.ready && (f.sure() == 0 || j.certain(f)) && !j.behind(now, f) {
		f.begin(e.First)
	}
	if f.next > 0 && e.how == Gossiped && j.ready && j.proves(via, f, now.Sub(j.readyAt)) && j.stays.lasted(f) {
		j.reconsiderAll(now, f.peer())
	}
	if f.refuted(now, e) {
		f.next, f.floor = f.least, f.least
		j.guess(now, f, f.guessed)
		j.changed(f)
	}
	ready, v := f.take(now, e)
	if e.First == 1 && f.began.IsZero() && j.ready && v == taken {
		f.began = e.came
	}
	if f.broken {
		j.waiting.remove(f) // it has no beginning to wait for
	}
	if v == stale || v == forked && len(ready) == 0 {
		return ready, v
	}
	f.used = now
	if f.next == 0 && !f.broken {
		j.waiting.add(f)
	}
	if via != "" && (v == full || len(f.held) > 0) {
		f.repair.source(via, e.last())
	}
	if v == taken && len(ready) == 0 && f.next > 0 && e.how == Repaired {
		f.tellAt = now.Add(fetchedWait) // others need not wait for it until this node need not
		j.moved.add(f)
	}
	return j.advanced(now, f, ready, v)
}

// advanced records what a feed has delivered, and adds what is now due from the store.
func (j *journal) advanced(now time.Time, f *Feed, ready []*Envelope, v verdict) ([]*Envelope, verdict) {
	ready, v = j.restock(now, f, ready, v)
	for _, e := range ready {
		j.keep(f, e.First, e.Count, e.sealed, e.came)
	}
	if len(ready) > 0 {
		wait := quietWait
		if f.repair.from != "" {
			wait = fetchedWait
		}
		j.note(now, f, wait)
		f.repair.moved(f.next)
		j.waiting.remove(f)
	}
	j.lack(now, f)
	return ready, v
}

// lack makes sure that what is missing of a feed is asked for.
func (j *journal) lack(now time.Time, f *Feed) {
	if len(f.missing(f.repair.upTo())) == 0 {
		f.repair.askAt = time.Time{}
		j.lacking.remove(f)
		return
	}
	j.lacking.add(f)
	if f.repair.askAt.IsZero() {
		wait := claimWait
		if len(f.held) > 0 {
			wait = pullWait
		}
		f.repair.askAt = now.Add(wait + j.jitter(wait/2))
	}
}

// claim takes a neighbour's word of how far it has got with a feed and, if first is not 0, where
// the feed begins for this node, and whether that is sure.
func (j *journal) claim(now time.Time, from peer.ID, tag FeedTag, last, first uint64, sure bool) arrival {
	if tag == j.self {
		return arrival{}
	}
	f := j.feeds[tag]
	if f == nil {
		if _, resumed := j.resume[tag]; !resumed && (first == 0 || first > max(last, 2) && !sure) {
			return arrival{}
		}
		// It is worth remembering that the feed has nothing for this node: others may not know.
		if f = j.create(now, tag); f == nil {
			return arrival{}
		}
	}
	if first > 0 && sure {
		f.assured = now
	}
	if first > 0 && !j.history {
		first = max(first, f.stored+1, f.handed+1) // what the store has is from before this stay
	}
	j.anchor(now, f)
	if f.next > 0 && first > 0 && first <= last && first < f.next && f.doubtful(now, last) {
		f.next, f.floor = first, first
		j.guess(now, f, !sure)
		j.changed(f)
	}
	// Item 1 is the author's entry. Where that is known, only the author is asked for it: others
	// say 1 without having it.
	if last >= max(f.next, first) && (last > 1 || f.entry == nil || f.peer() == from) {
		f.repair.source(from, last)
	}
	if f.next > 0 {
		if first > last {
			f.least = lowest(f.least, first)
		}
		j.lack(now, f)
		return j.reportSkipped(now, f, first, last, sure)
	}
	if first == 0 || first > max(last, 2) && !sure || f.broken {
		return arrival{}
	}
	if f.hear(first, last, sure, f.peer() == from); sure && first <= last {
		f.vouch(from, first)
	}
	if f.claimed.IsZero() {
		f.claimed = now
	}
	j.waiting.add(f)
	if sure && f.peer() == from && !j.behind(now, f) {
		return j.suppose(now, f) // nobody knows better than the author
	}
	return arrival{}
}

// becomeReady begins each feed where the neighbours said that it begins; feeds unknown until now
// begin at their first item. It returns the feeds that have something ready.
func (j *journal) becomeReady(now time.Time) (out []arrival) {
	j.ready, j.readyAt = true, now
	for f := range j.waiting.all() {
		if j.stays.old(f) && !j.history {
			f.beginning = beginning{none: f.told() + 1} // it has ended
			for _, e := range f.held {
				j.keep(f, e.First, e.Count, e.sealed, e.came) // it may be for others
			}
		}
		out = append(out, j.suppose(now, f))
	}
	return out
}

// arrival is what a feed has ready because time has passed, or because of somebody's word. The zero
// value means nothing.
type arrival struct {
	feed    *Feed
	lost    span // before what is ready; zero: nothing
	ready   []*Envelope
	verdict verdict
}

func (j *journal) suppose(now time.Time, f *Feed) arrival {
	if j.certain(f) {
		f.claim = f.stored + 1
	}
	f.none = j.passed(f, f.none) // when it came, its age may not have been known
	if f.claim > 0 {
		f.claim = j.passed(f, f.claim)
	}
	lost := j.bygone(now, f)
	if lost.last > 0 {
		f.none, f.lostByGuess = lost.last+1, lost.first
		for _, e := range f.held {
			if e.last() <= lost.last {
				j.keep(f, e.First, e.Count, e.sealed, e.came) // others may know that it is for them
			}
		}
	}
	ready, v := f.suppose(now)
	j.guess(now, f, f.guessed)
	if f.supposed = now; lost.last > 0 {
		f.supposed = time.Time{} // what has been reported lost must not come after all
	}
	if f.proven() {
		f.gapSince = now // until now it was not known that something before it is missing
	}
	j.waiting.remove(f)
	j.changed(f)
	ready, v = j.advanced(now, f, ready, v)
	return arrival{feed: f, lost: lost, ready: ready, verdict: v}
}

// seek reports whether to ask neighbours now where the feeds without a baseline begin.
func (j *journal) seek(now time.Time) bool {
	if j.waiting.len() == 0 || now.Before(j.sought.Add(seekEvery)) {
		return false
	}
	j.sought = now
	return true
}

// due returns when expire, plan, seek or announce have something to do; zero: nothing waits.
func (j *journal) due() (due time.Time) {
	if j.waiting.len() > 0 {
		due = j.sought.Add(seekEvery)
	}
	for f := range j.waiting.all() {
		if j.ready {
			due = earlier(due, f.baselineDue())
		}
	}
	for f := range j.lacking.all() {
		if at := f.stallsAt(); !at.IsZero() {
			due = earlier(due, at)
		}
		if f.repair.from == "" {
			due = earlier(due, f.repair.askAt)
		}
	}
	for f := range j.moved.all() {
		due = earlier(due, f.tellAt)
	}
	return due
}

// expire sets baselines that have waited long enough, and forgets what is too old.
func (j *journal) expire(now time.Time) (out []arrival) {
	for f := range j.waiting.all() {
		if due := f.baselineDue(); j.ready && !due.IsZero() && !now.Before(due) {
			if j.behind(now, f) || j.unanswered(now, f) {
				f.notBefore = now.Add(busyWait)
				continue
			}
			out = append(out, j.suppose(now, f))
		}
	}
	j.ring.expire(now)
	return out
}

// unanswered reports whether a feed that could only begin with a guess waits for its author, which
// is a neighbour and knows better, but has not answered: for up to lackWait.
func (j *journal) unanswered(now time.Time, f *Feed) bool {
	if f.sure() != 0 || j.certain(f) || f.entry == nil || !j.present(f) || !j.near(f.peer()) {
		return false
	}
	return now.Before(earlier(f.claimed, f.gapSince).Add(lackWait))
}

// sweep drops the broadcasts of feeds from which nothing has been heard for twice the retention,
// and mentions them no more: nobody has anything of them to give.
func (j *journal) sweep(now time.Time) {
	j.sweepGuesses(now)
	for _, f := range j.feeds {
		if f.tag != j.self && !f.silent && now.Sub(f.used) > 2*j.ring.limits.Age {
			f.silent = true
			j.ring.remove(f.tag)
			j.changed(f)
		}
	}
}
