package node

import (
	"slices"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	// watchEvery is how often the node looks at its interfaces, its clocks and its rooms.
	watchEvery = 2 * time.Second
	// sleptFor is by how much the wall clock must outrun the monotonic one, which stands still in sleep on most systems, or
	// a look must come late, as after SIGSTOP or where the monotonic clock goes on, to count as having slept.
	sleptFor = 5 * time.Second
	// busyFor is up to how late a look may be, the clocks being at one, and the machine only busy.
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
	busy  bool // or the machine was busy
	moved bool // other interface addresses
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

// lookAround asks the system. The wall clock is read without its monotonic part, which time.Time prefers.
func lookAround(start time.Time) look {
	now := time.Now()
	l := look{mono: now.Sub(start), wall: now.Round(0)}
	addrs, err := manet.InterfaceMultiaddrs() // works where net.InterfaceAddrs may not, as on Android
	if err != nil {
		return l // as if there were none: the next look tells
	}
	for _, a := range addrs {
		l.interfaces = append(l.interfaces, a.String())
	}
	slices.Sort(l.interfaces)
	return l
}
