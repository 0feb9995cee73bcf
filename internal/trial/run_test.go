package trial

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
)

const (
	// From the first join to the start of the schedule: GossipSub forms its overlay on a heartbeat
	// of 1 s.
	settle = 10 * time.Second
	// At most, from the last step to the end: longer than every repair timer and every pause
	// between redials.
	calm = time.Minute
	// After everything has arrived, for duplicates.
	echo    = 5 * time.Second
	latency = 10 * time.Millisecond // one way
	// Messages that a member may have waiting to be published.
	backlog = 4096
)

// run is one execution of a schedule.
type run struct {
	t        *testing.T
	net      *meshtest.Net
	schedule *schedule
	driver   driver
	zero     time.Time
	tasks    sync.WaitGroup

	mu      sync.Mutex
	stays   []*stay  // all stays so far
	current []*stay  // by member; nil: not in the room
	latest  []*stay  // by member, including killed ones
	faults  []*fault // under way
	ended   []*fault
	cuts    map[*fault]bool

	crossing sync.Mutex // held inside the network's lock, so separate from mu
	crossed  map[[2]int]bool
}

func (r *run) now() time.Duration { return time.Since(r.zero) }

// execute runs the schedule to its end, in a bubble.
func (r *run) execute(seed uint64) tally {
	s := r.schedule
	r.net = meshtest.New(r.t, meshtest.Options{Hosts: s.members, Latency: latency, Seed: seed})
	r.zero = time.Now()
	r.current, r.latest = make([]*stay, s.members), make([]*stay, s.members)
	r.cuts = make(map[*fault]bool)
	r.crossed = make(map[[2]int]bool)
	var joins sync.WaitGroup
	for i := range s.members {
		st := r.newStay(i)
		joins.Go(func() { r.join(st, false) })
	}
	joins.Wait()
	time.Sleep(settle)
	begin := r.now()
	for _, step := range s.steps {
		time.Sleep(begin + step.at - r.now())
		step.do(r)
	}
	for until := r.now() + calm; r.now() < until && r.owed() > 0; {
		time.Sleep(time.Second)
	}
	time.Sleep(echo)
	r.finish()
	return r.count()
}

// links returns the members that i connects to when it starts: each link is made from one end, but
// a restarted member makes all its links.
func (r *run) links(i int, again bool) (to []int) {
	for _, l := range r.schedule.links {
		switch {
		case l[1] == i:
			to = append(to, l[0])
		case l[0] == i && again:
			to = append(to, l[1])
		}
	}
	return to
}

// join brings a stay into the room.
func (r *run) join(st *stay, again bool) {
	session := r.driver(r.t, r.net, st.member, r.links(st.member, again), st)
	r.mu.Lock()
	st.session = session
	r.current[st.member], r.latest[st.member] = st, st
	r.mu.Unlock()
	r.tasks.Go(func() {
		for m := range st.outgoing {
			m.outcome = session.publish(m.data())
			close(m.done)
		}
	})
}

// member returns the stay of a member that is in the room, or nil.
func (r *run) member(i int) *stay {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current[i]
}

func (r *run) publish(i, size int) {
	if st := r.member(i); st != nil {
		st.outgoing <- r.newMessage(st, size)
	}
}

func (r *run) publishAndWait(i int, want error) {
	st := r.member(i)
	m := r.newMessage(st, usual)
	err := st.session.publishAndWait(m.data())
	m.outcome = func() error { return err }
	close(m.done)
	if !errors.Is(err, want) {
		st.mu.Lock()
		st.wrong[fmt.Sprintf("Publish saying %v instead of %v", err, want)]++
		st.mu.Unlock()
	}
}

// newMessage records who must have the next message of a stay.
func (r *run) newMessage(from *stay, size int) *message {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &message{stay: from.id, count: from.count, at: r.now(), size: size, done: make(chan struct{})}
	from.count++
	for _, to := range r.current {
		if to == nil || to == from {
			continue
		}
		d := &due{message: m}
		for _, f := range r.faults {
			if f.apart(from.member, to.member) {
				d.fault = f
			}
		}
		to.expect(d)
	}
	return m
}

func (r *run) kill(i int) {
	r.mu.Lock()
	st := r.current[i]
	require.NotNil(r.t, st, "the schedule kills member %d, who is not in the room", i)
	r.current[i] = nil
	st.killed = true
	r.mu.Unlock()
	r.net.Kill(i)
	r.tasks.Go(st.stop)
}

// restart does not delay the schedule, though the killed node may take a moment to close.
func (r *run) restart(i int) {
	r.mu.Lock()
	killed := r.latest[i]
	r.mu.Unlock()
	st := r.newStay(i)
	r.tasks.Go(func() {
		<-killed.stopped
		r.net.Restart(i)
		r.join(st, true)
	})
}

func (r *run) owed() (owed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, st := range r.current {
		if st != nil {
			st.mu.Lock()
			owed += st.owed
			st.mu.Unlock()
		}
	}
	return owed
}

// finish ends all sessions at once, and then waits for every goroutine of the run.
func (r *run) finish() {
	r.mu.Lock()
	left := slices.DeleteFunc(slices.Clone(r.current), func(s *stay) bool { return s == nil })
	r.mu.Unlock()
	for _, st := range left {
		r.tasks.Go(st.stop)
	}
	r.tasks.Wait()
	require.Empty(r.t, r.faults, "the schedule has not ended its faults")
	r.closeWhole()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
