// Package walltime is where a node reads the time. Each node has one [Clock], which its mesh and
// its directory share, so that a test can run nodes whose clocks are wrong side by side.
//
// # The rule
//
// Whatever a node takes as now is a reading of its Clock: what it states to other nodes, what it
// compares with a time that another node has stated, and what it measures between two readings.
//
// Package time, context and the connections know nothing of that Clock. They get a duration, as in
// context.WithTimeout or time.NewTimer, or a deadline from [In]. A deadline that a context brings
// becomes a reading with [Clock.Deadline].
//
// A test in internal/archtest finds code of a node that reads the time elsewhere.
//
// # When a clock is set
//
// Readings are like those of [time.Now]. They have a wall clock reading, which jumps when the clock
// is set, and a monotonic one, which does not. So the difference of two readings of one Clock is
// the time that has passed between them, even if the clock was set meanwhile. A reading that has
// been stored or sent has lost its monotonic part, and its difference to a later one includes the
// jump. A monotonic reading has no meaning to another Clock: compare readings of two Clocks only
// after Round(0).
package walltime

import (
	"context"
	"time"
)

// Clock is what a node takes for the time. The zero value is the machine's clock. A Clock is a
// value: its copies show the same time. All methods are safe for concurrent use, and none blocks.
type Clock struct {
	now func() time.Time // nil: time.Now
}

// From returns the clock that shows what now returns. It is for tests: see meshtest.Clock for a
// clock that can be set. The difference of two results of now must be the time that has passed
// between them, as it is with [time.Now]. Goroutines call now at the same time, some with a lock
// held, so it must not block. A nil now makes it the machine's clock.
func From(now func() time.Time) Clock { return Clock{now} }

// Now returns what the clock shows.
func (c Clock) Now() time.Time {
	if c.now == nil {
		return time.Now()
	}
	return c.now()
}

// Since returns how long ago the clock showed t; negative: it has yet to.
func (c Clock) Since(t time.Time) time.Duration {
	if c.now == nil {
		return time.Since(t)
	}
	return c.now().Sub(t)
}

// Until returns how long it takes until the clock shows t; negative: it was in the past.
func (c Clock) Until(t time.Time) time.Duration {
	if c.now == nil {
		return time.Until(t)
	}
	return t.Sub(c.now())
}

// Deadline returns what the clock will show at the deadline of ctx, and false if there is none.
func (c Clock) Deadline(ctx context.Context) (at time.Time, ok bool) {
	at, ok = ctx.Deadline()
	if ok && c.now != nil {
		at = c.now().Add(time.Until(at))
	}
	return at, ok
}

// In returns the deadline that a connection needs to give up after d. It is a time of package time,
// and not one of any [Clock].
func In(d time.Duration) time.Time { return time.Now().Add(d) }
