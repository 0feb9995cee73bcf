// Package task has what the loops and lifecycles of a node's parts are made of: a wake-up for one loop, a notice for
// everybody who waits, and a count of what Close has to wait for.
package task

import "sync"

// A Wake wakes one loop that waits on it. Wake-ups that come before the loop looks are one.
type Wake chan struct{}

// NewWake returns a Wake that is not set.
func NewWake() Wake { return make(Wake, 1) }

// Set makes the loop look once more. It never blocks.
func (w Wake) Set() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// Changes tells everybody who waits that something has changed. The zero value is ready. The lock that guards what changes guards
// it, too: whoever waits takes the channel and looks under that lock, and so misses nothing.
type Changes struct {
	next chan struct{} // nil: nobody has asked since the last change
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

// A Group counts the goroutines and calls that Close has to wait for. The zero value is ready, and safe for concurrent use.
type Group struct {
	mu      sync.Mutex
	closing bool
	running sync.WaitGroup
}

// Enter counts the caller in, until it calls Leave. It reports false, counting nothing, once Close was called.
func (g *Group) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	g.running.Add(1)
	return true
}

// Leave ends what Enter has begun.
func (g *Group) Leave() { g.running.Done() }

// Go runs f in a goroutine that is counted. It reports false, running nothing, once Close was called.
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

// Spawn runs f in a goroutine that is counted, also once Close was called. The caller must be counted itself.
func (g *Group) Spawn(f func()) { g.running.Go(f) }

// Close lets nobody enter any more, and reports whether this call was the first. It does not wait.
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
