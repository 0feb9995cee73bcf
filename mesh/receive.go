package mesh

import (
	"context"
	"errors"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// validate is GossipSub's first validator, for all rooms: it judges an envelope, and delivers it at
// once. What GossipSub does with it then is for others. It rejects only what every member must
// judge alike from the bytes, since a rejection counts against the peer that forwarded the
// envelope.
func (m *Mesh) validate(_ context.Context, from peer.ID, msg *pubsub.Message) pubsub.ValidationResult {
	if from == m.host.ID() {
		return pubsub.ValidationAccept // just sealed here
	}
	r := m.roomByTopic(msg.GetTopic())
	if r == nil {
		return pubsub.ValidationIgnore // left just now
	}
	e, err := r.openEnvelope(msg.GetData())
	if err != nil {
		m.log.Debug("envelope refused", "room", r.name, "peer", from, "err", err)
		return pubsub.ValidationReject
	}
	m.pulses.heard(from, time.Now(), false)
	r.receive(from, e, gossiped)
	msg.ValidatorData = e
	return pubsub.ValidationAccept
}

// echoLoop notes which of this node's own envelopes GossipSub's loop has taken.
func (r *Room) echoLoop() {
	for {
		msg, err := r.sub.Next(r.ctx)
		if err != nil {
			return
		}
		if own, ok := msg.ValidatorData.(ownEnvelope); ok {
			r.mu.Lock()
			r.echoed = uint64(own)
			r.broadcastLocked()
			r.mu.Unlock()
		}
	}
}

// way is how an envelope came.
type way uint8

const (
	gossiped way = iota
	repaired     // a neighbour was asked for it
)

// maxGossipAge is how old an envelope that came by gossip can be: GossipSub hands out what it
// received in the last 5 heartbeats.
const maxGossipAge = 6 * time.Second

// receive brings an envelope to its feed, or parks it until its sender is known.
func (r *Room) receive(via peer.ID, e *envelope, how way) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaving || e.tag == r.journal.self {
		return
	}
	e.via, e.how = via, how
	if how == gossiped {
		r.mesh.stats.envelopesTaken.Add(1)
	}
	if e.First == 1 && e.Scheme == 0 {
		r.introducedLocked(now, e)
	}
	f := r.journal.feeds[e.tag]
	if f == nil || f.entry == nil {
		if dropped := r.parked.add(now, e); dropped > 0 {
			r.mesh.stats.envelopesUnclaimed.Add(uint64(dropped))
		}
		r.armTimer()
		r.askLocked(now, via, false)
		return
	}
	switch s := r.roster.devices[e.peer]; {
	case s == nil:
	case how == gossiped:
		s.arrived(e, now, e.Next() > f.next)
	default:
		s.transit.fetched(time.UnixMilli(e.SentMs), e.came)
	}
	r.feedLocked(now, via, f, e, how)
}

// introducedLocked takes the roster entry that begins a feed.
func (r *Room) introducedLocked(now time.Time, e *envelope) {
	kind, payload, _, err := wire.NextItem(e.Content)
	if err != nil || kind != wire.Kind_KIND_ROSTER {
		return
	}
	entry, err := r.openOwnEntry(now, e, payload)
	if err != nil {
		r.mesh.stats.roomViolations.Add(1)
		r.mesh.log.Debug("roster entry refused", "room", r.name, "peer", e.peer, "err", err)
		return
	}
	r.applyLocked(now, entry)
}

var (
	errOthersEntry    = errors.New("roster entry of another device or feed")
	errOthersEnvelope = errors.New("envelope of another place")
)

// openOwnEntry opens an entry that a feed carries, which must be the one of the feed's own sender.
func (r *Room) openOwnEntry(now time.Time, e *envelope, sealed []byte) (*rosterEntry, error) {
	entry, err := r.door.open(sealed, now)
	if err != nil {
		return nil, err
	}
	if entry.statement.Device != e.device || entry.feed != e.feed {
		return nil, errOthersEntry
	}
	return entry, nil
}

// applyLocked takes a verified entry into the roster, tells the app, and delivers what waited for
// it.
func (r *Room) applyLocked(now time.Time, entry *rosterEntry) *seat {
	return r.takeLocked(now, entry, r.roster.apply)
}

func (r *Room) takeLocked(now time.Time, entry *rosterEntry, take func(time.Time, *rosterEntry) (*seat, change)) *seat {
	s, c := take(now, entry)
	if c == displaced {
		r.leaving = true
		r.replacedLocked(entry.statement.Login())
		return s
	}
	for _, pushed := range r.roster.pushed {
		r.noteLocked(pushed, left)
	}
	r.roster.pushed = nil
	r.noteLocked(s, c)
	if c == left {
		r.comeLocked(now, s)
	}
	if c != outdated {
		r.mesh.learnAddrs(entry)
		r.mesh.observe(entry.statement)
	}
	if s != nil && s.coming != nil {
		r.armTimer()
	}
	return s
}

// comeLocked lets a member begin its next stay, if that has been waiting.
func (r *Room) comeLocked(now time.Time, s *seat) {
	if c, ok := r.roster.came(now, s); ok {
		r.noteLocked(s, c)
		r.claimLocked(now, s)
	}
}

// noteLocked reports a change in the roster to the app and to those that wait for one.
func (r *Room) noteLocked(s *seat, c change) {
	switch c {
	case joined:
		r.tellLocked(&MemberJoined{Header{Type: TypeMemberJoined}, s.public()})
		r.expectLocked(s.Peer)
	case left:
		delete(r.newcomers, s.Peer)
		r.tellLocked(&MemberLeft{Header{Type: TypeMemberLeft}, s.public(), s.reason})
	case renewed:
		r.expectLocked(s.Peer)
	default:
		return
	}
	r.rumour = true
	r.confirms.moved = true
	r.armTimer()
	r.broadcastLocked()
}

// closeRoom is up to how many members a room's members are assumed to be all connected to each
// other.
const closeRoom = 16

// expectLocked makes broadcasts wait for a member that is about to become a neighbour.
func (r *Room) expectLocked(p peer.ID) {
	if r.neighbours[p] != nil || p == r.mesh.host.ID() {
		return
	}
	if r.roster.present <= closeRoom || r.mesh.host.Network().Connectedness(p) == network.Connected {
		r.newcomers[p] = time.Now()
	}
}

func (r *Room) broadcastLocked() {
	r.changed.Tell()
}

// claimLocked delivers what was parked for a seat that is now known. A member that is known only by
// its goodbye delivers nothing.
func (r *Room) claimLocked(now time.Time, s *seat) {
	if s.feed.entry == nil {
		return
	}
	mine := r.parked.claim(s.Peer, s.entry.feed)
	for _, e := range mine {
		if e.how == gossiped {
			s.arrived(e, e.parked, e.Next() > s.feed.next)
		} else {
			s.transit.fetched(time.UnixMilli(e.SentMs), e.came)
		}
	}
	for _, e := range mine {
		r.feedLocked(now, e.via, s.feed, e, e.how)
	}
}

// feedLocked delivers what e makes ready.
func (r *Room) feedLocked(now time.Time, via peer.ID, f *feed, e *envelope, how way) {
	if r.door.holds(f.entry, now) != nil && !f.witnessed(e) {
		r.mesh.stats.envelopesLapsed.Add(1)
		return
	}
	if (f.next == 0 || via != f.peer() && f.untouched()) && time.UnixMilli(e.SentMs).Before(r.oldest(now)) {
		// A replay: with no baseline, or one that only others have stated, only its time shows it.
		r.mesh.stats.envelopesStale.Add(1)
		r.passOverLocked(now, f, e)
		return
	}
	if r.journal.early(f, e) {
		r.passOverLocked(now, f, e)
		return
	}
	if how == gossiped && now.Sub(r.since) < maxUnderWay && r.journal.uncertain(f, via, e, r.roster.devices[e.peer]) {
		r.noteLocked(r.roster.spoke(now, e.peer))
		r.journal.promised(now, via, f, e)
		r.armTimer()
		return
	}
	ready, v := r.journal.take(now, via, f, e)
	switch v {
	case stale:
		r.mesh.stats.envelopesStale.Add(1)
		return
	case full:
		r.mesh.stats.envelopesSetBack.Add(1)
	}
	if how == gossiped {
		r.noteLocked(r.roster.spoke(now, e.peer))
	} else if s := r.roster.devices[e.peer]; s != nil && s.feed == f {
		r.noteLocked(s, r.roster.showed(now, e.came, s))
	}
	r.acknowledgeLocked(now, f, e.Count == 1)
	if v == taken && len(ready) == 0 && e.Count == 1 {
		r.goodbyeLocked(now, e)
	}
	if f.next == 0 {
		r.headsLocked(now, via)
	}
	if e.Receipts != nil {
		r.carryLocked(now, f, e)
	}
	r.readyLocked(now, f, ready, v)
}

// passOverLocked passes over an envelope from before this node's time. If it is a goodbye, that
// counts.
func (r *Room) passOverLocked(now time.Time, f *feed, e *envelope) {
	ready, v := r.journal.skip(now, f, e)
	r.readyLocked(now, f, ready, v)
	if e.Count == 1 {
		r.goodbyeLocked(now, e)
	}
}

// goodbyeLocked checks whether an envelope that is not delivered is a goodbye: that counts even if
// the gap before it never closes.
func (r *Room) goodbyeLocked(now time.Time, e *envelope) {
	if e.Scheme != 0 {
		return
	}
	kind, payload, _, err := wire.NextItem(e.Content)
	if err != nil || kind != wire.Kind_KIND_ROSTER {
		return
	}
	if entry, err := r.openOwnEntry(now, e, payload); err == nil && !entry.joined {
		r.hearsayLocked(now, e.via, entry)
	}
}

// hearsayLocked takes a verified entry that a peer has passed on.
func (r *Room) hearsayLocked(now time.Time, via peer.ID, entry *rosterEntry) *seat {
	met := time.Time{}
	if n := r.neighbours[via]; n != nil {
		met = n.met
	}
	return r.takeLocked(now, entry, func(now time.Time, e *rosterEntry) (*seat, change) { return r.roster.hearsay(now, e, met) })
}

// oldest returns when an envelope may have been sent at the earliest, by any member's clock, for
// this node to want it: in its stay and the past that it asked for, and not before what anybody
// retains.
func (r *Room) oldest(now time.Time) time.Time {
	t := now.Add(-r.mesh.cfg.retention.Age)
	if since := r.since.Add(-r.past.age); !r.past.all && r.past.count == 0 && since.After(t) {
		t = since
	}
	return t.Add(-identity.MaxSkew)
}

// arrivedLocked takes what a feed has ready after time has passed.
func (r *Room) arrivedLocked(now time.Time, a arrival) {
	if a.lost.last > 0 {
		r.lostLocked(a.feed, a.lost)
	}
	r.readyLocked(now, a.feed, a.ready, a.verdict)
}

// readyLocked takes what a feed delivers.
func (r *Room) readyLocked(now time.Time, f *feed, ready []*envelope, v verdict) {
	r.deliverLocked(now, f, ready)
	if v == forked {
		r.evictLocked(now, f)
	} else if len(ready) > 0 || len(f.held) > 0 {
		r.armTimer()
	}
}

// deliverLocked hands the items of envelopes to the app, in order.
func (r *Room) deliverLocked(now time.Time, f *feed, ready []*envelope) {
	if len(ready) == 0 {
		return
	}
	from := f.entry.statement.Login()
	own := from.Peer == r.mesh.host.ID() // of an earlier stay: it is kept for others
	over := !r.journal.history && r.journal.stays.over(f)
	old := !r.journal.history && r.journal.stays.old(f)
	var passed span // messages that would come after those of a later stay
	for _, e := range ready {
		whole := e.First >= f.floor
		if e.Scheme != 0 {
			// A later version sent it under a scheme that this one does not have.
			if lost := f.unseen(span{e.First, e.last()}); lost.last > 0 {
				r.lostLocked(f, lost)
			}
			continue
		}
		messages := make([]Message, 0, e.Count)
		sent := time.UnixMilli(e.SentMs)
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
				r.journal.stays.delivers(f)
				messages = append(messages, Message{
					Header: Header{Type: TypeMessage}, From: from, Data: payload, Sent: sent, Feed: e.feed, Number: number,
				})
				msg := &messages[len(messages)-1]
				if kind == wire.Kind_KIND_TEXT {
					msg.Kind = Text
				}
				dropped, queued := r.queue.PushBroadcast(msg, len(payload))
				r.mesh.stats.messagesMissed.Add(uint64(dropped))
				whole = whole && queued
			case wire.Kind_KIND_ROSTER:
				if e.stored {
					continue // the member that said so may have left since
				}
				if entry, err := r.openOwnEntry(now, e, payload); err == nil {
					f.ended = f.ended || !entry.joined
					r.applyLocked(now, entry)
				}
			case wire.Kind_KIND_SUSPICION:
				if number >= f.floor {
					r.accusedLocked(now, e, payload)
				}
			case wire.Kind_KIND_ASK:
				r.askedLocked(now, f, e, payload)
			}
		}
		if whole && e.Receipts != nil {
			r.confirmLocked(now, e)
		}
		r.mesh.stats.messagesTaken.Add(uint64(len(messages)))
	}
	if passed.last > 0 && !old {
		r.lostLocked(f, passed)
	}
}

func (r *Room) lostLocked(f *feed, lost span) {
	if f.peer() == r.mesh.host.ID() {
		return
	}
	r.mesh.stats.messagesLost.Add(lost.last - lost.first + 1)
	r.queue.PushNotice(&GapLost{Header{Type: TypeGapLost}, f.entry.statement.Login(), f.entry.feed, lost.first, lost.last})
}

// evictLocked evicts a member that has signed two different continuations of its feed: it said
// different things to different members.
func (r *Room) evictLocked(now time.Time, f *feed) {
	r.mesh.stats.forks.Add(1)
	r.mesh.log.Debug("member evicted: its feed forks", "room", r.name, "peer", f.entry.statement.Peer)
	if s := r.roster.devices[f.entry.statement.Peer]; s != nil && s.feed == f {
		r.noteLocked(s, r.roster.leave(now, s, Evicted))
	}
}

const (
	// lookEvery is how often a room checks what is due, at most, since much that comes makes it
	// check. mindEvery is how often it checks every member, for which times are in seconds.
	lookEvery = time.Millisecond
	mindEvery = 25 * time.Millisecond
)

// renewCheck is how often a room checks whether the node's statement has been signed again.
// Statements live a day.
const renewCheck = time.Minute
