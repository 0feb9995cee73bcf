package stay

import (
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Way is how an envelope came.
type Way uint8

const (
	Gossiped Way = iota
	Repaired     // a neighbour was asked for it
)

// maxGossipAge is how old an envelope that came by gossip can be: GossipSub hands out what it
// received in the last 5 heartbeats.
const maxGossipAge = 6 * time.Second

// Receive brings an envelope to its feed, or parks it until its sender is known.
func (st *Stay) Receive(now time.Time, via peer.ID, e *Envelope, how Way) {
	if st.leaving || e.tag == st.journal.self {
		return
	}
	e.via, e.how = via, how
	if st.Barred(now, e) {
		st.world.Count(CountEnvelopesBarred, 1)
		return
	}
	if st.Shut(e) && !st.readmits(now, e) {
		st.world.Count(CountEnvelopesStale, 1)
		return
	}
	if how == Gossiped {
		st.world.Count(CountEnvelopesTaken, 1)
	}
	st.contact(now)
	if e.First == 1 && e.Scheme == 0 {
		st.introduced(now, e)
	}
	f := st.journal.feeds[e.tag]
	if f == nil || f.entry == nil {
		if dropped := st.parked.add(now, e); dropped > 0 {
			st.world.Count(CountEnvelopesUnclaimed, dropped)
		}
		st.world.Wake(ForTimer)
		st.ask(now, via, false)
		return
	}
	switch s := st.roster.devices[e.Peer]; {
	case s == nil:
	case how == Gossiped:
		s.arrived(e, now, e.Next() > f.next)
	default:
		s.transit.fetched(time.UnixMilli(e.SentMs), e.came)
	}
	st.feed(now, via, f, e, how)
}

// introduced takes the roster entry that begins a feed.
func (st *Stay) introduced(now time.Time, e *Envelope) {
	kind, payload, _, err := wire.NextItem(e.Content)
	if err != nil || kind != wire.Kind_KIND_ROSTER {
		return
	}
	entry, err := st.openOwnEntry(now, e, payload)
	if err != nil {
		st.world.Count(CountRoomViolations, 1)
		st.log.Debug("roster entry refused", "room", st.Room, "peer", e.Peer, "err", err)
		return
	}
	st.apply(now, entry)
}

var (
	errOthersEntry    = errors.New("roster entry of another device or feed")
	errOthersEnvelope = errors.New("envelope of another place")
)

// openOwnEntry opens an entry that a feed carries, which must be the one of the feed's own sender.
func (st *Stay) openOwnEntry(now time.Time, e *Envelope, sealed []byte) (*Entry, error) {
	entry, err := st.Door.open(sealed, now)
	if err != nil {
		return nil, err
	}
	if entry.Statement.Device != e.device || entry.Feed != e.Feed {
		return nil, errOthersEntry
	}
	return entry, nil
}

// apply takes a verified entry into the roster, tells the app, and delivers what waited for it.
func (st *Stay) apply(now time.Time, entry *Entry) *seat {
	return st.take(now, entry, st.roster.apply)
}

func (st *Stay) take(now time.Time, entry *Entry, take func(time.Time, *Entry) (*seat, change)) *seat {
	if entry.Joined && st.barred(now, entry.Statement.Peer, entry.Tag()) || st.refuse(now, entry) != nil {
		return nil
	}
	s, c := take(now, entry)
	if c == replaced {
		st.leaving = true
		st.world.Notice(Replaced{entry.Statement.Login()})
		return s
	}
	for _, pushed := range st.roster.pushed {
		st.note(now, pushed, left)
		if pushed.told { // held up, and nobody will look at it again
			st.handUpOf(now, pushed)
			st.world.Notice(Left{pushed.public(), pushed.reason})
		}
	}
	st.roster.pushed = nil
	st.note(now, s, c)
	if c == left {
		st.come(now, s)
	}
	if c != outdated {
		st.world.Know(entry)
	}
	if s != nil && s.coming != nil {
		st.world.Wake(ForTimer)
	}
	return s
}

// come lets a member begin its next stay, if that has been waiting.
func (st *Stay) come(now time.Time, s *seat) {
	if s.coming != nil && st.refuse(now, s.coming) != nil {
		s.coming = nil // an order has come in between
	}
	if c, ok := st.roster.came(now, s); ok {
		st.note(now, s, c)
		st.claim(now, s)
	}
}

// note reports a change in the roster to the app and to those that wait for one.
func (st *Stay) note(now time.Time, s *seat, c change) {
	switch c {
	case joined:
		st.report(now, s)
		st.expect(now, s.Peer)
	case left:
		delete(st.newcomers, s.Peer)
		delete(st.unmet, s.Peer)
		st.report(now, s)
	case rejoined:
		st.expect(now, s.Peer)
	case unchanged, outdated:
		if s != nil && s.muted {
			st.listen(now, s) // it may be heard again
		}
		return // nobody has come or gone
	case renewed:
		st.listen(now, s)
		return // it has stayed a member, on the same device: nobody waits for what else is new
	case replaced:
		return // take has ended the stay
	}
	st.untold = true
	st.confirms.moved = true
	st.world.Wake(ForTimer)
	st.world.Wake(ForMembers)
}

// spoke and alive note what the roster has of a sign of life.
func (st *Stay) spoke(now time.Time, p peer.ID) {
	s, c := st.roster.spoke(now, p)
	st.note(now, s, c)
}

func (st *Stay) alive(now time.Time, p peer.ID) {
	s, c := st.roster.alive(now, p)
	st.note(now, s, c)
}

// closeRoom is up to how many members a room's members are assumed to be all connected to each
// other.
const closeRoom = 16

// expect makes broadcasts wait for a member that is about to become a neighbour.
func (st *Stay) expect(now time.Time, p peer.ID) {
	if st.neighbours[p] != nil || p == st.Self {
		return
	}
	st.unmet[p] = now
	if st.roster.present <= closeRoom || st.world.Link(p) == Linked {
		st.newcomers[p] = now
	}
}

// claim delivers what was parked for a seat that is now known. A member that is known only by its
// goodbye delivers nothing.
func (st *Stay) claim(now time.Time, s *seat) {
	if s.feed.entry == nil {
		return
	}
	mine := st.parked.claim(s.Peer, s.entry.Feed)
	for _, e := range mine {
		if e.how == Gossiped {
			s.arrived(e, e.parked, e.Next() > s.feed.next)
		} else {
			s.transit.fetched(time.UnixMilli(e.SentMs), e.came)
		}
	}
	for _, e := range mine {
		st.feed(now, e.via, s.feed, e, e.how)
	}
}

// feed delivers what e makes ready.
func (st *Stay) feed(now time.Time, via peer.ID, f *Feed, e *Envelope, how Way) {
	if st.Door.holds(f.entry, now) != nil && !f.witnessed(e) {
		st.world.Count(CountEnvelopesLapsed, 1)
		return
	}
	if (f.next == 0 || via != f.peer() && f.untouched()) && time.UnixMilli(e.SentMs).Before(st.oldest(now)) {
		// A replay: with no baseline, or one that only others have stated, only its time shows it.
		st.world.Count(CountEnvelopesStale, 1)
		st.passOver(now, f, e)
		return
	}
	if st.journal.early(f, e) {
		st.passOver(now, f, e)
		return
	}
	if how == Gossiped && now.Sub(st.since) < maxUnderWay && st.journal.uncertain(f, via, e, st.roster.devices[e.Peer]) {
		st.spoke(now, e.Peer)
		st.journal.promised(now, via, f, e)
		st.world.Wake(ForTimer)
		return
	}
	ready, v := st.journal.take(now, via, f, e)
	switch v {
	case stale:
		st.world.Count(CountEnvelopesStale, 1)
		return
	case full:
		st.world.Count(CountEnvelopesSetBack, 1)
	}
	if how == Gossiped {
		st.spoke(now, e.Peer)
	} else if s := st.roster.devices[e.Peer]; s != nil && s.feed == f {
		st.note(now, s, st.roster.showed(now, e.came, s))
	}
	st.acknowledge(now, f, e.Count == 1)
	if v == taken && len(ready) == 0 {
		st.goodbye(now, e)
	}
	if f.next == 0 {
		st.heads(now, via)
	}
	if e.Receipts != nil {
		st.carry(now, f, e)
	}
	st.ready(now, f, ready, v)
}

// passOver passes over an envelope from before this node's time. If it is a goodbye, that counts.
func (st *Stay) passOver(now time.Time, f *Feed, e *Envelope) {
	from := f.next
	ready, v := st.journal.skip(now, f, e)
	if _, resumed := st.journal.resume[f.tag]; resumed && f.next > from {
		// The reader has read all before it, so the reader misses it, however old it is.
		if from = max(from, 2); from < e.Next() {
			st.lost(now, f, span{from, e.last()})
		}
	}
	st.ready(now, f, ready, v)
	st.goodbye(now, e)
}

// goodbye checks whether an envelope that is not delivered is a goodbye: that counts even if the
// gap before it never closes.
func (st *Stay) goodbye(now time.Time, e *Envelope) {
	sealed := e.entry()
	if sealed == nil {
		return
	}
	if entry, err := st.openOwnEntry(now, e, sealed); err == nil && !entry.Joined {
		st.hearsay(now, e.via, entry)
	}
}

// hearsay takes a verified entry that a peer has passed on.
func (st *Stay) hearsay(now time.Time, via peer.ID, entry *Entry) *seat {
	met := time.Time{}
	if n := st.neighbours[via]; n != nil {
		met = n.met
	}
	return st.take(now, entry, func(now time.Time, e *Entry) (*seat, change) { return st.roster.hearsay(now, e, met) })
}

// oldest returns when an envelope may have been sent at the earliest, by any member's clock, for
// this node to want it: in its stay and the past that it asked for, and not before what anybody
// retains.
func (st *Stay) oldest(now time.Time) time.Time {
	t := now.Add(-st.Retention.Age)
	if since := st.since.Add(-st.Past.Age); !st.Past.All && st.Past.Count == 0 && since.After(t) {
		t = since
	}
	return t.Add(-identity.MaxSkew)
}

// arrived takes what a feed has ready after time has passed.
func (st *Stay) arrived(now time.Time, a arrival) {
	if a.lost.last > 0 {
		st.lost(now, a.feed, a.lost)
	}
	st.ready(now, a.feed, a.ready, a.verdict)
}

// ready takes what a feed delivers.
func (st *Stay) ready(now time.Time, f *Feed, ready []*Envelope, v verdict) {
	within := st.judge(now, f, ready)
	st.deliver(now, f, ready[:within])
	switch {
	case within < len(ready), v == taken && len(ready) == 0 && st.floods(now, f):
		st.bar(now, f)
	case v == forked && !f.barred:
		st.evict(now, f)
	case len(ready) > 0 || len(f.held) > 0:
		st.world.Wake(ForTimer)
	}
}

// deliver hands the items of envelopes to the app, in order.
func (st *Stay) deliver(now time.Time, f *Feed, ready []*Envelope) {
	if len(ready) == 0 {
		return
	}
	own := f.peer() == st.Self // of an earlier stay: it is kept for others
	over := !st.journal.history && st.journal.stays.over(f)
	old := !st.journal.history && st.journal.stays.old(f)
	var passed span // messages that would come after those of a later stay
	for _, e := range ready {
		whole := e.First >= f.floor
		if e.Scheme != 0 {
			// A later version sent it under a scheme that this one does not have.
			if lost := f.unseen(span{e.First, e.last()}); lost.last > 0 {
				st.lost(now, f, lost)
			}
			continue
		}
		number := e.First
		for content := e.Content; len(content) > 0; number++ {
			kind, payload, rest, err := wire.NextItem(content)
			if err != nil {
				break // the validator has walked it
			}
			content = rest
			switch kind {
			case wire.Kind_KIND_TEXT, wire.Kind_KIND_BINARY:
				if number < f.floor || own {
					continue // from before this node's time, or its own
				}
				if over || old {
					if passed.last = number; passed.first == 0 {
						passed.first = number
					}
					whole = false
					continue
				}
				st.journal.stays.delivers(f)
				st.items = append(st.items, Item{number, kind, payload})
				continue
			}
			whole = st.flush(now, f, e) && whole
			switch kind {
			case wire.Kind_KIND_ROSTER:
				if e.stored {
					continue // the member that said so may have left since
				}
				if entry, err := st.openOwnEntry(now, e, payload); err == nil {
					f.ended = f.ended || !entry.Joined
					st.apply(now, entry)
				}
			case wire.Kind_KIND_SUSPICION:
				if number >= f.floor {
					st.accused(now, e, payload)
				}
			case wire.Kind_KIND_ORDER:
				st.heardOrder(now, e, payload)
			case wire.Kind_KIND_ASK:
				st.asked(now, f, e, payload)
			}
		}
		whole = st.flush(now, f, e) && whole
		switch {
		case !whole || e.Receipts == nil:
		case st.Holding():
			st.hold(now, heldUp{by: f.entry, of: e})
		default:
			st.confirm(now, e)
		}
	}
	if passed.last > 0 && !old {
		st.lost(now, f, passed)
	}
}

// flush hands up the messages of an envelope that have been gathered, and reports whether the
// program has all of them.
func (st *Stay) flush(now time.Time, f *Feed, e *Envelope) (whole bool) {
	if len(st.items) == 0 {
		return true
	}
	if st.Holding() {
		whole = st.hold(now, heldUp{by: f.entry, of: e, items: slices.Clone(st.items)})
	} else {
		whole = st.world.Deliver(f.entry.Statement.Login(), e, st.items)
	}
	st.world.Count(CountMessagesTaken, len(st.items))
	clear(st.items)
	st.items = st.items[:0]
	return whole
}

func (st *Stay) lost(now time.Time, f *Feed, lost span) {
	if f.peer() == st.Self {
		return
	}
	st.world.Count(CountMessagesLost, int(lost.last-lost.first+1))
	n := Lost{f.entry.Statement.Login(), f.entry.Feed, lost.first, lost.last}
	if st.Holding() {
		st.hold(now, heldUp{by: f.entry, notice: n})
	} else {
		st.world.Notice(n)
	}
}

// evict evicts a member that has signed two different continuations of its feed: it said different
// things to different members.
func (st *Stay) evict(now time.Time, f *Feed) {
	st.world.Count(CountForks, 1)
	st.log.Debug("member evicted: its feed forks", "room", st.Room, "peer", f.entry.Statement.Peer)
	if s := st.roster.devices[f.entry.Statement.Peer]; s != nil && s.feed == f {
		st.note(now, s, st.roster.leave(now, s, Evicted))
	}
}
