package screen

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/presence"
)

const (
	// askEvery is how often an online user on the screen is asked about. If the user's device was
	// heard of meanwhile, this costs no round trip. Users who come or go are asked about at once.
	askEvery = 5 * time.Second
	// askSeldom bounds the pauses for a user who is not online. They double from askEvery: each
	// question may take 5 s, dials and the directory.
	askSeldom = time.Minute
	// askAgain is the least time between two questions about one user: a peer that comes and goes
	// must not keep this node busy.
	askAgain = 500 * time.Millisecond
	// maxAsking bounds the questions under way, and maxAsked the users on a screen who are asked
	// about.
	maxAsking = 4
	maxAsked  = 128
)

// curiosity decides when to ask about which users. It is a plain state machine: the caller supplies
// the time and does the asking.
type curiosity struct {
	users  map[string]*curious
	asking int
}

// curious is the state of the questions about one user.
type curious struct {
	wanted bool // on the screen
	asking bool
	asked  time.Time
	next   time.Time
	pause  time.Duration
}

// look sets which users are on the screen. Only they are asked about from then on.
func (c *curiosity) look(now time.Time, users []string) {
	for _, u := range c.users {
		u.wanted = false
	}
	for _, name := range users[:min(len(users), maxAsked)] {
		u := c.users[name]
		if u == nil {
			u = &curious{next: now}
			c.users[name] = u
		}
		u.wanted = true
	}
	maps.DeleteFunc(c.users, func(_ string, u *curious) bool { return !u.wanted && !u.asking })
}

// stir reports news of a user.
func (c *curiosity) stir(now time.Time, user string) {
	if u := c.users[user]; u != nil {
		u.next, u.pause = later(now, u.asked.Add(askAgain)), 0
	}
}

// due returns the users to ask about now, the longest due first, and when to call it again (zero:
// when something has changed).
func (c *curiosity) due(now time.Time) (ask []string, next time.Time) {
	var ready []string
	for name, u := range c.users {
		switch {
		case !u.wanted || u.asking:
		case !u.next.After(now):
			ready = append(ready, name)
		case next.IsZero() || u.next.Before(next):
			next = u.next
		}
	}
	slices.SortFunc(ready, func(a, b string) int { return c.users[a].next.Compare(c.users[b].next) })
	ask = ready[:min(len(ready), maxAsking-c.asking)]
	for _, name := range ask {
		u := c.users[name]
		u.asking, u.asked = true, now
		u.next = time.Time{} // if stir sets it, there was news while the question was under way
		c.asking++
	}
	return ask, next
}

// answered records the answer to a question.
func (c *curiosity) answered(now time.Time, user string, online bool) {
	u := c.users[user]
	u.asking = false
	c.asking--
	switch {
	case !u.wanted:
		delete(c.users, user)
		return
	case online:
		u.pause = askEvery
	default:
		u.pause = min(max(2*u.pause, askEvery), askSeldom)
	}
	if u.next.IsZero() {
		u.next = now.Add(u.pause)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// standing is whether a user on the screen is online, and as of when.
type standing struct {
	user string // name#key
	presence.Status
	at time.Time
}

// asker keeps the screen informed of who is online: it is the thin loop around a [curiosity].
type asker struct {
	ask  func(ctx context.Context, user string) (presence.Status, error)
	tell func(standing)
	wake task.Wake // something may be due

	mu   sync.Mutex
	core curiosity
}

func newAsker(ask func(context.Context, string) (presence.Status, error), tell func(standing)) *asker {
	return &asker{ask: ask, tell: tell, wake: task.NewWake(), core: curiosity{users: make(map[string]*curious)}}
}

// with runs f on the state machine and makes the loop look again. It does not block.
func (a *asker) with(f func(core *curiosity, now time.Time)) {
	a.mu.Lock()
	f(&a.core, time.Now())
	a.mu.Unlock()
	a.wake.Set()
}

func (a *asker) look(users []string) {
	a.with(func(core *curiosity, now time.Time) { core.look(now, users) })
}

func (a *asker) stir(user string) {
	a.with(func(core *curiosity, now time.Time) { core.stir(now, user) })
}

// run asks until ctx ends, and waits for the questions under way. rescue runs each goroutine.
func (a *asker) run(ctx context.Context, rescue func(func())) {
	var asking sync.WaitGroup
	defer asking.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		a.mu.Lock()
		ask, next := a.core.due(time.Now())
		a.mu.Unlock()
		for _, user := range ask {
			asking.Go(func() { rescue(func() { a.one(ctx, user) }) })
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, time.Until(next)))
		}
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-timer.C:
		}
	}
}

func (a *asker) one(ctx context.Context, user string) {
	s, err := a.ask(ctx, user)
	if err == nil {
		a.tell(standing{user, s, time.Now()})
	}
	a.with(func(core *curiosity, now time.Time) {
		core.answered(now, user, err == nil && s.State == presence.Online)
	})
}
