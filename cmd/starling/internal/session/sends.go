package session

import (
	"context"
	"sync"
)

// maxSends is how many messages may be under way before the chat stops reading standard input:
// enough for a script that pipelines, and few enough for the chat to end soon.
const maxSends = 256

// sends are the messages under way. Messages to one target are sent in the order typed. Messages to
// different targets do not wait for each other, since finding a user may take seconds.
type sends struct {
	rescue func(func())  // runs a function that may panic
	slots  chan struct{} // holds one for each message that has no result yet
	tasks  sync.WaitGroup

	mu    sync.Mutex
	lanes map[string][]func() // the functions waiting behind a running start, by target
}

func newSends(rescue func(func())) *sends {
	return &sends{rescue: rescue, slots: make(chan struct{}, maxSends), lanes: make(map[string][]func())}
}

// send takes a message: start hands it to the mesh, and finish, if start returns one, waits for its
// result. It blocks while maxSends are under way, and reports false if ctx ended first.
func (s *sends) send(ctx context.Context, target string, start func() (finish func())) bool {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	s.inLane(target, func() {
		finish := start()
		if finish == nil {
			<-s.slots
			return
		}
		s.tasks.Go(func() {
			s.rescue(finish)
			<-s.slots
		})
	})
	return true
}

// inLane runs f after everything that was put into the lane before.
func (s *sends) inLane(lane string, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, running := s.lanes[lane]
	s.lanes[lane] = append(waiting, f)
	if running {
		return
	}
	s.tasks.Go(func() {
		for f := s.next(lane); f != nil; f = s.next(lane) {
			s.rescue(f)
		}
	})
}

// next returns the lane's next function. If there is none, it closes the lane and returns nil.
func (s *sends) next(lane string) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.lanes[lane]
	if len(waiting) == 0 {
		delete(s.lanes, lane)
		return nil
	}
	s.lanes[lane] = waiting[1:]
	return waiting[0]
}

// pending returns how many messages have no result yet.
func (s *sends) pending() int { return len(s.slots) }

// settle waits until no message is under way. No other goroutine may send meanwhile.
func (s *sends) settle(ctx context.Context) bool {
	taken := 0
	defer func() {
		for range taken {
			<-s.slots
		}
	}()
	for range cap(s.slots) {
		select {
		case s.slots <- struct{}{}:
			taken++
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// wait returns when every goroutine has ended, at the latest when all messages have results.
func (s *sends) wait() { s.tasks.Wait() }
