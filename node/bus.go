package node

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/event"
)

// bus is the event bus of the node's own host. While the host is closing, it drops the events that
// its subscribers leave unread.
//
// libp2p v0.51.0 stops its manager of observed addresses but leaves it subscribed, so nobody reads
// that subscription any more. After 16 further events (a subscription's buffer) the goroutine that
// emits the next one waits for ever with the bus locked, and so does the Close of the host.
// Goroutines that identify peers emit events after their connections have been closed.
type bus struct {
	event.Bus
	ending chan struct{} // closed: events that no subscriber reads are dropped

	mu   sync.Mutex
	subs map[*subscription]bool
}

func newBus(of event.Bus) *bus {
	return &bus{Bus: of, ending: make(chan struct{}), subs: make(map[*subscription]bool)}
}

func (b *bus) Subscribe(eventType any, opts ...event.SubscriptionOpt) (event.Subscription, error) {
	inner, err := b.Bus.Subscribe(eventType, opts...)
	if err != nil {
		return nil, err
	}
	s := &subscription{Subscription: inner, bus: b, out: make(chan any), done: make(chan struct{})}
	b.mu.Lock()
	b.subs[s] = true
	b.mu.Unlock()
	go s.pass()
	return s, nil
}

// drain drops the events that no subscriber reads from now on. The host is closing.
func (b *bus) drain() { close(b.ending) }

// finish closes the remaining subscriptions after the host has been closed.
func (b *bus) finish() {
	b.mu.Lock()
	left := make([]*subscription, 0, len(b.subs))
	for s := range b.subs {
		left = append(left, s)
	}
	b.mu.Unlock()
	for _, s := range left {
		_ = s.Close()
	}
}

// subscription passes on the events of libp2p's bus.
type subscription struct {
	event.Subscription
	bus  *bus
	out  chan any
	once sync.Once
	done chan struct{}
}

func (s *subscription) Out() <-chan any { return s.out }

func (s *subscription) pass() {
	defer close(s.out)
	for {
		select {
		case ev, ok := <-s.Subscription.Out():
			if !ok {
				return
			}
			select {
			case s.out <- ev:
			case <-s.bus.ending:
			case <-s.done:
				return
			}
		case <-s.done:
			return
		}
	}
}

func (s *subscription) Close() error {
	s.once.Do(func() {
		close(s.done)
		s.bus.mu.Lock()
		delete(s.bus.subs, s)
		s.bus.mu.Unlock()
	})
	return s.Subscription.Close()
}
