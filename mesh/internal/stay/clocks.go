package stay

import (
	"math"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// maxClocks is how many neighbours' words of a member's clock are kept. They were all right as
	// long as the member's clock was not set, so more of them would say nothing new.
	maxClocks = 3
	// clockSet is by how much a neighbour's word of a clock must change to show that the clock was
	// set. A smaller change is time that a word spent on its way.
	clockSet = 10 * time.Second
	// maxUnderWay is how old an envelope can be that came by gossip: where the parts of a room come
	// together, each member on the way may hold it for a heartbeat. The longest of 24 runs of a
	// chain of 16 members that come and go was 7.1 s.
	maxUnderWay = 30 * time.Second
)

// clocks is what neighbours say of a member's clock. The zero value means that none has said
// anything.
type clocks [maxClocks]clockWord

// clockWord is what to add to a time of the member's clock to get one of this node's, according to
// a neighbour. The word was on its way for a while, so the time comes out late, never early.
type clockWord struct {
	from peer.ID // "": nobody
	add  time.Duration
}

// hear takes a neighbour's word that the author's clock shows ms milliseconds since 1970 now. The
// author is "" while it is not known.
func (c *clocks) hear(now time.Time, author, from peer.ID, ms uint64) {
	if ms == 0 || ms > math.MaxInt64/uint64(time.Millisecond) {
		return // nothing said, or later than the year 2262
	}
	c.take(author, clockWord{from, onItsWay(time.UnixMilli(int64(ms)), now)})
}

func (c *clocks) take(author peer.ID, w clockWord) {
	for i := range c {
		switch old := c[i]; {
		case old.from == "":
		case old.from != w.from:
			continue
		case w.add > old.add && w.add-old.add < clockSet:
			return
		}
		c[i] = w
		return
	}
	if w.from == author {
		c[maxClocks-1] = w // it knows best
	}
}

// forget drops all words but the author's own.
func (c *clocks) forget(author peer.ID) {
	for i, w := range c {
		if w.from != author {
			c[i] = clockWord{}
		}
	}
}

// merge takes what others have been told.
func (c *clocks) merge(author peer.ID, other clocks) {
	for _, w := range other {
		if w.from != "" {
			c.take(author, w)
		}
	}
}

// add returns what to add to a time of the author's clock. The author's own word counts; otherwise
// the latest time that a neighbour other than but allows, so that no single neighbour can make a
// broadcast look old.
func (c *clocks) add(author, but peer.ID) (most time.Duration, known bool) {
	for _, w := range c {
		switch {
		case w.from == "" || w.from == but:
		case w.from == author:
			return w.add, true
		case !known || w.add > most:
			most, known = w.add, true
		}
	}
	return most, known
}

// from reports whether a neighbour's word is among them.
func (c *clocks) from(p peer.ID) bool {
	return slices.ContainsFunc(c[:], func(w clockWord) bool { return w.from == p && p != "" })
}

// dated returns when an envelope was published that its sender calls sent at a time, by what
// neighbours say of the sender's clock, or else by the ages that they stated for others of its
// envelopes. It reports false if they have said neither.
func (s *seat) dated(sent time.Time) (time.Time, bool) {
	if add, ok := s.clocks.add(s.Peer, ""); ok {
		return sent.Add(add), true
	}
	return sent.Add(s.transit.told), s.transit.heard
}

// showsNow returns what a member's clock shows, in milliseconds since 1970, to say so to another
// peer: by what others than that one have said, or by the fastest of its envelopes if all that came
// by gossip since a time was young. It returns 0 if neither is known.
func (s *seat) showsNow(now time.Time, to peer.ID, young bool) uint64 {
	add, ok := s.clocks.add(s.Peer, to)
	if !ok && young {
		add, ok = s.transit.fastest, s.transit.known
	}
	if !ok {
		return 0
	}
	return uint64(max(now.Add(-add).UnixMilli(), 0))
}

// arrived notes how long an envelope was on its way that came by gossip, and estimates when it was
// published. If it would be older than gossip can be, and is news, the sender's clock was set, or
// what others said of it is not true: that is forgotten.
func (s *seat) arrived(e *Envelope, at time.Time, news bool) {
	sent := time.UnixMilli(e.SentMs)
	e.Late = s.transit.late(sent, at)
	late := e.Late
	if published, ok := s.dated(sent); ok {
		if late = max(late, at.Sub(published)); late > maxUnderWay && news {
			s.clocks.forget(s.Peer)
		}
	}
	e.came = e.came.Add(-min(late, maxGossipAge))
}
