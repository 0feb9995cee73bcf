package mesh

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// MaxConfirmed is how many members, this one included, a room may have for a confirmed broadcast.
const MaxConfirmed = 256

const (
	// firstAsk and secondAsk are how long after publishing an author asks again for receipts that
	// have not come; sooner if the deadline is near. A room of 200 in which everybody has 8
	// neighbours confirms within 1.2 s.
	firstAsk  = 1500 * time.Millisecond
	secondAsk = 4 * time.Second
	// soonestAsk is the shortest time to the first question, whatever the deadline. Members that
	// are all connected confirm in half of it.
	soonestAsk = 300 * time.Millisecond
	// lateReceipts is how long receipts of members that have left may still be under way.
	lateReceipts = 500 * time.Millisecond
)

// Confirmation reports what is known of a broadcast for each member.
type Confirmation struct {
	Published
	// Members are the other members that were in the room when the broadcast was accepted, in the
	// order of [Room.Members].
	Members []Confirmed
}

// Confirmed is what is known of a broadcast for one member.
type Confirmed struct {
	Member identity.Login
	// Delivered says that the member's node has put the message into its program's event queue, in
	// the order of the feed, and has signed that. False means unknown: the member may have it, now
	// or later. A program that reads too slowly may still lose a delivered message from that queue,
	// and then gets [Lagged].
	Delivered bool
	After     time.Duration // from publishing until the receipt arrived; 0 if unknown
}

// Unknown returns the members for which nothing is known.
func (c Confirmation) Unknown() (logins []identity.Login) {
	for _, m := range c.Members {
		if !m.Delivered {
			logins = append(logins, m.Member)
		}
	}
	return logins
}

// confirmation is an accepted confirmed broadcast, ended or not: what its [Pending] is about.
type confirmation struct {
	room        *Room
	publication publication // written before its batch is sealed
	deadline    time.Time
	done        chan struct{}

	// Guarded by the room's mutex.
	members map[identity.PublicKey]int // places in result.Members
	open    int                        // how many have not confirmed
	sentAt  time.Time                  // zero: it waits to be sealed
	goneAt  time.Time                  // since when none of these is in the room; zero: one is
	ended   bool
	result  Confirmation
	err     error
}

func (p *confirmation) over() <-chan struct{} { return p.done }

func (p *confirmation) settle(uint64, uint32) (Confirmation, error) { return p.result, p.err }

func (p *confirmation) cut(_ uint64, cause error) (Confirmation, error) {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if p.ended {
		return p.result, p.err
	}
	return p.snapshotLocked(), &sendError{ErrUnconfirmed, cause}
}

// confirms is what a room's own confirmed broadcasts wait for.
type confirms struct {
	open  map[*confirmation]struct{}
	sent  map[[sha256.Size]byte]*confirming // by the hash of the sealed envelope
	moved bool                              // members have come or gone
	next  time.Time                         // when there is something to do; zero: nothing waits
}

func (c *confirms) init() {
	c.open = make(map[*confirmation]struct{})
	c.sent = make(map[[sha256.Size]byte]*confirming)
}

// confirming is an envelope whose receipts are awaited.
type confirming struct {
	last    uint64
	pending []*confirmation
	asks    []time.Time // when to ask again
}

// awaits reports whether a device's receipt would be news.
func (s *confirming) awaits(device identity.PublicKey) bool {
	return slices.ContainsFunc(s.pending, func(p *confirmation) bool { return p.awaits(device) })
}

func (p *confirmation) awaits(device identity.PublicKey) bool {
	i, asked := p.members[device]
	return asked && !p.ended && !p.result.Members[i].Delivered
}

// PublishConfirmed is [Room.Publish], but waits for the receipts of all members in the room and
// reports for each member whether it has the message. It waits until ctx's deadline, or for the
// time of [WithSendTimeout] if ctx has none. It returns sooner if all members have confirmed, or if
// those that have not have left the room. Unknown members are not an error.
//
// Receipts are signed by each member's device, so that nobody on their way can invent one. In rooms
// of more than 16 members they are gathered on their way and reach this node in a few frames. One
// receipt is for everything in the message's envelope.
//
// In a room of more than [MaxConfirmed] members it returns a *[CrowdError], and nothing is sent.
// Other refusals are those of Publish. If ctx is cancelled, or the room ends first, it returns what
// is known and [ErrUnconfirmed]. It does so too if the message still waits to be sent at the
// deadline.
func (r *Room) PublishConfirmed(ctx context.Context, data []byte, opts ...PublishOption) (Confirmation, error) {
	p, err := r.confirm(ctx, data, opts)
	if err != nil {
		return Confirmation{}, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		r.mu.Lock()
		r.endConfirmLocked(p, ctx.Err())
		r.mu.Unlock()
	}
	<-p.done
	return p.result, p.err
}

// PublishConfirmedAsync is [Room.PublishConfirmed] for callers that pipeline: it returns when the
// message has been queued. Ctx bounds this call; only its deadline bounds the wait for receipts. A
// broadcast that has not ended takes some 100 bytes for each member. If ctx ends [Pending.Wait], it
// returns what is known so far, and the error is also [ErrUnconfirmed].
func (r *Room) PublishConfirmedAsync(ctx context.Context, data []byte, opts ...PublishOption) (Pending[Confirmation], error) {
	p, err := r.confirm(ctx, data, opts)
	if err != nil {
		return Pending[Confirmation]{}, err
	}
	return Pending[Confirmation]{id: p.publication.id, of: p}, nil
}

func (r *Room) confirm(ctx context.Context, data []byte, opts []PublishOption) (*confirmation, error) {
	var cfg publishConfig
	for _, o := range opts {
		o.applyPublish(&cfg)
	}
	if err := checkPayload(cfg.kind, data, r.mesh.cfg.maxMessage); err != nil {
		return nil, err
	}
	p := &confirmation{
		room: r, done: make(chan struct{}), deadline: time.Now().Add(r.mesh.cfg.sendTimeout), members: make(map[identity.PublicKey]int),
	}
	if t, ok := ctx.Deadline(); ok {
		p.deadline = t
	}
	if err := r.askMembers(p); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	if _, err := r.outbox.add(ctx, kindToWire(cfg.kind), data, r.mesh.nextID, accept{confirm: p}); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !p.ended {
		r.confirms.open[p] = struct{}{}
		r.confirmSoonLocked(p.deadline)
		r.endConfirmsLocked(r.why)
	}
	return p, nil
}

// askMembers notes which members' receipts p waits for.
func (r *Room) askMembers(p *confirmation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaving {
		return r.reasonLocked()
	}
	if n := r.roster.present; n > MaxConfirmed {
		return &CrowdError{n, MaxConfirmed}
	}
	for _, s := range r.roster.members() {
		if s.Peer == r.mesh.host.ID() {
			continue
		}
		p.members[s.entry.statement.Device] = len(p.result.Members)
		p.result.Members = append(p.result.Members, Confirmed{Member: s.Login})
	}
	p.open = len(p.result.Members)
	return nil
}

// confirmSoonLocked makes the timer loop look no later than at.
func (r *Room) confirmSoonLocked(at time.Time) {
	r.confirms.next = earlier(r.confirms.next, at)
	r.armTimer()
}

// awaitReceiptsLocked notes that a batch whose receipts are wanted was sealed.
func (r *Room) awaitReceiptsLocked(now time.Time, h head, b *batch) {
	s := &confirming{last: h.last, pending: b.confirm}
	var left time.Duration
	for _, p := range b.confirm {
		p.sentAt = now
		left = max(left, p.deadline.Sub(now))
	}
	s.asks = []time.Time{now.Add(max(min(firstAsk, left/4), soonestAsk)), now.Add(max(min(secondAsk, left/2), 2*soonestAsk))}
	r.confirms.sent[h.hash] = s
	r.confirms.moved = true // some may have left before
	r.confirmSoonLocked(s.asks[0])
	r.endConfirmsLocked(r.why)
}

// confirmedLocked takes receipts that have been verified.
func (r *Room) confirmedLocked(now time.Time, hash [sha256.Size]byte, receipts []*wire.Receipt) {
	s := r.confirms.sent[hash]
	if s == nil {
		return
	}
	for _, receipt := range receipts {
		device, fresh := identity.PublicKey(receipt.Device), false
		for _, p := range s.pending {
			if !p.awaits(device) {
				continue
			}
			if !fresh {
				fresh = true
				r.mesh.stats.receiptsTaken.Add(1) // before anybody is told
			}
			m := &p.result.Members[p.members[device]]
			m.Delivered, m.After = true, now.Sub(p.sentAt)
			if p.open--; p.open == 0 {
				r.endConfirmLocked(p, nil)
			}
		}
	}
	s.pending = slices.DeleteFunc(s.pending, func(p *confirmation) bool { return p.ended })
	for _, p := range s.pending {
		r.leftOverLocked(now, p)
	}
	if len(s.pending) == 0 {
		delete(r.confirms.sent, hash)
	}
}

// confirmsDueLocked ends what has waited long enough, asks again for receipts, and returns when
// there is something to do next.
func (r *Room) confirmsDueLocked(now time.Time) (due time.Time) {
	c := &r.confirms
	if !c.moved && (c.next.IsZero() || now.Before(c.next)) {
		return c.next
	}
	for p := range c.open {
		if c.moved && !p.sentAt.IsZero() && !p.ended {
			r.leftOverLocked(now, p)
		}
		if !p.ended && (!now.Before(p.deadline) || !p.goneAt.IsZero() && !now.Before(p.goneAt.Add(lateReceipts))) {
			r.endConfirmLocked(p, nil)
		}
		if p.ended {
			continue
		}
		due = earlier(due, p.deadline)
		if !p.goneAt.IsZero() {
			due = earlier(due, p.goneAt.Add(lateReceipts))
		}
	}
	for hash, s := range c.sent {
		if !slices.ContainsFunc(s.pending, func(p *confirmation) bool { return !p.ended }) {
			delete(c.sent, hash)
			continue
		}
		if len(s.asks) > 0 && !now.Before(s.asks[0]) {
			if r.askAgainLocked(hash, s) {
				s.asks = s.asks[1:]
			} else {
				s.asks[0] = now.Add(busyWait)
			}
		}
		if len(s.asks) > 0 {
			due = earlier(due, s.asks[0])
		}
	}
	c.moved, c.next = false, due
	return due
}

// leftOverLocked notes whether there is still a member to wait for.
func (r *Room) leftOverLocked(now time.Time, p *confirmation) {
	for _, m := range p.result.Members {
		if !m.Delivered && r.isPresentLocked(m.Member) {
			p.goneAt = time.Time{}
			return
		}
	}
	if p.open == 0 {
		r.endConfirmLocked(p, nil) // it was alone
	} else if p.goneAt.IsZero() {
		p.goneAt = now
		r.confirmSoonLocked(now.Add(lateReceipts))
	}
}

func (r *Room) isPresentLocked(m identity.Login) bool {
	s := r.roster.devices[m.Peer]
	return s != nil && s.present && s.Login == m
}

// askAgainLocked asks the whole room for the missing receipts, in an item of this node's feed: it
// reaches every member that the broadcast reaches, by a way of its own. It reports false when the
// outbox is full.
func (r *Room) askAgainLocked(hash [sha256.Size]byte, s *confirming) bool {
	missing := make(map[deviceHint]struct{})
	for _, p := range s.pending {
		for device, i := range p.members {
			if m := p.result.Members[i]; p.awaits(device) && r.isPresentLocked(m.Member) {
				missing[hint(device[:])] = struct{}{}
			}
		}
	}
	if len(missing) == 0 || r.leaving {
		return true
	}
	ask := &wire.ReceiptAsk{Envelope: hash[:]}
	for h := range missing {
		ask.Missing = append(ask.Missing, h[:])
	}
	if len(missing) > closeRoom && len(s.asks) > 1 { // the last time nobody is to stand in between
		ask.Collectors = r.collectorsLocked()
	}
	payload, err := proto.Marshal(ask)
	if err != nil {
		r.mesh.log.Error("receipts not asked for", "room", r.name, "err", err)
		return true
	}
	_, full, _ := r.outbox.tryAdd(wire.Kind_KIND_ASK, payload, wire.ItemSize(wire.Kind_KIND_ASK, len(payload)), noID, nil)
	return full == nil
}

// endConfirmLocked ends p with what is known. cause is what ended the wait early, or nil; a
// deadline is not early.
func (r *Room) endConfirmLocked(p *confirmation, cause error) {
	if p.ended {
		return
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		cause = nil
	}
	if cause == nil && p.sentAt.IsZero() {
		cause = fmt.Errorf("room %s: not sent yet: %w", r.name, context.DeadlineExceeded)
	}
	p.result = p.snapshotLocked()
	if cause != nil {
		p.err = &sendError{ErrUnconfirmed, cause}
	}
	p.ended = true
	close(p.done)
	delete(r.confirms.open, p)
}

// snapshotLocked returns what is known now.
func (p *confirmation) snapshotLocked() Confirmation {
	c := Confirmation{Published: Published{ID: p.publication.id}, Members: slices.Clone(p.result.Members)}
	if b := p.publication.batch; !p.sentAt.IsZero() {
		c.Feed, c.Number, c.Neighbours = b.feed, b.first+uint64(p.publication.index), b.neighbours
		c.Acked = p.room.ackersLocked(b.last())
	}
	return c
}

// fail ends a broadcast that was never sealed.
func (p *confirmation) fail(err error) {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if !p.ended {
		p.ended, p.err = true, err
		p.result = Confirmation{Published: Published{ID: p.publication.id}, Members: p.result.Members}
		close(p.done)
	}
}

// endConfirmsLocked ends all confirmed broadcasts because the stay ends, if reason is not nil.
func (r *Room) endConfirmsLocked(reason error) {
	if reason == nil {
		return
	}
	for p := range r.confirms.open {
		r.endConfirmLocked(p, reason)
	}
	for _, s := range r.confirms.sent {
		for _, p := range s.pending {
			r.endConfirmLocked(p, reason)
		}
	}
}
