package demo

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starling-mesh/starling/mesh"
)

// watch keeps every event of one stream, so that a step can ask for those that must have come and
// those that must not.
type watch struct {
	name string
	done chan struct{} // closed when the stream has ended

	mu     sync.Mutex
	seen   []mesh.Event
	change chan struct{} // closed and replaced at every event
}

// newWatch reads recv in the background until it fails, at the latest when ctx ends.
func newWatch(ctx context.Context, name string, recv func(context.Context) (mesh.Event, error)) *watch {
	w := &watch{name: name, done: make(chan struct{}), change: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			ev, err := recv(ctx)
			if err != nil {
				return
			}
			w.mu.Lock()
			w.seen = append(w.seen, ev)
			close(w.change)
			w.change = make(chan struct{})
			w.mu.Unlock()
		}
	}()
	return w
}

// mark returns how many events have come so far, for use with after.
func (w *watch) mark() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.seen)
}

// after returns the events that came after a mark.
func (w *watch) after(mark int) []mesh.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen[mark:])
}

// await waits for the first event after mark that match accepts, and returns it.
func (w *watch) await(ctx context.Context, mark int, what string, match func(mesh.Event) bool) (mesh.Event, error) {
	for {
		w.mu.Lock()
		behind, change := w.seen[min(mark, len(w.seen)):], w.change
		w.mu.Unlock()
		for _, ev := range behind {
			if match(ev) {
				return ev, nil
			}
			mark++
		}
		select {
		case <-change:
		case <-w.done:
			return nil, fmt.Errorf("%s: the stream ended before %s", w.name, what)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: no %s within the time for a step", w.name, what)
		}
	}
}

// awaitFor is await for events of one type.
func awaitFor[T mesh.Event](ctx context.Context, w *watch, mark int, what string, match func(T) bool) (T, error) {
	ev, err := w.await(ctx, mark, what, func(ev mesh.Event) bool {
		t, ok := ev.(T)
		return ok && match(t)
	})
	if err != nil {
		var none T
		return none, err
	}
	return ev.(T), nil
}

// until polls for something that sends no event: a counter, or the state of a library.
func until(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
