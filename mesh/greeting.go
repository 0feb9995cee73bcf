package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

// rosterPart is how many bytes of entries travel in one frame.
const rosterPart = 32 << 10

// greetLocked tells a peer who we are in this room, and by digests what we know of it.
func (r *Room) greetLocked(p peer.ID, why purpose) {
	if r.leaving {
		return
	}
	g := &wire.RoomFrame_Greeting{Entry: r.own.sealed, Digest: r.roster.sum(), Heads: r.journal.sum(), Reply: why != answer, Compare: why == compare}
	g.ClockMs = uint64(max(time.Now().UnixMilli(), 0))
	if n := r.neighbours[p]; n != nil {
		n.greet(time.Now(), why)
	}
	if why != answer {
		g.Past = r.past.ask(time.Since(r.since), r.slackLocked(p))
	}
	if why == ask {
		g.Known = r.roster.names()
	}
	r.mesh.tell(p, &wire.RoomFrame{Room: r.tag[:], Body: &wire.RoomFrame_Greeting_{Greeting: g}})
}

// slackLocked returns how long a question to a neighbour may take on its way.
func (r *Room) slackLocked(p peer.ID) time.Duration {
	if n := r.neighbours[p]; n != nil {
		return transitSlack + n.slack
	}
	return transitSlack
}

// introduce greets a member that is not a neighbour, before the first message to it alone.
func (r *Room) introduce(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.neighbours[p]; n == nil || !n.agreed {
		if r.mesh.host.Network().Connectedness(p) != network.NotConnected {
			r.greetLocked(p, answer)
		}
	}
}

// askLocked asks a neighbour for what it knows and we do not: it is new here, has brought a
// stranger's envelope, or has another roster.
func (r *Room) askLocked(now time.Time, p peer.ID, fresh bool) {
	if n := r.neighbours[p]; n != nil {
		n.inquire(now, fresh)
		r.inquireLocked(now)
	}
}

func (r *Room) hearGreeting(p peer.ID, g *wire.RoomFrame_Greeting) error {
	now := time.Now()
	entry, err := r.door.open(g.Entry, now)
	if err != nil {
		return err
	}
	if entry.statement.Peer != p {
		return fmt.Errorf("greeting with the entry of peer %s", entry.statement.Peer)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaving {
		return nil
	}
	s := r.applyLocked(now, entry)
	if r.leaving || s == nil {
		return nil
	}
	if r.mesh.host.Network().Connectedness(p) == network.NotConnected {
		r.noteLocked(r.roster.spoke(now, p)) // read after its connection had ended
	} else {
		r.noteLocked(r.roster.alive(now, p))
		if n := r.neighbours[p]; entry.joined && (n == nil || n.doubted) {
			r.unsubscribed[p] = now // until GossipSub says otherwise
			r.adoptLocked(p)
		}
	}
	if s.Peer == p {
		s.clocks.hear(now, p, p, g.ClockMs)
	}
	if s.Peer == p && s.entry.feed == entry.feed {
		r.claimLocked(now, s)
	}
	if g.Reply {
		r.answerLocked(p, g)
	}
	if n := r.neighbours[p]; n != nil {
		switch n.hear(now, g.Reply, string(g.Digest) == string(r.roster.sum()), string(g.Heads) == string(r.journal.sum())) {
		case ask:
			r.askLocked(now, p, false)
		case compare:
			r.greetLocked(p, compare)
		}
	}
	return nil
}

// answerLocked sends a peer our greeting and, unless it knows the same, our heads and our roster.
func (r *Room) answerLocked(p peer.ID, g *wire.RoomFrame_Greeting) {
	r.greetLocked(p, answer)
	if string(g.Heads) != string(r.journal.sum()) {
		now := time.Now()
		age, count := pastAsked(g.Past)
		r.tellHeadsLocked(p, r.journal.positions(), g.Past.GetAgeMs(), r.journal.firsts(now, age, count))
	}
	same := string(g.Digest) == string(r.roster.sum())
	if g.Compare && !same {
		return // it will ask when it has read our digest
	}
	part := new(wire.RoomFrame_Roster)
	size := 0
	if !same {
		unknown := r.roster.unknown(p, g.Known)
		all := 0
		for _, s := range unknown {
			all += len(s.entry.sealed)
		}
		if !r.mesh.links.budget(p).rosters.AllowN(time.Now(), min(all, rosterBurst)) {
			r.mesh.stats.roomFramesDropped.Add(1)
			return // it has been sent all of this many times a second
		}
		for _, s := range unknown {
			if size > 0 && size+len(s.entry.sealed) > rosterPart {
				r.tellRosterLocked(p, part)
				part, size = new(wire.RoomFrame_Roster), 0
			}
			part.Entries = append(part.Entries, s.entry.sealed)
			size += len(s.entry.sealed)
		}
	}
	part.Last = true
	r.tellRosterLocked(p, part)
}

func (r *Room) tellRosterLocked(p peer.ID, part *wire.RoomFrame_Roster) {
	r.mesh.tell(p, &wire.RoomFrame{Room: r.tag[:], Body: &wire.RoomFrame_Roster_{Roster: part}})
}

// hearRoster takes what a neighbour knows of other members. Entries prove themselves; that a
// neighbour repeats one does not prove that the member is still there.
func (r *Room) hearRoster(p peer.ID, part *wire.RoomFrame_Roster) error {
	now := time.Now()
	entries := make([]*rosterEntry, 0, len(part.Entries))
	for _, sealed := range part.Entries {
		entry, err := r.door.open(sealed, now)
		if err != nil {
			if errors.Is(err, wire.ErrSignature) || errors.Is(err, wire.ErrTruncated) {
				return err
			}
			// That one has expired since is not the neighbour's fault.
			r.mesh.log.Debug("roster entry refused", "room", r.name, "peer", p, "err", err)
			continue
		}
		entries = append(entries, entry)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.neighbours[p] == nil {
		return nil // not asked for
	}
	before := r.roster.sum()
	for _, entry := range entries {
		if r.leaving {
			return nil
		}
		s := r.hearsayLocked(now, p, entry)
		if s == nil || r.leaving || s.entry.feed != entry.feed {
			continue
		}
		r.claimLocked(now, s)
	}
	r.armTimer()
	n := r.neighbours[p]
	if n == nil {
		return nil
	}
	n.news = n.news || !bytes.Equal(before, r.roster.sum())
	if part.Last {
		n.agreed = true
		n.told(n.news)
		n.news = false
		r.inquiriesLocked(now)
		delete(r.waiting, p)
		r.broadcastLocked()
	}
	return nil
}
