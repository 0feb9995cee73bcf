package stay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// simRoom is one stay of a device in the room: what [Room] does around the journal and the roster,
// in the same words, with the world's time and chance, and without a network.
type simRoom struct {
	w     *simWorld
	dev   *simDevice
	feed  FeedID
	since time.Time
	past  Past

	own        *Entry
	head       uint64
	hash       [sha256.Size]byte
	roster     *roster
	journal    *journal
	parked     parked
	neighbours neighbours
	waiting    map[peer.ID]struct{}
	owing      map[*Feed]struct{}
	remind     reminder
	rumour     bool
	widen      bool
	nextDigest time.Time
	nextSweep  time.Time
	leaving    bool
	ended      bool
	seen       map[*simParcel]struct{} // by GossipSub
	armed      bool
	timer      int
	timers     int // that fired at timerAt
	timerAt    time.Time

	// For the checks.
	readyAt   time.Time // when Join returned; zero: it has not
	published []*simParcel
	kinds     []simItem // of the feed's items, from number 1
	accounts  map[FeedTag]*simAccount
	tried     map[*Feed]map[peer.ID]uint64 // where the feed was when a neighbour could not help
	said      bool                         // it has said goodbye
	movedAt   time.Time
}

// simParcel is an envelope under way.
type simParcel struct {
	env    *wire.Envelope
	dev    *simDevice
	feed   FeedID
	tag    FeedTag
	hash   [sha256.Size]byte
	sealed []byte
	entry  *Entry // its only item; nil: messages
}

// join begins a stay, which goes on where an earlier one's reader was if resume is not nil.
func (d *simDevice) join(past Past, resume *simRoom) {
	w := d.w
	r := &simRoom{
		w: w, dev: d, since: w.now, past: past,
		neighbours: make(neighbours), waiting: make(map[peer.ID]struct{}), owing: make(map[*Feed]struct{}),
		seen: make(map[*simParcel]struct{}), accounts: make(map[FeedTag]*simAccount),
		tried: make(map[*Feed]map[peer.ID]uint64), movedAt: w.now,
	}
	binary.BigEndian.PutUint64(r.feed[:], uint64(len(w.rooms)+1))
	r.journal = newJournal(TagFeed(d.statement.Device, r.feed), w.limits)
	r.journal.jitter, r.journal.since = w.jitter, w.now
	if resume != nil {
		r.resumeFrom(resume)
	}
	r.roster = newRoster(&Door{}, r.journal, d.id, 10*time.Second)
	r.roster.jitter, r.roster.pace = w.jitter, 0.9
	r.roster.linked = func(p peer.ID) bool { return r.neighbours[p] != nil }
	r.own = r.entry(true)
	r.nextDigest = w.now.Add(digestEvery)
	r.roster.apply(w.now, r.own)
	d.room, d.last = r, r
	w.rooms = append(w.rooms, r)
	w.feeds[r.journal.self] = r
	w.note("%d joins", d.i)
	for i := range w.all {
		if d.subscribed[i] && w.connected(d.i, i) {
			w.at(w.now, func() {
				if !r.ended {
					r.peerEvent(simID(i), true)
				}
			})
		}
	}
	near := w.near(d.i)
	for _, i := range near {
		w.tell(d.i, i, simSubscribed{true})
	}
	r.seal(1, r.own)
	for _, i := range near {
		r.waiting[simID(i)] = struct{}{}
		w.tell(d.i, i, simQuery{})
	}
	w.after(joinWait, r.begin)
	r.arm()
	w.at(w.now, r.lookReady)
}

func (r *simRoom) entry(joined bool) *Entry {
	r.dev.sequence = max(r.dev.sequence+1, uint64(r.w.now.UnixMilli()))
	e := &Entry{Statement: r.dev.statement, Feed: r.feed, Sequence: r.dev.sequence, Joined: joined}
	e.name = nameEntry(fmt.Append(nil, r.dev.i, r.dev.sequence, joined))
	return e
}

// lookReady does what awaitReady does.
func (r *simRoom) lookReady() {
	if len(r.waiting) > 0 {
		return
	}
	for i := range r.w.all {
		if n := r.neighbours[simID(i)]; r.dev.subscribed[i] && (n == nil || !n.agreed) {
			return
		}
	}
	r.begin()
}

func (r *simRoom) begin() {
	if r.ended || r.leaving || !r.readyAt.IsZero() {
		return
	}
	r.readyAt = r.w.now
	r.w.note("%d is ready", r.dev.i)
	for _, a := range sortedArrivals(r.journal.becomeReady(r.w.now)) {
		r.arrived(r.w.now, a)
	}
	r.arm()
}

// publish makes the app's messages travel in one envelope.
func (r *simRoom) publish(count int) {
	if r.readyAt.IsZero() || r.leaving {
		return
	}
	r.seal(uint32(count), nil)
}

// renew announces the entry again, in the middle of the feed.
func (r *simRoom) renew() {
	if r.leaving {
		return
	}
	r.own = r.entry(true)
	r.roster.apply(r.w.now, r.own)
	r.arm()
	r.seal(1, r.own)
}

func (r *simRoom) seal(count uint32, entry *Entry) {
	w := r.w
	p := &simParcel{dev: r.dev, feed: r.feed, tag: r.journal.self, entry: entry}
	p.env = &wire.Envelope{First: r.head + 1, Count: count, SentMs: w.now.UnixMilli()}
	if r.head > 0 {
		p.env.Previous = bytes.Clone(r.hash[:])
	}
	// The size of an envelope differs by user such that no two users take up as much of a ring:
	// which of their envelopes are dropped is then not left to chance.
	p.sealed = make([]byte, [...]int{101, 103, 107, 109, 113, 127}[r.dev.i])
	binary.BigEndian.PutUint64(p.sealed[copy(p.sealed, p.tag[:]):], r.head+1)
	p.hash = sha256.Sum256(p.sealed)
	for range count {
		r.kinds = append(r.kinds, simItem{w.now, entry == nil})
	}
	r.published = append(r.published, p)
	r.head, r.hash = r.head+uint64(count), p.hash
	w.note("%d publishes %d to %d of feed %d", r.dev.i, p.env.First, r.head, r.number())
	r.journal.publish(w.now, r.journal.feeds[r.journal.self], p.env.First, count, p.sealed)
	r.arm()
	r.seen[p] = struct{}{}
	w.gossip(r.dev.i, p, true, -1)
}

// leave says goodbye, and ends the stay when all neighbours have it or goodbyeWait is over.
func (r *simRoom) leave() {
	if r.leaving || r.ended {
		return
	}
	r.w.note("%d leaves", r.dev.i)
	r.leaving, r.said = true, true
	r.seal(1, r.entry(false))
	until := r.w.now.Add(goodbyeWait)
	var look func()
	look = func() {
		behind := false
		for _, n := range r.neighbours {
			behind = behind || n.acked < r.head
		}
		if behind && r.w.now.Before(until) {
			r.w.after(10*time.Millisecond, look)
			return
		}
		r.end()
	}
	r.w.at(r.w.now, look)
}

// end ends the stay: the program goes on.
func (r *simRoom) end() {
	if r.ended {
		return
	}
	r.ended, r.leaving = true, true
	r.dev.room = nil
	for _, i := range r.w.near(r.dev.i) {
		r.w.tell(r.dev.i, i, simSubscribed{false})
	}
}

// open returns a parcel as openEnvelope would.
func (r *simRoom) open(p *simParcel) *Envelope {
	return &Envelope{
		Envelope: p.env, device: p.dev.statement.Device, Peer: p.dev.id, Feed: p.feed, tag: p.tag,
		hash: p.hash, sealed: p.sealed, Size: len(p.sealed), came: r.w.now,
	}
}

// parcel returns the parcel of an envelope.
func (r *simRoom) parcel(e *Envelope) *simParcel { return r.w.parcel(e.tag, e.First) }

func (w *simWorld) parcel(tag FeedTag, first uint64) *simParcel {
	list := w.feeds[tag].published
	i, _ := slices.BinarySearchFunc(list, first, func(p *simParcel, first uint64) int { return cmp.Compare(p.env.First, first) })
	return list[i]
}

// validate is what GossipSub calls.
func (r *simRoom) validate(from int, p *simParcel) {
	if _, again := r.seen[p]; again {
		return
	}
	r.seen[p] = struct{}{}
	r.receive(simID(from), r.open(p), Gossiped)
	r.w.gossip(r.dev.i, p, false, from)
}

func (r *simRoom) receive(via peer.ID, e *Envelope, how Way) {
	now := r.w.now
	if r.leaving || e.tag == r.journal.self {
		return
	}
	e.via, e.how = via, how
	if e.First == 1 {
		r.apply(now, r.parcel(e).entry)
	}
	f := r.journal.feeds[e.tag]
	if f == nil || f.entry == nil {
		r.parked.add(now, e)
		r.arm()
		r.ask(now, via, false)
		return
	}
	if s := r.roster.devices[e.Peer]; s != nil && how == Gossiped {
		s.transit.late(time.UnixMilli(e.SentMs), now)
	}
	r.feedIt(now, via, f, e, how)
}

func (r *simRoom) apply(now time.Time, entry *Entry) *seat {
	return r.take(now, entry, r.roster.apply)
}

func (r *simRoom) take(now time.Time, entry *Entry, take func(time.Time, *Entry) (*seat, change)) *seat {
	s, c := take(now, entry)
	r.noted(s, c)
	if c == left {
		r.come(now, s)
	}
	if s != nil && s.coming != nil {
		r.arm()
	}
	return s
}

func (r *simRoom) come(now time.Time, s *seat) {
	if c, ok := r.roster.came(now, s); ok {
		r.noted(s, c)
		r.claim(now, s)
	}
}

func (r *simRoom) noted(s *seat, c change) {
	switch c {
	case joined, left, renewed:
		r.w.note("%d: %d has %s", r.dev.i, simIndex(s.Peer), map[change]string{joined: "joined", left: "left", renewed: "joined again"}[c])
		r.rumour = true
		r.arm()
	}
}

func (r *simRoom) claim(now time.Time, s *seat) {
	if s.feed.entry == nil {
		return
	}
	mine := r.parked.claim(s.Peer, s.entry.Feed)
	for _, e := range mine {
		s.transit.late(time.UnixMilli(e.SentMs), e.came)
	}
	for _, e := range mine {
		r.feedIt(now, e.via, s.feed, e, e.how)
	}
}

func (r *simRoom) feedIt(now time.Time, via peer.ID, f *Feed, e *Envelope, how Way) {
	if (f.next == 0 || via != f.peer() && f.untouched()) && time.UnixMilli(e.SentMs).Before(r.oldest(now)) {
		ready, v := r.journal.skip(now, f, e)
		r.readied(now, f, ready, v)
		return
	}
	if r.journal.unwanted(f, e, r.past.since(r.since), r.roster.devices[e.Peer]) {
		ready, v := r.journal.skip(now, f, e)
		r.readied(now, f, ready, v)
		return
	}
	ready, v := r.journal.take(now, via, f, e)
	if v == stale {
		return
	}
	if how == Gossiped {
		r.noted(r.roster.alive(now, e.Peer))
	}
	r.acknowledge(now, f, e.Count == 1)
	if f.next == 0 {
		r.wonder(now, via)
	}
	if entry := r.parcel(e).entry; v == taken && len(ready) == 0 && entry != nil && !entry.Joined {
		r.take(now, entry, r.hearsay(via))
	}
	r.readied(now, f, ready, v)
}

func (r *simRoom) oldest(now time.Time) time.Time {
	t := now.Add(-r.w.limits.Age)
	if since := r.since.Add(-r.past.Age); !r.past.All && r.past.Count == 0 && since.After(t) {
		t = since
	}
	return t.Add(-identity.MaxSkew)
}

func (r *simRoom) arrived(now time.Time, a arrival) {
	if a.lost.last > 0 && a.feed.peer() != r.dev.id {
		r.lost(a.feed, a.lost)
	}
	r.readied(now, a.feed, a.ready, a.verdict)
}

func (r *simRoom) readied(now time.Time, f *Feed, ready []*Envelope, v verdict) {
	r.deliver(now, f, ready)
	if v == forked {
		r.w.breach("%d finds that feed %d forks", r.dev.i, r.w.feeds[f.tag].number())
	} else if len(ready) > 0 || len(f.held) > 0 {
		r.arm()
	}
}

func (r *simRoom) deliver(now time.Time, f *Feed, ready []*Envelope) {
	for _, e := range ready {
		entry := r.parcel(e).entry
		for number := e.First; entry == nil && number < e.Next(); number++ {
			if number >= f.floor && f.peer() != r.dev.id {
				r.delivered(f, number)
			}
		}
		if entry != nil {
			r.apply(now, entry)
		}
	}
}

func (r *simRoom) arm() {
	if r.armed || r.ended {
		return
	}
	r.armed = true
	r.w.at(r.w.now, func() { r.armed = false; r.fire() })
}

// fire is one turn of timerLoop.
func (r *simRoom) fire() {
	if r.ended || r.dev.dead {
		return
	}
	if r.timers++; !r.timerAt.Equal(r.w.now) {
		r.timers, r.timerAt = 0, r.w.now
	}
	if r.timers > 1000 {
		r.w.breach("the timer of %d spins", r.dev.i)
		return
	}
	r.timer++
	if r.timer%4 == 0 {
		r.consistent()
	}
	turn := r.timer
	r.w.after(r.expire(), func() {
		if r.timer == turn {
			r.fire()
		}
	})
}

func (r *simRoom) expire() time.Duration {
	now := r.w.now
	for _, a := range sortedArrivals(r.journal.expire(now)) {
		r.arrived(now, a)
	}
	r.repair(now)
	r.roster.accusations(now, len(r.neighbours) > 0) // nobody is told: each member finds out by itself
	gone := r.roster.expire(now)
	slices.SortFunc(gone, func(a, b *seat) int { return cmp.Compare(a.Peer, b.Peer) })
	for _, s := range gone {
		r.noted(s, left)
	}
	r.parked.expire(now)
	for i := range r.w.all {
		if s := r.roster.devices[simID(i)]; s != nil && s.coming != nil && !now.Before(s.ends(s.comingAt)) {
			r.come(now, s)
		}
	}
	r.compare(now)
	r.seek(now)
	inquiries := r.inquiries(now)
	r.announce(now)
	if !now.Before(r.nextSweep) {
		r.nextSweep = now.Add(TickEvery)
		r.journal.sweep(now)
	}
	due := earlier(earlier(earlier(r.roster.due(), r.parked.due()), r.nextDigest), inquiries)
	due = earlier(due, r.payAcks(now))
	due = earlier(earlier(due, r.journal.due()), r.remind.due())
	return min(max(due.Sub(now), 0), TickEvery)
}

// ids returns all neighbours, in random order.
func (r *simRoom) ids() (out []peer.ID) {
	for i := range r.w.all {
		if r.neighbours[simID(i)] != nil {
			out = append(out, simID(i))
		}
	}
	r.w.rng.Shuffle(len(out), func(a, b int) { out[a], out[b] = out[b], out[a] })
	return out
}
