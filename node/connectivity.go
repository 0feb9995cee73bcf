package node

import (
	"maps"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/presence"
)

const (
	// failAfter is how long a node that starts may have no usable interface before it has failed:
	// after a boot, an interface gets its address within some seconds.
	failAfter = 5 * time.Second
	// lossShows is how long nobody must be connected before a loss shows. If two nodes dial each
	// other at once, both connections can end before a third is there.
	lossShows = time.Second
	// noticed is how long it takes at most until others notice that this node is silent: the
	// silence after which they close a connection, if they share a room with it.
	noticed = 11 * time.Second
)

// connectivity decides in which ConnectionState a node is. It is a plain state machine: the caller
// passes the time, and what has happened. Each call returns the transitions that follow.
type connectivity struct {
	bound  time.Duration // after a loss, others have given this node up
	state  ConnectionState
	since  time.Time
	opened bool
	closed bool

	usable  bool
	dialled bool                  // since the state is Disconnected, with a usable interface
	up      map[peer.ID]bool      // the nodes of the app that are connected
	lost    map[peer.ID]time.Time // those that were lost lately, and are not back
	parted  time.Time             // when the last of up was gone, if some were lost; zero: none is missing
	cut     time.Time             // when the loss began that made the state Disconnected
}

// transition is one change of the state.
type transition struct {
	from, to ConnectionState
	elapsed  time.Duration // how long from has lasted
	why      string        // for people
}

// newConnectivity returns the state of a node that has not started. grace is that of its rooms.
func newConnectivity(grace time.Duration) *connectivity {
	return &connectivity{
		bound: noticed + grace, state: Disconnected,
		up: make(map[peer.ID]bool), lost: make(map[peer.ID]time.Time),
	}
}

// start notes that the node has started.
func (c *connectivity) start(now time.Time, usable bool) []transition {
	c.opened, c.since, c.usable = true, now, usable
	return append(c.move(nil, now, Connecting, ""), c.look(now)...)
}

// interfaces notes whether there is a usable interface.
func (c *connectivity) interfaces(now time.Time, usable bool) []transition {
	c.usable = usable
	return c.look(now)
}

// met notes that a node of the app is connected, and has not said goodbye.
func (c *connectivity) met(now time.Time, p peer.ID) []transition {
	c.up[p] = true
	delete(c.lost, p)
	c.parted = time.Time{}
	return c.look(now)
}

// gone notes that a node is not connected any more, or has said goodbye.
func (c *connectivity) gone(now time.Time, p peer.ID, why presence.DownReason) []transition {
	if !c.up[p] {
		return nil
	}
	delete(c.up, p)
	if why == presence.Lost {
		c.lose(now, p)
	}
	c.count(now)
	return c.look(now)
}

// refused notes that this node or p has refused the other: p is no node of this app now, and is not
// missing.
func (c *connectivity) refused(now time.Time, p peer.ID) []transition {
	_, missing := c.lost[p]
	if !c.up[p] && !missing {
		return nil
	}
	delete(c.up, p)
	delete(c.lost, p)
	if c.parted.IsZero() || len(c.lost) == 0 {
		c.count(now)
	}
	return c.look(now)
}

// dialling notes that the node dials others.
func (c *connectivity) dialling(now time.Time) []transition {
	c.dialled = c.usable
	return c.look(now)
}

// close notes that the node is closed.
func (c *connectivity) close(now time.Time) []transition {
	c.closed = true
	return c.look(now)
}

// lose remembers a lost node, of which there are not more than the redialler knows.
func (c *connectivity) lose(now time.Time, p peer.ID) {
	if len(c.lost) >= maxTargets {
		var oldest peer.ID
		for q, at := range c.lost {
			if oldest == "" || at.Before(c.lost[oldest]) {
				oldest = q
			}
		}
		delete(c.lost, oldest)
	}
	c.lost[p] = now
}

// count notes when nobody is there any more and somebody is missing: a node that was lost, and not
// so long ago that the redialler has given it up.
func (c *connectivity) count(now time.Time) {
	maps.DeleteFunc(c.lost, func(_ peer.ID, at time.Time) bool { return now.Sub(at) >= giveUp })
	c.parted = time.Time{}
	if len(c.up) == 0 && len(c.lost) > 0 {
		c.parted = now
	}
}

// look does what is due.
func (c *connectivity) look(now time.Time) (all []transition) {
	for c.opened {
		to, why := c.next(now)
		if to == c.state {
			break
		}
		all = c.move(all, now, to, why)
	}
	return all
}

const (
	whyNoInterface = "no usable network interface"
	whyLost        = "all connections were lost"
	whyGivenUp     = "the others have given this node up"
	whyDialling    = "dialling the nodes that were lost"
	whyClosed      = "the node was closed"
)

// next returns the state that follows from what is known now, and why.
func (c *connectivity) next(now time.Time) (ConnectionState, string) {
	whole := c.usable && c.parted.IsZero()
	switch {
	case c.closed:
		return Disconnected, whyClosed
	case !c.state.down():
		switch {
		case !c.usable:
			return Disconnected, whyNoInterface
		case !whole && now.Sub(c.parted) >= lossShows:
			return Disconnected, whyLost
		}
	case c.state == Connecting || c.state == Failed:
		switch {
		case c.usable:
			return Connected, ""
		case now.Sub(c.since) >= failAfter:
			return Failed, whyNoInterface
		}
	case whole:
		return Reconnected, ""
	case c.state == Lost:
	case now.Sub(c.cut) >= c.bound:
		return Lost, whyGivenUp
	case c.state == Reconnecting && !c.usable:
		return Disconnected, whyNoInterface
	case c.state == Disconnected && c.dialled:
		return Reconnecting, whyDialling
	}
	return c.state, ""
}

// linkDown reports whether the node's own link is known to be down, a moment before the state shows
// it.
func (c *connectivity) linkDown() bool { return c.state.down() || !c.parted.IsZero() }

func (c *connectivity) move(all []transition, now time.Time, to ConnectionState, why string) []transition {
	if to == Disconnected {
		c.dialled = false
		if !c.state.down() {
			c.cut = now
			if !c.parted.IsZero() {
				c.cut = c.parted
			}
		}
	}
	all = append(all, transition{c.state, to, now.Sub(c.since), why})
	c.state, c.since = to, now
	return all
}

// due returns when to look again; zero: when something has happened.
func (c *connectivity) due() time.Time {
	switch {
	case !c.opened || c.closed:
	case c.state == Connecting:
		return c.since.Add(failAfter)
	case !c.state.down() && !c.parted.IsZero():
		return c.parted.Add(lossShows)
	case c.state == Disconnected, c.state == Reconnecting:
		return c.cut.Add(c.bound)
	}
	return time.Time{}
}
