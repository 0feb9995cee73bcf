package node

import (
	"slices"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	// watchEvery is how often the node looks at its interfaces, its clocks and its rooms.
	watchEvery = 2 * time.Second
	// A look counts as having slept if the wall clock is ahead of the monotonic one by more than
	// sleptFor, or if the look is late by more than that. On most systems the monotonic clock
	// stands still in sleep. A look is late after SIGSTOP, or where that clock goes on.
	sleptFor = 5 * time.Second
	// busyFor is how long after the last look a late one may come, with the clocks in step, to
	// count as only a busy machine.
	busyFor = time.Minute
)

// look is what the watch sees at one moment.
type look struct {
	mono       time.Duration // monotonic, from any origin
	wall       time.Time
	interfaces []string // addresses, sorted
}

// change is what has happened since the last look.
type change struct {
	slept bool
	busy  bool // the machine may not have slept, but been busy
	moved bool // the interfaces have other addresses
}

// watch notices that the machine has slept or is on another network.
type watch struct {
	last look
	seen bool
}

func (w *watch) step(now look) change {
	last, seen := w.last, w.seen
	w.last, w.seen = now, true
	if !seen {
		return change{}
	}
	mono, wall := now.mono-last.mono, now.wall.Sub(last.wall)
	ahead, late := wall-mono > sleptFor, mono > watchEvery+sleptFor
	return change{
		slept: ahead || late,
		busy:  late && !ahead && mono <= busyFor,
		moved: !slices.Equal(now.interfaces, last.interfaces),
	}
}

// lookAround asks the system for the interfaces, and takes apart the two readings of now: the time
// since start by the monotonic one, and the wall clock without the monotonic reading, which
// time.Time would prefer.
func lookAround(start, now time.Time) look {
	l := look{mono: now.Sub(start), wall: now.Round(0)}
	addrs, err := manet.InterfaceMultiaddrs() // works where net.InterfaceAddrs may not, as on Android
	if err != nil {
		return l // as if there were none: the next look will show
	}
	for _, a := range addrs {
		l.interfaces = append(l.interfaces, a.String())
	}
	slices.Sort(l.interfaces)
	return l
}
