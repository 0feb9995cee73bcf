package stay

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// Config is what a stay is made of. It does not change while the stay lasts.
type Config struct {
	Room   string
	Tag    [32]byte // of the room, on the wire
	Self   peer.ID
	Key    ed25519.PrivateKey // of this node's device
	Feed   FeedID             // of this node's own broadcasts
	Door   *Door
	Past   Past
	Resume map[FeedTag]uint64 // where a reader's cursor was; nil: there was none
	// Handed and Latest are how far feeds were handed up in earlier stays of this process, and the
	// last stay of each device of which a message was.
	Handed map[FeedTag]uint64
	Latest map[peer.ID]Mark

	Rate identity.Rate // of what one member broadcasts
	// Kept is what earlier stays and runs knew of orders.
	Kept KeptOrders
	// Defiant makes the stay go on when an order has ended it. It is for tests: members put out one
	// that does not obey.
	Defiant bool

	Grace     time.Duration
	Large     int // from how many members on they cause no notices
	Retention Retention
	Stored    bool // what changes is written to a store
	Asking    int  // how many neighbours are asked for their rosters at a time; 0: 32
	Rand      *rand.Rand
	Log       *slog.Logger
}

// Stay is the rules of one stay in a room: who is a member, what was broadcast, what is missing,
// and what to tell whom. It does what its world asks it to and asks its world for the rest, so it
// has no lock, clock, goroutine or connection: the caller passes the time and calls one method at a
// time.
type Stay struct {
	Config
	world  World
	since  time.Time
	device identity.PublicKey
	log    *slog.Logger

	own        *Entry          // this node's
	warned     *identity.Grant // the grant whose end the app has been told is coming
	head       Head            // of this node's own feed
	roster     *roster
	journal    *journal
	unacked    []sealed   // this node's own envelopes that no neighbour has acknowledged
	window     window     // how much of this node's own feed is under way
	owing      set[*Feed] // feeds whose authors are to be told soon how far they have arrived
	remind     reminder
	neighbours neighbours
	order      []peer.ID // the neighbours, in random order
	parted     parted
	newcomers  map[peer.ID]time.Time // connected members that GossipSub has not reported, and since when
	unmet      map[peer.ID]time.Time // members that are not neighbours yet, and since when that is to show whether they are in the room
	waiting    map[peer.ID]struct{}  // asked whether they are in the room, and silent so far
	parked     parked
	orders     *orders
	outcasts   map[peer.ID]*outcast // devices that orders have put out
	nextReview time.Time            // when to check which orders still count
	heeding    int64                // for which orders the entry is being signed again
	confirms   confirms             // own broadcasts whose receipts are awaited
	relays     relays               // receipts on their way to other authors
	untold     bool                 // the roster has changed since neighbours were last told its digest
	widen      bool                 // and at nextDigest several are to be told
	readyAt    time.Time            // when every feed that neighbours knew had its beginning; zero: not yet
	delayed    bool                 // the program has been told that this takes long
	cut        cutoff
	held       heldUps   // what the program gets when the stay is ready
	nextDigest time.Time // when to compare rosters and feeds with neighbours
	nextSweep  time.Time // when to forget past feeds
	minded     time.Time // when all members were last looked at
	authors    map[peer.ID]*author
	leaving    bool
	large      bool   // members cause no events
	items      []Item // scratch space
}

// New begins a stay.
func New(now time.Time, cfg Config, world World) *Stay {
	st := &Stay{
		Config: cfg, world: world, since: now, device: identity.PublicKey(cfg.Key.Public().(ed25519.PublicKey)), log: cfg.Log,
		neighbours: make(neighbours),
		waiting:    make(map[peer.ID]struct{}),
		newcomers:  make(map[peer.ID]time.Time),
		unmet:      make(map[peer.ID]time.Time),
		parted:     make(parted),
		authors:    make(map[peer.ID]*author),
		outcasts:   make(map[peer.ID]*outcast),
		orders:     newOrders(cfg.Door),
		nextDigest: now.Add(digestEvery),
	}
	st.Asking = cmp.Or(st.Asking, MaxAsking)
	st.confirms.init()
	st.relays.init()
	j := newJournal(TagFeed(st.device, cfg.Feed), cfg.Retention)
	j.since, j.jitter = now, st.chance
	j.meeting, j.away = st.meeting, st.apart
	j.near = func(p peer.ID) bool { return st.neighbours[p] != nil }
	j.early = func(f *Feed, e *Envelope) bool {
		return j.unwanted(f, e, cfg.Past.since(st.since), st.roster.devices[e.Peer])
	}
	j.dated = func(e *Envelope) bool {
		s := st.roster.devices[e.Peer]
		if s == nil {
			return false
		}
		_, ok := s.dated(time.UnixMilli(e.SentMs))
		return ok
	}
	j.resume = cfg.Resume
	j.history = cfg.Past != Past{} || len(cfg.Resume) > 0
	if cfg.Latest != nil {
		j.stays.handed, j.stays.latest = cfg.Handed, cfg.Latest
	}
	if cfg.Stored {
		j.ring.changes = changes{make(map[FeedTag]struct{}), func() { world.Wake(ForStore) }}
	}
	st.journal = j
	st.roster = newRoster(cfg.Door, j, cfg.Self, cfg.Grace)
	st.roster.jitter, st.roster.pace = st.chance, 0.75+cfg.Rand.Float64()/4
	st.roster.linked = j.near
	st.roster.signs = func(p peer.ID) time.Time {
		if st.neighbours[p] == nil {
			return time.Time{}
		}
		return world.Spoke(p)
	}
	return st
}

// Enter makes this node a member, by its own entry. It is called once, after Restore.
func (st *Stay) Enter(now time.Time, own *Entry) {
	st.own = own
	s, _ := st.roster.apply(now, own)
	s.told = true
	st.remember(now, st.Kept)
}

// Renew replaces this node's entry by a newer one. The feed goes on.
func (st *Stay) Renew(now time.Time, own *Entry) {
	heeds := own.Heeded > st.own.Heeded
	st.own = own
	st.roster.apply(now, own)
	st.world.Wake(ForTimer)
	for _, p := range st.order {
		if heeds {
			st.greet(now, p, ask) // it may have put this node out for what the entry has not said
		}
	}
}

// Own returns this node's entry.
func (st *Stay) Own() *Entry { return st.own }

// succeed notes which members are there now that this stay is ready: any stays that they had before
// have ended.
func (st *Stay) succeed() {
	for p, s := range st.roster.devices {
		switch {
		case p == st.Self:
		case s.present && s.feed != nil:
			st.journal.stays.ended(p, Mark{s.feed.tag, s.entry.Sequence})
		case !s.entry.Joined:
			st.journal.stays.ended(p, Mark{FeedTag{}, s.entry.Sequence})
		}
	}
}

// Leave makes the stay take and say no more, and sends on what it has gathered for others. It
// reports false if that was so already.
func (st *Stay) Leave() bool {
	again := st.leaving
	st.leaving = true
	st.passAll()
	return !again
}

// End makes the stay take and say no more.
func (st *Stay) End() {
	st.leaving = true
	st.unacked = nil
}

// Leaving reports whether the stay takes no more.
func (st *Stay) Leaving() bool { return st.leaving }

const (
	// mindEvery is how often a room checks every member, for which times are in seconds.
	mindEvery = 25 * time.Millisecond
	// TickEvery is how often a room checks what is due, at least.
	TickEvery = time.Minute
)

// Tick does what is due, and returns how long nothing else will be due.
func (st *Stay) Tick(now time.Time) time.Duration {
	for _, a := range st.journal.expire(now) {
		st.arrived(now, a)
	}
	st.repair(now)
	due := st.rejoin(now)
	due = earlier(due, st.mind(now))
	st.world.Count(CountEnvelopesUnclaimed, st.parked.expire(now))
	st.compare(now)
	st.seek(now)
	inquiries := st.inquiries(now)
	st.announce(now)
	st.overdue(now)
	if !now.Before(st.nextSweep) {
		st.nextSweep = now.Add(TickEvery)
		st.journal.sweep(now)
		st.sweepAuthors(now)
	}
	due = earlier(earlier(earlier(due, st.parked.due()), st.nextDigest), inquiries)
	due = earlier(earlier(due, st.token(now)), st.payAcks(now))
	due = earlier(earlier(due, st.subscribe(now)), st.missUnmet(now))
	due = earlier(earlier(due, st.journal.due()), st.remind.due())
	due = earlier(earlier(due, st.passDue(now)), st.confirmsDue(now))
	due = earlier(due, st.reviews(now))
	if len(st.unacked) > 0 {
		due = earlier(due, st.unacked[0].deadline)
	}
	return min(max(due.Sub(now), 0), TickEvery)
}

// mind checks all members, if that is not too soon, and returns when to do so again. It gives up
// those whose grace is over, accuses those that fell silent, and lets those return whose goodbye
// was lost.
func (st *Stay) mind(now time.Time) time.Time {
	if at := st.minded.Add(mindEvery); now.Before(at) {
		return at
	}
	st.minded = now
	due := st.watch(now)
	for _, s := range st.roster.expire(now) {
		st.note(now, s, left)
	}
	for s := range st.roster.order.all() {
		if s.coming != nil && !now.Before(s.ends(s.comingAt)) {
			st.come(now, s) // its goodbye was lost
		}
		due = earlier(due, st.listen(now, s))
	}
	if !st.leaving { // a node that leaves answers no accusation and makes none
		due = earlier(due, st.roster.due())
	}
	return due
}

// token warns that this node's own token ends soon, ends the stay when the token has ended, and
// returns when there is something to do next.
func (st *Stay) token(now time.Time) time.Time {
	grant := st.own.Grant
	if grant == nil || st.leaving {
		return time.Time{}
	}
	err := st.Door.holds(st.own, now)
	if err == nil && !now.Before(grant.Expires) {
		err = fmt.Errorf("room %s: %w", st.Room, identity.ErrTokenExpired)
	}
	if err != nil {
		st.leaving = true
		st.world.Notice(Lapsed{err})
		return time.Time{}
	}
	warn := grant.Expires.Add(-identity.TokenWarning)
	if st.readyAt.IsZero() {
		return grant.Expires // nothing comes before the event that the stay is ready
	}
	if st.warned != grant && !now.Before(warn) {
		st.warned = grant
		st.world.Notice(Expiring{grant.Expires})
	}
	if st.warned == grant {
		return grant.Expires
	}
	return warn
}
