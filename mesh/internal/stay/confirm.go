package stay

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

const (
	// FirstAsk and SecondAsk are how long after publishing an author asks again for receipts that
	// have not come; sooner if the deadline is near. A room of 200 in which everybody has 8
	// neighbours confirms within 1.2 s.
	FirstAsk  = 1500 * time.Millisecond
	SecondAsk = 4 * time.Second
	// soonestAsk is the shortest time to the first question, whatever the deadline. Members that
	// are all connected confirm in half of it.
	soonestAsk = 300 * time.Millisecond
	// LateReceipts is how long receipts of members that have left may still be under way.
	LateReceipts = 500 * time.Millisecond
)

// Asked is what is known of a broadcast for one member that was asked for a receipt.
type Asked struct {
	Member    identity.Login
	Delivered bool
	After     time.Duration // from publishing until the receipt came; 0: none has
}

// Poll is a broadcast whose receipts are awaited.
type Poll struct {
	deadline time.Time
	// end is called once, with how many neighbours have the broadcast, and what ended it early.
	end func(acked int, cause error)

	members map[identity.PublicKey]int // places in asked
	asked   []Asked
	open    int       // how many have not confirmed
	sentAt  time.Time // zero: it waits to be sealed
	last    uint64    // the last item of its envelope
	goneAt  time.Time // since when none of these is in the room; zero: one is
	ended   bool
}

// Ended reports whether nothing is awaited any more.
func (p *Poll) Ended() bool { return p.ended }

// Sent reports whether the broadcast has been sealed.
func (p *Poll) Sent() bool { return !p.sentAt.IsZero() }

// Last returns the last item of the broadcast's envelope.
func (p *Poll) Last() uint64 { return p.last }

// Asked returns what is known now. The caller owns the result.
func (p *Poll) Asked() []Asked { return slices.Clone(p.asked) }

// confirms is what a room's own confirmed broadcasts wait for.
type confirms struct {
	open   set[*Poll]
	sent   map[[sha256.Size]byte]*confirming // by the hash of the sealed envelope
	asking set[*confirming]                  // the same
	moved  bool                              // members have come or gone
	next   time.Time                         // when there is something to do; zero: nothing waits
}

func (c *confirms) init() {
	c.sent = make(map[[sha256.Size]byte]*confirming)
}

func (c *confirms) forget(s *confirming) {
	delete(c.sent, s.hash)
	c.asking.remove(s)
}

// confirming is an envelope whose receipts are awaited.
type confirming struct {
	last    uint64
	hash    [sha256.Size]byte
	pending []*Poll
	asks    []time.Time // when to ask again
}

// awaits reports whether a device's receipt would be news.
func (s *confirming) awaits(device identity.PublicKey) bool {
	return slices.ContainsFunc(s.pending, func(p *Poll) bool { return p.awaits(device) })
}

func (p *Poll) awaits(device identity.PublicKey) bool {
	i, asked := p.members[device]
	return asked && !p.ended && !p.asked[i].Delivered
}

// Poll returns a broadcast that is about to be accepted, and notes which members' receipts it waits
// for.
func (st *Stay) Poll(deadline time.Time, end func(acked int, cause error)) *Poll {
	p := &Poll{deadline: deadline, end: end, members: make(map[identity.PublicKey]int)}
	for _, s := range st.roster.members() {
		if s.Peer == st.Self {
			continue
		}
		p.members[s.entry.Statement.Device] = len(p.asked)
		p.asked = append(p.asked, Asked{Member: s.Login})
	}
	p.open = len(p.asked)
	return p
}

// Await makes the stay end a poll that was accepted.
func (st *Stay) Await(p *Poll) {
	if !p.ended {
		st.confirms.open.add(p)
		st.confirmSoon(p.deadline)
	}
}

// confirmSoon makes the timer loop look no later than at.
func (st *Stay) confirmSoon(at time.Time) {
	st.confirms.next = earlier(st.confirms.next, at)
	st.world.Wake(ForTimer)
}

// awaitReceipts notes that an envelope whose receipts are wanted was sealed.
func (st *Stay) awaitReceipts(now time.Time, h Head, polls []*Poll) {
	s := &confirming{last: h.Last, hash: h.hash, pending: polls}
	var left time.Duration
	for _, p := range polls {
		p.sentAt, p.last = now, h.Last
		left = max(left, p.deadline.Sub(now))
	}
	s.asks = []time.Time{now.Add(max(min(FirstAsk, left/4), soonestAsk)), now.Add(max(min(SecondAsk, left/2), 2*soonestAsk))}
	st.confirms.sent[h.hash] = s
	st.confirms.asking.add(s)
	st.confirms.moved = true // some may have left before
	st.confirmSoon(s.asks[0])
}

// confirmed takes receipts that have been verified.
func (st *Stay) confirmed(now time.Time, hash [sha256.Size]byte, receipts []*wire.Receipt) {
	s := st.confirms.sent[hash]
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
				st.world.Count(CountReceiptsTaken, 1) // before anybody is told
			}
			m := &p.asked[p.members[device]]
			m.Delivered, m.After = true, now.Sub(p.sentAt)
			if p.open--; p.open == 0 {
				st.EndPoll(p, nil)
			}
		}
	}
	s.pending = slices.DeleteFunc(s.pending, func(p *Poll) bool { return p.ended })
	for _, p := range s.pending {
		st.leftOver(now, p)
	}
	if len(s.pending) == 0 {
		st.confirms.forget(s)
	}
}

// confirmsDue ends what has waited long enough, asks again for receipts, and returns when there is
// something to do next.
func (st *Stay) confirmsDue(now time.Time) (due time.Time) {
	c := &st.confirms
	if !c.moved && (c.next.IsZero() || now.Before(c.next)) {
		return c.next
	}
	for p := range c.open.all() {
		if c.moved && !p.sentAt.IsZero() && !p.ended {
			st.leftOver(now, p)
		}
		if !p.ended && (!now.Before(p.deadline) || !p.goneAt.IsZero() && !now.Before(p.goneAt.Add(LateReceipts))) {
			st.EndPoll(p, nil)
		}
		if p.ended {
			continue
		}
		due = earlier(due, p.deadline)
		if !p.goneAt.IsZero() {
			due = earlier(due, p.goneAt.Add(LateReceipts))
		}
	}
	for s := range c.asking.all() {
		if !slices.ContainsFunc(s.pending, func(p *Poll) bool { return !p.ended }) {
			c.forget(s)
			continue
		}
		if len(s.asks) > 0 && !now.Before(s.asks[0]) {
			if st.askAgain(s) {
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

// leftOver notes whether there is still a member to wait for.
func (st *Stay) leftOver(now time.Time, p *Poll) {
	for _, m := range p.asked {
		if !m.Delivered && st.isPresent(m.Member) {
			p.goneAt = time.Time{}
			return
		}
	}
	if p.open == 0 {
		st.EndPoll(p, nil) // it was alone
	} else if p.goneAt.IsZero() {
		p.goneAt = now
		st.confirmSoon(now.Add(LateReceipts))
	}
}

func (st *Stay) isPresent(m identity.Login) bool {
	s := st.roster.devices[m.Peer]
	return s != nil && s.present && s.Login == m
}

// askAgain asks the whole room for the missing receipts, in an item of this node's feed: it reaches
// every member that the broadcast reaches, by a way of its own. It reports false when the outbox is
// full.
func (st *Stay) askAgain(s *confirming) bool {
	missing := make(map[deviceHint]struct{})
	for _, p := range s.pending {
		for device, i := range p.members {
			if m := p.asked[i]; p.awaits(device) && st.isPresent(m.Member) {
				missing[hint(device[:])] = struct{}{}
			}
		}
	}
	if len(missing) == 0 || st.leaving {
		return true
	}
	ask := &wire.ReceiptAsk{Envelope: s.hash[:]}
	for h := range missing {
		ask.Missing = append(ask.Missing, h[:])
	}
	if len(missing) > closeRoom && len(s.asks) > 1 { // the last time nobody is to stand in between
		ask.Collectors = st.collectors()
	}
	payload, err := proto.Marshal(ask)
	if err != nil {
		st.log.Error("receipts not asked for", "room", st.Room, "err", err)
		return true
	}
	return st.world.AskReceipts(payload)
}

// EndPoll ends a poll with what is known. cause is what ended the wait early, or nil; a deadline is
// not early.
func (st *Stay) EndPoll(p *Poll, cause error) {
	if p.ended {
		return
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		cause = nil
	}
	if cause == nil && p.sentAt.IsZero() {
		cause = fmt.Errorf("room %s: not sent yet: %w", st.Room, context.DeadlineExceeded)
	}
	p.ended = true
	st.confirms.open.remove(p)
	p.end(st.Ackers(p.last), cause)
}

// DropPoll ends a poll whose broadcast will never be sealed, and calls nobody. It reports false if
// the poll had ended.
func (st *Stay) DropPoll(p *Poll) bool {
	if p.ended {
		return false
	}
	p.ended = true
	st.confirms.open.remove(p)
	return true
}

// EndPolls ends all polls because the stay ends, if reason is not nil.
func (st *Stay) EndPolls(reason error) {
	if reason == nil {
		return
	}
	for p := range st.confirms.open.all() {
		st.EndPoll(p, reason)
	}
	for s := range st.confirms.asking.all() {
		for _, p := range s.pending {
			st.EndPoll(p, reason)
		}
	}
}
