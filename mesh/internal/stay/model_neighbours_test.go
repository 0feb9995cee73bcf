package stay

import (
	"bytes"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

// simAsking is how many neighbours are asked at a time: few, so that the limit has an effect.
const simAsking = 2

// peerEvent is one turn of peerLoop.
func (r *simRoom) peerEvent(p peer.ID, in bool) {
	if in {
		r.adopt(p)
		r.ask(r.w.now, p, true)
		return
	}
	n, s := r.neighbours[p], r.roster.devices[p]
	if n != nil && s != nil && s.present && r.w.connected(r.dev.i, simIndex(p)) {
		n.doubted = true
		r.w.tell(r.dev.i, simIndex(p), simQuery{})
	} else {
		r.dismiss(p)
	}
}

func (r *simRoom) adopt(p peer.ID) {
	if n := r.neighbours[p]; n != nil {
		n.doubted = false
		return
	}
	r.neighbours[p] = &neighbour{met: r.w.now}
	r.roster.bridged(r.w.now)
	r.journal.retry(r.w.now)
	r.arm()
}

// hearsay takes what a peer has passed on.
func (r *simRoom) hearsay(via peer.ID) func(time.Time, *Entry) (*seat, change) {
	met := time.Time{}
	if n := r.neighbours[via]; n != nil {
		met = n.met
	}
	return func(now time.Time, e *Entry) (*seat, change) { return r.roster.hearsay(now, e, met) }
}

func (r *simRoom) dismiss(p peer.ID) {
	delete(r.neighbours, p)
	r.journal.left(r.w.now, p)
}

func (r *simRoom) connected(p peer.ID) {
	r.roster.reconnected(r.w.now, p)
	if s := r.roster.devices[p]; s != nil && s.present {
		r.greet(p, ask)
	}
}

func (r *simRoom) disconnected(p peer.ID) {
	delete(r.waiting, p)
	if r.neighbours[p] != nil {
		r.dismiss(p)
	}
	r.roster.lost(r.w.now, p)
	r.arm()
	r.w.at(r.w.now, r.lookReady)
}

func (r *simRoom) absent(p peer.ID) {
	delete(r.waiting, p)
	if n := r.neighbours[p]; n != nil && n.doubted {
		r.dismiss(p)
	}
}

func (r *simRoom) greet(p peer.ID, why purpose) {
	if r.leaving {
		return
	}
	g := simGreeting{entry: r.own, digest: r.roster.sum(), heads: r.journal.sum(), why: why}
	if n := r.neighbours[p]; n != nil {
		n.greet(r.w.now, why)
	}
	if why == ask {
		g.known = r.roster.names()
	}
	if why != answer {
		g.past, g.joined, g.slack = r.past, r.w.now.Sub(r.since), r.slack(p)
	}
	r.w.tell(r.dev.i, simIndex(p), g)
}

func (r *simRoom) ask(now time.Time, p peer.ID, fresh bool) {
	if n := r.neighbours[p]; n != nil {
		n.inquire(now, fresh)
		r.inquiries(now)
		r.arm()
	}
}

func (r *simRoom) wonder(now time.Time, p peer.ID) {
	if n := r.neighbours[p]; n != nil {
		n.wonder()
		r.inquiries(now)
		r.arm()
	}
}

func (r *simRoom) seek(now time.Time) {
	if r.journal.seek(now) {
		ids := r.ids()
		for _, p := range ids[:min(rumourPeers, len(ids))] {
			r.neighbours[p].wonder()
		}
	}
}

func (r *simRoom) inquiries(now time.Time) time.Time {
	greet, due := r.neighbours.next(now, slices.Values(r.ids()), simAsking)
	for _, p := range greet {
		r.greet(p, r.neighbours[p].want)
	}
	return due
}

func (r *simRoom) compare(now time.Time) {
	if r.rumour {
		r.rumour = false
		r.nextDigest = earlier(r.nextDigest, now.Add(r.w.between(rumourDelay, 2*rumourDelay)))
		r.widen = true
	}
	if now.Before(r.nextDigest) {
		return
	}
	peers := 1
	if r.widen {
		r.widen, peers = false, rumourPeers
	}
	r.nextDigest = now.Add(r.w.between(digestEvery, digestEvery+digestEvery/2))
	for _, p := range r.ids() {
		if peers--; peers < 0 {
			return
		}
		r.greet(p, compare)
	}
}

func (r *simRoom) hearGreeting(p peer.ID, g simGreeting) {
	now := r.w.now
	if r.leaving {
		return
	}
	s := r.apply(now, g.entry)
	if s == nil {
		return
	}
	r.noted(r.roster.alive(now, p))
	if g.entry.Joined && r.w.connected(r.dev.i, simIndex(p)) {
		if n := r.neighbours[p]; n == nil || n.doubted {
			r.adopt(p)
		}
	}
	if s.Peer == p && s.entry.Feed == g.entry.Feed {
		r.claim(now, s)
	}
	if g.why != answer {
		r.answer(p, g)
	}
	if n := r.neighbours[p]; n != nil {
		switch n.hear(now, g.why != answer, string(g.digest) == string(r.roster.sum()), string(g.heads) == string(r.journal.sum())) {
		case ask:
			r.ask(now, p, false)
		case compare:
			r.greet(p, compare)
		}
	}
	r.arm()
}

func (r *simRoom) answer(p peer.ID, g simGreeting) {
	r.greet(p, answer)
	if string(g.heads) != string(r.journal.sum()) {
		asked := g.past.ask(g.joined, g.slack)
		age, count := pastAsked(asked)
		r.tellHeads(p, r.journal.positions(), asked.AgeMs, r.journal.firsts(r.w.now, age, count))
	}
	part := simRoster{last: true}
	if string(g.digest) != string(r.roster.sum()) {
		if g.why == compare {
			return
		}
		for _, s := range r.roster.unknown(p, g.known) {
			part.entries = append(part.entries, s.entry)
		}
		slices.SortFunc(part.entries, func(a, b *Entry) int { return simIndex(a.Statement.Peer) - simIndex(b.Statement.Peer) })
	}
	r.w.tell(r.dev.i, simIndex(p), part)
}

func (r *simRoom) hearRoster(p peer.ID, part simRoster) {
	now := r.w.now
	if r.neighbours[p] == nil {
		return
	}
	before := r.roster.sum()
	for _, entry := range part.entries {
		if r.leaving {
			return
		}
		s := r.take(now, entry, r.hearsay(p))
		if s != nil && s.entry.Feed == entry.Feed {
			r.claim(now, s)
		}
	}
	r.arm()
	if n := r.neighbours[p]; n != nil && part.last {
		n.agreed = true
		n.told(!bytes.Equal(before, r.roster.sum()))
		r.inquiries(now)
		delete(r.waiting, p)
	}
}

func (r *simRoom) tellHeads(p peer.ID, feeds []*Feed, ageMs uint64, firsts func(*Feed) (uint64, bool)) {
	if len(feeds) == 0 {
		return
	}
	list := make([]simPosition, len(feeds))
	for i, f := range feeds {
		list[i] = simPosition{tag: f.tag, last: f.reach(p)}
		if firsts != nil {
			first, sure := firsts(f)
			list[i].first, list[i].unsure, list[i].ageMs = min(first, list[i].last+1), !sure, ageMs
		}
	}
	r.w.tell(r.dev.i, simIndex(p), list)
}

func (r *simRoom) hearHeads(p peer.ID, list []simPosition) {
	now := r.w.now
	n := r.neighbours[p]
	if n == nil {
		return
	}
	for _, pos := range list {
		if pos.first > pos.last+1 {
			r.w.breach("%d tells malformed heads: from %d to %d", simIndex(p), pos.first, pos.last)
		}
	}
	late := r.late(n, list[0].ageMs)
	unknown := false
	for _, pos := range list {
		if pos.tag == r.journal.self {
			if pos.last <= r.head {
				n.acked = max(n.acked, pos.last)
			}
			continue
		}
		f := r.journal.feeds[pos.tag]
		switch {
		case f == nil:
			unknown = unknown || pos.first == 0
		case f.next == 0:
			unknown = true
		case f.peer() == p && f.position() >= pos.last:
			r.acknowledge(now, f, false)
		}
		if r.w.trace != nil {
			next := uint64(0)
			if f != nil {
				next = f.next
			}
			r.w.note("%d hears from %d of feed %d through %d, for it from %d; it is at %d", r.dev.i, simIndex(p), r.w.feeds[pos.tag].number(), pos.last, pos.first, next)
		}
		if a := r.journal.claim(now, p, pos.tag, pos.last, pos.first, !pos.unsure && !late); a.feed != nil {
			r.arrived(now, a)
		}
	}
	switch {
	case unknown && late && now.Sub(n.asked) >= lateAgain && now.Sub(n.compared) >= lateAgain:
		r.greet(p, compare)
	case unknown:
		r.ask(now, p, false)
	}
	r.arm()
}

func (r *simRoom) slack(p peer.ID) time.Duration {
	if n := r.neighbours[p]; n != nil {
		return TransitSlack + n.slack
	}
	return TransitSlack
}

func (r *simRoom) late(n *neighbour, ageMs uint64) bool {
	if ageMs == 0 || r.readyAt.IsZero() {
		return false
	}
	asked, _ := pastAsked(&wire.Past{AgeMs: ageMs})
	late := r.past.late(asked, r.w.now.Sub(r.since).Truncate(time.Millisecond), r.readyAt.Sub(r.since).Truncate(time.Millisecond))
	n.slack = min(max(n.slack, n.slack+2*late), maxTransitSlack)
	return late > 0
}

func (r *simRoom) acknowledge(now time.Time, f *Feed, single bool) {
	if r.neighbours[f.entry.Statement.Peer] == nil {
		return
	}
	if f.ack.owe(now, r.w.rng, len(r.neighbours), single) {
		r.tellAck(now, f)
	} else if _, ok := r.owing[f]; !ok {
		r.owing[f] = struct{}{}
		r.arm()
	}
}

func (r *simRoom) tellAck(now time.Time, f *Feed) {
	f.ack = ack{last: now}
	delete(r.owing, f)
	r.tellHeads(f.peer(), []*Feed{f}, 0, nil)
}

func (r *simRoom) payAcks(now time.Time) (due time.Time) {
	for _, f := range sortedFeeds(r.owing) {
		if !now.Before(f.ack.due) {
			r.tellAck(now, f)
		} else {
			due = earlier(due, f.ack.due)
		}
	}
	return due
}

func (r *simRoom) announce(now time.Time) {
	quiet := make(map[*Feed]struct{})
	for _, f := range r.journal.announce(now) {
		quiet[f] = struct{}{}
	}
	own := r.journal.feeds[r.journal.self]
	if _, ok := quiet[own]; ok {
		delete(quiet, own)
		r.remind = reminder{now, 0}
	}
	if due := r.remind.due(); !due.IsZero() && !now.Before(due) {
		r.remind.times++
		behind := 0
		for _, p := range r.ids() {
			if r.neighbours[p].acked < r.head {
				behind++
				r.tellHeads(p, []*Feed{own}, 0, nil)
			}
		}
		if behind == 0 {
			r.remind = reminder{}
		}
	}
	if len(quiet) == 0 {
		return
	}
	peers := announcePeers
	for _, p := range r.ids() {
		if peers--; peers < 0 {
			return
		}
		r.tellHeads(p, sortedFeeds(quiet), 0, nil)
	}
}

func sortedFeeds(set map[*Feed]struct{}) []*Feed {
	out := make([]*Feed, 0, len(set))
	for f := range set {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *Feed) int { return slices.Compare(a.tag[:], b.tag[:]) })
	return out
}
