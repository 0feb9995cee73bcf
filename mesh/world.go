package mesh

import (
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// world is what a room's stay sees of its node. The stay calls it with the room's lock held.
type world Room

func (w *world) Tell(p peer.ID, frame *wire.RoomFrame) { w.mesh.tell(p, frame) }

func (w *world) Allow(p peer.ID, bytes int) bool {
	return w.mesh.links.budget(p).rosters.AllowN(w.mesh.clock.Now(), min(bytes, rosterBurst))
}

func (w *world) Say(kind wire.Kind, payload []byte) { w.outbox.push(kind, payload) }

func (w *world) AskReceipts(payload []byte) bool {
	_, full, _ := w.outbox.tryAdd(wire.Kind_KIND_ASK, payload, wire.ItemSize(wire.Kind_KIND_ASK, len(payload)), noID, nil)
	return full == nil
}

func (w *world) Deliver(from identity.Login, e *stay.Envelope, list []stay.Item) (whole bool) {
	whole = true
	if w.mesh.cfg.rates.Room > 0 && e.Fresh(w.mesh.clock.Now()) {
		w.outbox.heard(len(list))
	}
	sent := time.UnixMilli(e.SentMs)
	messages := make([]Message, len(list))
	for i, item := range list {
		msg := &messages[i]
		*msg = Message{Header: Header{Type: TypeMessage}, From: from, Data: item.Data, Sent: sent, Feed: FeedID(e.Feed), Number: item.Number}
		if item.Kind == wire.Kind_KIND_TEXT {
			msg.Kind = Text
		}
		dropped, queued := w.queue.PushBroadcast(msg, len(item.Data))
		w.mesh.stats.messagesMissed.Add(uint64(dropped))
		whole = whole && queued
	}
	return whole
}

func (w *world) Notice(n stay.Notice) {
	r := (*Room)(w)
	switch n := n.(type) {
	case stay.Delayed:
		r.queue.PushNotice(&JoinDelayed{Header{Type: TypeJoinDelayed}, n.Neighbours})
	case stay.Ready:
		ev := &RoomReady{Header{Type: TypeRoomReady}, FirstJoin, w.mesh.clock.Since(w.called)}
		if n.Again {
			ev.Join, ev.Elapsed = Rejoin, n.Elapsed
		}
		r.queue.PushNotice(ev)
	case stay.Silent:
		r.queue.PushNotice(&MemberSilent{Header{Type: TypeMemberSilent}, Member(n.Member)})
	case stay.Heard:
		r.queue.PushNotice(&MemberHeard{Header{Type: TypeMemberHeard}, Member(n.Member)})
	case stay.Joined:
		r.queue.PushNotice(&MemberJoined{Header{Type: TypeMemberJoined}, Member(n.Member)})
	case stay.Left:
		r.queue.PushNotice(&MemberLeft{Header{Type: TypeMemberLeft}, Member(n.Member), LeaveReason(n.Reason)})
	case stay.Size:
		if rate := w.mesh.cfg.rates; n.Large {
			r.outbox.holdRoom(rate.LargeRoom)
		} else {
			r.outbox.holdRoom(rate.Room)
		}
		r.queue.PushNotice(&RoomSize{Header{Type: TypeRoomSize}, n.Members, n.Large})
	case stay.Lost:
		r.queue.PushNotice(&GapLost{Header{Type: TypeGapLost}, n.From, FeedID(n.Feed), n.First, n.Last})
	case stay.Expiring:
		r.queue.PushNotice(&TokenExpiring{Header{Type: TypeTokenExpiring}, n.At})
	case stay.Replaced:
		r.mesh.log.Info("replaced in a room", "room", r.name, "peer", n.By.Peer)
		w.endSoon(ErrReplaced)
	case stay.Lapsed:
		w.endSoon(n.Err)
	case stay.PutOut:
		r.mesh.log.Info("put out of a room", "room", r.name, "order", n.Order.Kind.String(), "by", n.Order.By)
		w.endSoon(putOut(n.Order))
	default:
		panic(fmt.Sprintf("mesh: notice %T", n))
	}
}

// endSoon ends the stay, when its lock is free.
func (w *world) endSoon(why error) {
	w.why = why
	if end := func() { (*Room)(w).end(why) }; !w.mesh.tasks.Go(end) {
		go end() // the mesh closes, and waits for it
	}
}

func (w *world) Pull(p stay.Pull) { w.mesh.tasks.Go(func() { (*Room)(w).pull(p) }) }

func (w *world) Rehear(p peer.ID, frame *wire.RoomFrame_Receipts) {
	w.mesh.tasks.Go(func() {
		if err := (*Room)(w).hearReceipts(p, frame); err != nil {
			w.mesh.violation(p, err)
		}
	})
}

func (w *world) Refute() { w.mesh.tasks.Go((*Room)(w).refute) }

func (w *world) Link(p peer.ID) stay.Link {
	switch w.mesh.host.Network().Connectedness(p) {
	case network.NotConnected:
		return stay.Apart
	case network.Connected:
		return stay.Linked
	}
	return stay.Limited
}

func (w *world) Spoke(p peer.ID) time.Time { return w.mesh.pulses.spokeAt(p) }

func (w *world) Keep(p peer.ID, keep bool) {
	if tag := protection(w.tag); keep {
		w.mesh.host.ConnManager().Protect(p, tag)
	} else {
		w.mesh.host.ConnManager().Unprotect(p, tag)
	}
}

// protection returns the tag under which the connection manager keeps the neighbours in a room.
func protection(room [32]byte) string { return "starling/room/" + hex.EncodeToString(room[:8]) }

func (w *world) Bar(p peer.ID, barred bool) {
	w.mesh.gate.bar(p, topicName(w.tag), barred)
	if barred {
		w.mesh.tasks.Go(func() { w.mesh.withdraw(p, w.tag) })
	}
}

func (w *world) Identify(p peer.ID) {
	r := (*Room)(w)
	w.mesh.tasks.Go(func() {
		user := ""
		if session, err := r.mesh.who.Peer(r.ctx, p); err == nil && session.Statement != nil {
			user = session.Statement.User
		}
		r.do(func(st *stay.Stay, now time.Time) { st.Proved(now, p, user) })
	})
}

func (w *world) Unreported(p peer.ID) { w.mesh.topics.lose(p, topicName(w.tag)) }

func (w *world) Know(e *stay.Entry) {
	w.mesh.learnAddrs(e)
	w.mesh.observe(e.Statement)
}

// learnAddrs remembers the addresses at which a member says that it listens, for messages to it
// alone.
func (m *Mesh) learnAddrs(e *stay.Entry) {
	addrs := make([]ma.Multiaddr, 0, len(e.Addrs))
	for _, raw := range e.Addrs {
		if a, err := ma.NewMultiaddrBytes(raw); err == nil {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) > 0 && e.Statement.Peer != m.host.ID() {
		m.host.Peerstore().AddAddrs(e.Statement.Peer, addrs, peerstore.RecentlyConnectedAddrTTL)
	}
}

func (w *world) Ended(last uint64, acked int) {
	for len(w.unacked) > 0 && w.unacked[0].last() <= last {
		b := w.unacked[0]
		w.unacked[0] = nil
		w.unacked = w.unacked[1:]
		b.acked = acked
		switch {
		case acked > 0, b.alone && !b.link() && w.stay.Present() <= 1:
			b.end(nil)
		default:
			silence := &sendError{outcome: ErrUnconfirmed, cause: fmt.Errorf("room %s: no neighbour has acknowledged it", w.name)}
			b.end(blame(silence, b.link))
		}
	}
}

func (w *world) Wake(who stay.Waiter) {
	switch who {
	case stay.ForTimer:
		w.rearm.Set()
	case stay.ForPublisher:
		w.acknowledged.Set()
	case stay.ForMembers:
		w.changed.Tell()
	case stay.ForStore:
		w.mesh.cfg.store.again()
	case stay.ForProgram:
		(*Room)(w).handUp()
	case stay.ForOrders:
		w.keep.Set()
	}
}

func (w *world) Count(c stay.Counter, n int) { w.mesh.stats.ofStay(c).Add(uint64(n)) }

// ofStay returns what counts something of a stay.
func (c *counters) ofStay(of stay.Counter) *atomic.Uint64 {
	switch of {
	case stay.CountMessagesTaken:
		return &c.messagesTaken
	case stay.CountMessagesLost:
		return &c.messagesLost
	case stay.CountEnvelopesTaken:
		return &c.envelopesTaken
	case stay.CountEnvelopesStale:
		return &c.envelopesStale
	case stay.CountEnvelopesLapsed:
		return &c.envelopesLapsed
	case stay.CountEnvelopesSetBack:
		return &c.envelopesSetBack
	case stay.CountEnvelopesUnclaimed:
		return &c.envelopesUnclaimed
	case stay.CountReceiptsTaken:
		return &c.receiptsTaken
	case stay.CountReceiptFramesSent:
		return &c.receiptFramesSent
	case stay.CountRoomFramesDropped:
		return &c.roomFramesDropped
	case stay.CountRoomViolations:
		return &c.roomViolations
	case stay.CountForks:
		return &c.forks
	case stay.CountRatesIgnored:
		return &c.ratesIgnored
	case stay.CountEnvelopesBarred:
		return &c.envelopesBarred
	case stay.CountSuspicions:
		return &c.suspicions
	case stay.CountRefutations:
		return &c.refutations
	case stay.CountPutOut:
		return &c.membersPutOut
	}
	panic(fmt.Sprintf("mesh: counter %d", of))
}
