package stay

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// simStay is a stay of a device in the room, and what package mesh does around it: the outbox, the
// timer, Join, Leave and questions to neighbours. It is the stay's world.
type simStay struct {
	w    *simWorld
	dev  *simDevice
	st   *Stay
	feed FeedID

	outbox  []simItems // what waits to be published
	pumping bool       // publish is about to look at it
	pump    int
	looking bool // lookReady is about to be called
	ended   bool
	seen    map[*simParcel]struct{} // by GossipSub
	kept    map[peer.ID]struct{}    // the connections that are protected
	armed   bool
	timer   int
	timers  int // that fired at timerAt
	timerAt time.Time

	// For the checks.
	joinedAt  time.Time
	process   int       // of the device: it counts how often that was killed
	readyAt   time.Time // when Join returned; zero: it has not
	published []*simParcel
	kinds     []simItem // of the feed's items, from number 1
	pending   []uint64  // the last items of broadcasts that have not ended
	polls     []*simPoll
	accounts  map[FeedTag]*simAccount
	tried     map[*Feed]map[peer.ID]uint64 // where the feed was when a neighbour could not help
	said      bool                         // it has said goodbye
	movedAt   time.Time
}

// simItems are items that share an envelope.
type simItems struct {
	content []byte
	kinds   []bool // whether they are messages
	last    bool   // nothing shares their envelope, and nothing comes after
	polls   []*simPoll
}

// simParcel is an envelope under way.
type simParcel struct {
	env    *wire.Envelope
	hash   [sha256.Size]byte
	sealed []byte
}

// simTrust is a verifier that takes everything for genuine.
type simTrust struct{}

func (simTrust) VerifyLapsed([]byte, time.Time) (*identity.Statement, error) { return nil, nil }

// now returns the time by the device's own clock.
func (d *simDevice) now() time.Time { return d.w.now.Add(d.ahead) }

// join begins a stay, which goes on where an earlier one's reader was if resume is not nil.
func (d *simDevice) join(past Past, resume *simStay) {
	w := d.w
	r := &simStay{
		w: w, dev: d, seen: make(map[*simParcel]struct{}), kept: make(map[peer.ID]struct{}), accounts: make(map[FeedTag]*simAccount),
		tried: make(map[*Feed]map[peer.ID]uint64), movedAt: w.now, joinedAt: w.now, process: d.process,
	}
	binary.BigEndian.PutUint64(r.feed[:], uint64(len(w.stays)+1))
	cfg := Config{
		Room: "sim", Self: d.id, Key: d.key, Feed: r.feed, Door: w.door, Past: past, Grace: 10 * time.Second, Large: 500, Asking: simAsking,
		Retention: w.limits, Rand: d.chance, Log: w.log,
	}
	switch {
	case resume != nil:
		cfg.Resume, cfg.Past = r.resumeFrom(resume)
	case past == Past{} && d.latest != nil:
		cfg.Handed, cfg.Latest = d.handed, d.latest
	}
	r.st = New(d.now(), cfg, r)
	d.stay, d.last = r, r
	w.stays = append(w.stays, r)
	w.feeds[r.st.journal.self] = r
	w.note("%d joins", d.i)
	d.sequence = max(d.sequence+1, uint64(d.now().UnixMilli()))
	own := r.entry(d.sequence, true)
	r.st.Enter(d.now(), own)
	for i := range w.all {
		if d.subscribed[i] && w.connected(d.i, i) {
			w.at(w.now, func() {
				if !r.ended {
					r.peerEvent(i, true)
				}
			})
		}
	}
	near := w.near(d.i)
	for _, i := range near {
		w.tell(d.i, i, simSubscribed{true})
	}
	r.say(wire.Kind_KIND_ROSTER, own.Sealed)
	ids := make([]peer.ID, len(near))
	for k, i := range near {
		ids[k] = simID(i)
	}
	r.st.AskAround(ids)
	w.after(JoinWait, r.begin)
	r.arm()
	r.look()
}

// entry returns an entry of the device, which all doors know.
func (r *simStay) entry(sequence uint64, joined bool) *Entry {
	r.dev.sequence = max(r.dev.sequence, sequence)
	e := &Entry{Statement: r.dev.statement, Feed: r.feed, Sequence: sequence, Joined: joined}
	e.Sealed = binary.BigEndian.AppendUint64([]byte{byte(r.dev.i)}, sequence)
	sum := sha256.Sum256(e.Sealed)
	e.name = entryName(sum[:])
	r.w.door.opened.Add(sum, e)
	return e
}

func (r *simStay) look() {
	if !r.looking {
		r.looking = true
		r.w.at(r.w.now, func() { r.looking = false; r.lookReady() })
	}
}

// lookReady does what awaitReady does.
func (r *simStay) lookReady() {
	var peers []peer.ID
	for i := range r.w.all {
		if r.dev.subscribed[i] {
			peers = append(peers, simID(i))
		}
	}
	if r.st.Agreed(r.w.now, peers) {
		r.begin()
	}
}

func (r *simStay) begin() {
	if r.ended || r.st.Leaving() || !r.readyAt.IsZero() {
		return
	}
	r.readyAt = r.w.now
	r.w.note("%d is ready", r.dev.i)
	r.st.Begin(r.dev.now())
}

// publish makes the app's messages travel in one envelope, or with what else waits.
func (r *simStay) publish(count int, confirmed bool) {
	if r.readyAt.IsZero() || r.st.Leaving() {
		return
	}
	for range count {
		r.say(wire.Kind_KIND_BINARY, []byte{byte(r.dev.i)})
	}
	if b := &r.outbox[len(r.outbox)-1]; confirmed {
		p := &simPoll{by: r}
		p.poll = r.st.Poll(r.dev.now().Add(12*time.Second), p.end)
		p.until = r.w.now.Add(12 * time.Second)
		b.polls = append(b.polls, p)
		r.polls = append(r.polls, p)
		r.st.Await(p.poll)
	}
}

// say adds an item to what waits.
func (r *simStay) say(kind wire.Kind, payload []byte) {
	if n := len(r.outbox); n == 0 || r.outbox[n-1].last {
		r.outbox = append(r.outbox, simItems{})
	}
	b := &r.outbox[len(r.outbox)-1]
	b.content = wire.AppendItem(b.content, kind, payload)
	b.kinds = append(b.kinds, kind == wire.Kind_KIND_BINARY)
	r.pumpSoon()
}

func (r *simStay) pumpSoon() {
	if !r.pumping {
		r.pumping = true
		r.w.at(r.w.now, func() { r.pumping = false; r.publishLoop() })
	}
}

// publishLoop is some turns of the loop of that name.
func (r *simStay) publishLoop() {
	r.pump++
	for turn := r.pump; len(r.outbox) > 0 && !r.ended; {
		now := r.dev.now()
		if wait := max(r.st.AwaitNewcomers(now), r.st.AwaitWindow(now)); wait > 0 {
			r.w.after(wait, func() {
				if r.pump == turn {
					r.publishLoop()
				}
			})
			return
		}
		b := r.outbox[0]
		r.outbox = r.outbox[1:]
		r.seal(b)
	}
}

func (r *simStay) seal(b simItems) {
	w, now := r.w, r.dev.now()
	h, _, receipts := r.st.Next(len(b.polls) > 0)
	count := uint32(len(b.kinds))
	env := &wire.Envelope{
		App: r.w.door.app[:], Room: r.st.Tag[:], Device: r.dev.statement.Device[:], Feed: r.feed[:], First: h.Last + 1, Count: count, Previous: h.Previous(),
		SentMs: now.UnixMilli(), Content: b.content, Receipts: receipts,
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(env)
	if err != nil {
		w.breach("%v", err)
		return
	}
	p := &simParcel{env: env, sealed: append(make([]byte, wire.SignatureSize), raw...)}
	p.hash = sha256.Sum256(p.sealed)
	for _, message := range b.kinds {
		r.kinds = append(r.kinds, simItem{w.now, message})
	}
	r.published = append(r.published, p)
	w.sealed[string(p.sealed)] = p
	next := h.Next(count, p.sealed)
	w.note("%d publishes %d to %d of feed %d", r.dev.i, env.First, next.Last, r.number())
	polls := make([]*Poll, len(b.polls))
	for i, p := range b.polls {
		polls[i], p.first = p.poll, env.First
		p.last = next.Last
	}
	if !r.st.Published(now, next, count, p.sealed, now.Add(12*time.Second), polls) {
		r.pending = append(r.pending, next.Last)
	}
	r.seen[p] = struct{}{}
	w.gossip(r.dev.i, p, true, -1)
}

// renew signs the entry again.
func (r *simStay) renew() {
	if r.st.Leaving() {
		return
	}
	e := r.entry(r.st.Own().Sequence+1, true)
	r.st.Renew(r.dev.now(), e)
	r.say(wire.Kind_KIND_ROSTER, e.Sealed)
}

// leave says goodbye, and ends the stay when the neighbours have it or goodbyeWait is over.
func (r *simStay) leave() {
	if r.ended || !r.st.Leave() {
		return
	}
	r.w.note("%d leaves", r.dev.i)
	r.said = true
	e := r.entry(r.st.Own().Sequence+1, false)
	r.outbox = append(r.outbox, simItems{content: wire.AppendItem(nil, wire.Kind_KIND_ROSTER, e.Sealed), kinds: []bool{false}, last: true})
	r.publishLoop()
	last, until := r.st.head.Last, r.w.now.Add(goodbyeWait)
	var look func()
	look = func() {
		if r.st.Ackers(last) < min(r.st.NeighbourCount(), FastAcks) && r.w.now.Before(until) {
			r.w.after(10*time.Millisecond, look)
			return
		}
		r.end()
	}
	r.w.at(r.w.now, look)
}

// end ends the stay: the program goes on.
func (r *simStay) end() {
	if r.ended {
		return
	}
	r.ended = true
	r.st.End()
	r.st.EndPolls(errUnasked)
	r.dev.handed, r.dev.latest = r.st.Handed()
	r.dev.stay = nil
	for _, i := range r.w.near(r.dev.i) {
		r.w.tell(r.dev.i, i, simSubscribed{false})
	}
}

// validate is what GossipSub calls.
func (r *simStay) validate(from int, p *simParcel) {
	if _, again := r.seen[p]; again {
		return
	}
	r.seen[p] = struct{}{}
	e, err := r.w.door.OpenEnvelope(r.dev.now(), p.sealed)
	if err != nil {
		r.w.breach("%v", err)
		return
	}
	r.heard(from)
	r.st.Receive(r.dev.now(), simID(from), e, Gossiped)
	r.w.gossip(r.dev.i, p, false, from)
}

func (r *simStay) arm() {
	if r.armed || r.ended {
		return
	}
	r.armed = true
	r.w.at(r.w.now, func() { r.armed = false; r.fire() })
}

// fire is one turn of timerLoop.
func (r *simStay) fire() {
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
	r.noteStalled()
	r.w.after(r.st.Tick(r.dev.now()), func() {
		if r.timer == turn {
			r.fire()
		}
	})
}

// peerEvent is one turn of peerLoop.
func (r *simStay) peerEvent(from int, in bool) {
	if p := simID(from); in {
		r.st.Subscribed(r.dev.now(), p)
	} else {
		r.st.Unsubscribed(r.dev.now(), p)
	}
}

func (r *simStay) connected(p peer.ID) { r.st.Connected(r.dev.now(), p) }

func (r *simStay) disconnected(p peer.ID) { r.st.Disconnected(r.dev.now(), p) }

// heard notes that something came over a connection.
func (r *simStay) heard(from int) {
	if l := r.w.link(r.dev.i, from); l != nil {
		l.spoke[l.side(r.dev.i)] = r.w.now
	}
}

// hear takes a frame as the method of that name of a room does.
func (r *simStay) hear(from int, frame *wire.RoomFrame) {
	r.heard(from)
	var err error
	if q := frame.GetReceipts(); q != nil {
		err = r.hearReceipts(simID(from), q)
	} else {
		r.noteHeads(from, frame.GetHeads())
		err = hearFrame(r.dev.now(), simID(from), r.st, frame)
	}
	if err != nil {
		r.w.breach("%d breaks the protocol: %v", from, err)
	}
}

// hearFrame gives a stay a frame of the room protocol other than receipts.
func hearFrame(now time.Time, p peer.ID, st *Stay, frame *wire.RoomFrame) error {
	switch body := frame.Body.(type) {
	case *wire.RoomFrame_Greeting_:
		e, err := st.Door.OpenGreeting(now, p, body.Greeting)
		if err != nil {
			return err
		}
		st.HearGreeting(now, p, body.Greeting, e)
	case *wire.RoomFrame_Roster_:
		list, err := st.Door.OpenRoster(now, p, body.Roster)
		if err != nil {
			return err
		}
		st.HearRoster(now, p, body.Roster, list)
	case *wire.RoomFrame_Heads_:
		return st.HearHeads(now, p, body.Heads)
	case *wire.RoomFrame_Query_:
		st.HearQuery(now, p)
	case *wire.RoomFrame_Absent_:
		st.Absent(now, p)
	}
	return nil
}

func (r *simStay) hearReceipts(p peer.ID, q *wire.RoomFrame_Receipts) error {
	if err := CheckReceipts(q); err != nil {
		return err
	}
	wanted := r.st.Wanted(p, q)
	if err := CheckSignatures(r.st.Tag, q, wanted); err != nil {
		return err
	}
	if len(wanted) > 0 {
		r.st.HearReceipts(r.dev.now(), p, q, wanted)
	}
	return nil
}

func (r *simStay) noteHeads(from int, h *wire.RoomFrame_Heads) {
	if r.w.trace == nil {
		return
	}
	for _, pos := range h.GetFeeds() {
		next := uint64(0)
		if f := r.st.journal.feeds[FeedTag(pos.Feed)]; f != nil {
			next = f.next
		}
		sure := "from"
		if pos.Unsure {
			sure = "perhaps from"
		}
		r.w.note("%d hears from %d of feed %d through %d, for it %s %d; it is at %d", r.dev.i, from, r.w.feeds[FeedTag(pos.Feed)].number(), pos.Last, sure, pos.First, next)
	}
}
