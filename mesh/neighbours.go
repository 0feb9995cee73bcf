package mesh

import (
	"encoding/hex"
	"errors"
	"maps"
	"math/rand/v2"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/internal/wire"
)

// neighbour is what a room knows of a directly connected peer that is subscribed to its topic.
type neighbour struct {
	inquiry
	met    time.Time     // since when it has been a neighbour
	agreed bool          // it has answered our greeting with its roster
	acked  uint64        // how much of this node's own feed it has
	news   bool          // the roster that it is sending has something new
	slack  time.Duration // how much more than transitSlack a question to it may take on its way
	pulled bool          // it is being asked for broadcasts
	// doubted says that GossipSub no longer knows its subscription, and that it was asked whether
	// it is still in the room.
	doubted bool
	early   []early // receipts of envelopes that have not come here yet
}

const (
	// digestEvery is how often a member compares its roster with a random neighbour's when nothing
	// happens.
	digestEvery = 10 * time.Second
	// rumourDelay is how soon it compares after a change, and rumourPeers with how many: gossip
	// tells everybody who comes and goes, but loses what is said while the topic mesh forms. The
	// delay is doubled at random, and gathers the changes of a whole room that joins at once: with
	// 150 ms, two halves of 20 members need 7 % more frames to come together, and no less time.
	rumourDelay = 250 * time.Millisecond
	rumourPeers = 3
	// rumourBridges is how many of these are new neighbours, for bridgeTime: a new one may be the
	// only way into another part of the room.
	rumourBridges = 2
	bridgeTime    = 10 * time.Second
	// seekEvery is how often neighbours are asked where a feed begins, until one of them is sure.
	seekEvery = 500 * time.Millisecond
)

var (
	errBadTag = errors.New("room tag of the wrong length")
)

// peerLoop greets peers that subscribe, and forgets those that no longer do.
func (r *Room) peerLoop() {
	for {
		ev, err := r.peers.NextPeerEvent(r.ctx)
		if err != nil {
			return
		}
		r.mu.Lock()
		switch ev.Type {
		case pubsub.PeerJoin:
			r.mesh.topics.found(ev.Peer, topicName(r.tag))
			r.roster.subscribed(time.Now(), ev.Peer)
			delete(r.unsubscribed, ev.Peer)
			delete(r.newcomers, ev.Peer)
			r.adoptLocked(ev.Peer)
			r.askLocked(time.Now(), ev.Peer, true)
		case pubsub.PeerLeave:
			n, s := r.neighbours[ev.Peer], r.roster.devices[ev.Peer]
			if n != nil && s != nil && s.present && r.mesh.host.Network().Connectedness(ev.Peer) == network.Connected {
				// It has not said goodbye: GossipSub has forgotten its subscription with an old
				// connection, or the goodbye was lost. Its answer shows which.
				n.doubted = true
				r.queryLocked(ev.Peer)
			} else {
				r.goneLocked(ev.Peer)
			}
		}
		r.broadcastLocked()
		r.mu.Unlock()
	}
}

// adoptLocked makes a peer that is in the room a neighbour.
func (r *Room) adoptLocked(p peer.ID) {
	if n := r.neighbours[p]; n != nil {
		n.doubted = false
	} else {
		now := time.Now()
		r.neighbours[p] = &neighbour{met: now}
		r.parted.back(now, p)
		r.roster.bridged(now)
		r.journal.retry(now)
		r.armTimer()
	}
	r.mesh.host.ConnManager().Protect(p, r.protection())
}

// meetingLocked reports whether a member was met less than meetWait ago who may know more of
// another than is known here: not that one itself, unless others are missing who may come next.
func (r *Room) meetingLocked(now time.Time, about peer.ID) bool {
	for p, n := range r.neighbours {
		if now.Sub(n.met) >= meetWait || p == about && !r.apartLocked(now, about) {
			continue
		}
		if s := r.roster.devices[p]; s != nil && s.present {
			return true
		}
	}
	return false
}

// apartLocked reports whether a member other than that one has parted lately, and has not said
// goodbye. It may have what nobody else here has.
func (r *Room) apartLocked(now time.Time, but peer.ID) bool {
	return r.parted.lately(now, func(p peer.ID) bool {
		s := r.roster.devices[p]
		return p != but && s != nil && (s.present || s.reason == Dropped)
	})
}

// dismissLocked forgets a neighbour that is no longer in the room, or not connected.
func (r *Room) dismissLocked(p peer.ID) {
	now := time.Now()
	delete(r.neighbours, p)
	delete(r.unsubscribed, p)
	if s := r.roster.devices[p]; s != nil && s.present {
		r.parted.left(now, p)
	}
	r.journal.left(now, p)
	r.window.forget(p)
	r.signalMoved()
	r.mesh.host.ConnManager().Unprotect(p, r.protection())
}

// goneLocked notes that a neighbour has left the room and that no goodbye has come.
func (r *Room) goneLocked(p peer.ID) {
	r.dismissLocked(p)
	r.roster.unsubscribed(time.Now(), p)
	r.armTimer()
}

// subscribeWait is how long after a member's greeting GossipSub may take to report its
// subscription, before GossipSub is taken to have forgotten it.
const subscribeWait = time.Second

// subscribeLocked tells GossipSub about neighbours whose subscription it has not reported, and
// returns when to look again.
func (r *Room) subscribeLocked(now time.Time) (due time.Time) {
	for p, since := range r.unsubscribed {
		if at := since.Add(subscribeWait); now.Before(at) {
			due = earlier(due, at)
			continue
		}
		delete(r.unsubscribed, p)
		r.mesh.topics.lose(p, topicName(r.tag))
	}
	return due
}

// protection returns the tag under which the connection manager keeps neighbours of this room.
func (r *Room) protection() string { return "starling/room/" + hex.EncodeToString(r.tag[:8]) }

// headsLocked asks a neighbour where a feed begins: it has brought an item of one that has no
// baseline here.
func (r *Room) headsLocked(now time.Time, p peer.ID) {
	if n := r.neighbours[p]; n != nil {
		n.wonder()
		r.inquireLocked(now)
	}
}

// seekLocked asks some neighbours where feeds without a baseline here begin, since those that were
// asked first may not have known.
func (r *Room) seekLocked(now time.Time) {
	if !r.journal.seek(now) {
		return
	}
	peers := rumourPeers
	for _, n := range r.neighbours { // in random order
		if peers--; peers < 0 {
			return
		}
		n.wonder()
	}
}

// inquireLocked greets the neighbours that are due, and arms the timer for the others.
func (r *Room) inquireLocked(now time.Time) {
	if due := r.inquiriesLocked(now); !due.IsZero() {
		r.armTimer()
	}
}

// inquiriesLocked greets the neighbours that are due, and returns when to look again.
func (r *Room) inquiriesLocked(now time.Time) time.Time {
	greet, due := r.neighbours.next(now, maps.Keys(r.neighbours), maxAsking)
	for _, p := range greet {
		r.greetLocked(p, r.neighbours[p].want)
	}
	return due
}

// compareLocked sends neighbours our digests when it is time to. A neighbour with other digests
// asks, and we ask when it says that its own differ.
func (r *Room) compareLocked(now time.Time) {
	if r.rumour {
		r.rumour = false
		r.nextDigest = earlier(r.nextDigest, now.Add(rumourDelay+rand.N(rumourDelay)))
		r.widen = true
	}
	if now.Before(r.nextDigest) {
		return
	}
	peers, bridges := 1, 0
	if r.widen {
		r.widen, peers, bridges = false, rumourPeers, rumourBridges
	}
	r.nextDigest = now.Add(digestEvery + rand.N(digestEvery/2))
	var others []peer.ID
	for p, n := range r.neighbours { // in random order
		switch {
		case bridges > 0 && now.Sub(n.met) < bridgeTime:
			bridges--
			peers--
			r.greetLocked(p, compare)
		case len(others) < rumourPeers:
			others = append(others, p)
		}
	}
	for _, p := range others[:min(len(others), peers)] {
		r.greetLocked(p, compare)
	}
}

// askAround asks every connected peer whether it is in the room: GossipSub reports subscriptions,
// but not when it has reported all.
func (r *Room) askAround() {
	peers := r.mesh.host.Network().Peers()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range peers {
		if n := r.neighbours[p]; r.mesh.isMute(p) || n != nil && n.agreed {
			continue
		}
		r.waiting[p] = struct{}{}
		r.queryLocked(p)
	}
}

func (r *Room) queryLocked(p peer.ID) {
	r.mesh.tell(p, &wire.RoomFrame{Room: r.tag[:], Body: &wire.RoomFrame_Query_{Query: &wire.RoomFrame_Query{}}})
}

// answered notes that a peer is not in the room, or cannot be.
func (r *Room) answered(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, p)
	if n := r.neighbours[p]; n != nil && n.doubted {
		r.goneLocked(p)
	}
	r.broadcastLocked()
}

// hearQuery greets a peer that asks, unless GossipSub has yet to report its subscription: then the
// peer is greeted at that time.
func (r *Room) hearQuery(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.neighbours[p] != nil {
		r.greetLocked(p, compare)
	}
}

// hear takes a frame from a peer. An error is a breach of the protocol.
func (r *Room) hear(p peer.ID, frame *wire.RoomFrame) error {
	switch body := frame.Body.(type) {
	case *wire.RoomFrame_Greeting_:
		return r.hearGreeting(p, body.Greeting)
	case *wire.RoomFrame_Roster_:
		return r.hearRoster(p, body.Roster)
	case *wire.RoomFrame_Heads_:
		return r.hearHeads(p, body.Heads)
	case *wire.RoomFrame_Query_:
		r.hearQuery(p)
		return nil
	case *wire.RoomFrame_Receipts_:
		return r.hearReceipts(p, body.Receipts)
	case *wire.RoomFrame_Absent_:
		r.answered(p)
		return nil
	default:
		return nil // from a later version
	}
}

// connected and disconnected are called for notices of the host's network.
func (r *Room) connected(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.roster.reconnected(time.Now(), p)
	if s := r.roster.devices[p]; s != nil && s.present {
		r.greetLocked(p, ask) // GossipSub reports its subscription later
	}
	r.armTimer()
}

func (r *Room) disconnected(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, p)
	delete(r.newcomers, p)
	if r.neighbours[p] != nil {
		r.dismissLocked(p)
	}
	r.broadcastLocked()
	r.roster.lost(time.Now(), p)
	r.armTimer()
}

// learnAddrs remembers the addresses at which a member says that it listens, for messages to it
// alone.
func (m *Mesh) learnAddrs(e *rosterEntry) {
	addrs := make([]ma.Multiaddr, 0, len(e.addrs))
	for _, raw := range e.addrs {
		if a, err := ma.NewMultiaddrBytes(raw); err == nil {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) > 0 && e.statement.Peer != m.host.ID() {
		m.host.Peerstore().AddAddrs(e.statement.Peer, addrs, peerstore.RecentlyConnectedAddrTTL)
	}
}
