// Package task has the building blocks of the loops and lifecycles in a node's parts: a wake-up for
// one loop, a notice for all waiting goroutines, and a count of what Close has to wait for.
package task

import "sync"

// A Wake wakes one loop that waits on it. Several wake-ups before the loop checks count as one.
type Wake chan struct{}

// NewWake returns a Wake that is not set.
func NewWake() Wake { return make(Wake, 1) }

// Set makes the loop check once more. It never blocks.
func (w Wake) Set() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// Changes notifies all waiting goroutines that something has changed. The zero value is ready. The
// lock that guards the changing state also guards the Changes: a waiting goroutine gets the channel
// and checks the state under that lock, and so misses nothing.
type Changes struct {
	next chan struct{} // nil: Next was not called since the last change
}

// Next returns a channel that the next change closes.
func (c *Changes) Next() <-chan struct{} {
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

// Tell closes the channel that Next has returned.
func (c *Changes) Tell() {
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// A Group counts the goroutines and calls that Close has to wait for. The zero value is ready, and
// safe for concurrent use.
type Group struct {
	mu      sync.Mutex
	closing bool
	running sync.WaitGroup
}

// Enter counts the caller until it calls Leave. Once Close was called it returns false and counts
// nothing.
func (g *Group) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	g.running.Add(1)
	return true
}

// Leave ends what Enter began.
func (g *Group) Leave() { g.running.Done() }

// Go runs f in a counted goroutine. Once Close was called it returns false and runs nothing.
func (g *Group) Go(f func()) bool {
	if !g.Enter() {
		return false
	}
	go func() {
		defer g.Leave()
		f()
	}()
	return true
}

// Spawn runs f in a counted goroutine, even after Close was called. The caller must itself be
// counted.
func (g *Group) Spawn(f func()) { g.running.Go(f) }

// Close makes Enter and Go refuse from now on, and reports whether this call was the first. It does
// not wait.
func (g *Group) Close() (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	first, g.closing = !g.closing, true
	return first
}

// Closing reports whether Close was called.
func (g *Group) Closing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closing
}

// Wait blocks until everything that was counted has ended. Close must have been called.
func (g *Group) Wait() { g.running.Wait() }
