package meshtest

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Clock is the clock of a machine on which the time of day is wrong. Give it to a node as
// walltime.From(clock.Now). The zero value is right, until [Clock.Set]. Its methods are safe for
// concurrent use, and none blocks. A Clock must not be copied.
//
// Now returns a wall clock reading and a monotonic one, as [time.Now] does outside a bubble: only
// the first is wrong, and only the first jumps when the clock is set. So the difference of two
// readings is the time that has passed between them. In a bubble, that is the bubble's own time.
type Clock struct {
	ahead atomic.Int64 // nanoseconds
}

// Set makes the clock be ahead of the right time from now on. A negative time makes it be behind.
func (c *Clock) Set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// origin has a monotonic reading: it is read outside all bubbles, where no time has one.
var origin = time.Now()

// Now returns what the clock shows. It has a monotonic reading as long as it shows a time between
// the years 1885 and 2157.
func (c *Clock) Now() time.Time {
	now := time.Now()
	passed := now.Sub(origin) // by the monotonic clock or, in a bubble, by the only one that it has
	wall := now.Round(0).Add(time.Duration(c.ahead.Load()))
	// Add moves both readings alike, and package time has nothing that moves one of them. This is
	// how it keeps them. TestAClockThatIsSetShowsThePassingOfTime notices if that changes.
	type reading struct {
		wall uint64
		ext  int64 // monotonic
		loc  *time.Location
	}
	at := origin.Add(wall.Sub(origin.Round(0)))
	start := origin
	(*reading)(unsafe.Pointer(&at)).ext = (*reading)(unsafe.Pointer(&start)).ext + int64(passed)
	return at
}
