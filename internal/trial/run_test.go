package trial

import (
	"encoding/binary"
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
	settle   = 10 * time.Second      // from the first join to the schedule's beginning: GossipSub forms its overlay on a heartbeat of 1 s
	calm     = time.Minute           // at most, from the last step to the end: past every timer of repair and every pause of redialling
	echo     = 5 * time.Second       // after everything has arrived, for what comes twice
	lookEach = 10 * time.Millisecond // for a link that returns
	latency  = 10 * time.Millisecond // one way
	header   = 8                     // of a message, in bytes: the sender's stay and its count
	backlog  = 4096                  // messages that a member may have to publish at one time
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
	stays   []*stay  // all there were
	current []*stay  // by member; nil: it is not in the room
	latest  []*stay  // by member, those that have been killed included
	faults  []*fault // under way
	ended   []*fault
	cuts    map[*fault]bool

	crossing sync.Mutex // held inside the network's lock, so apart from mu
	crossed  map[[2]int]bool
}

// fault is a time in which packets between each of a and each of b do not pass, or not well.
type fault struct {
	a, b   []int
	linked bool          // its end is the return of links, which then takes as long as it takes
	whole  bool          // it stands for all those within it, and ends with the last of them
	healed time.Duration // packets pass again
	back   time.Duration // and a link is there
}

func (f *fault) apart(i, j int) bool {
	return slices.Contains(f.a, i) && slices.Contains(f.b, j) || slices.Contains(f.a, j) && slices.Contains(f.b, i)
}

// stay is one member's time in the room, from its join to its kill or the end.
type stay struct {
	run      *run
	id       int
	member   int
	session  session
	killed   bool
	outgoing chan *message
	stopped  chan struct{}
	count    int // messages published

	mu    sync.Mutex
	due   map[[2]int]*due // by sender's stay and count
	last  map[int]int     // by sender's stay
	owed  int
	wrong map[string]int  // what else may not happen: how often
	extra map[[2]int]bool // heard without being owed, from before the stay: allowed once
}

// message is one broadcast.
type message struct {
	stay, count int
	at          time.Duration
	size        int
	outcome     func() error
	done        chan struct{} // closed when outcome is set
}

// due is a message that a stay must have.
type due struct {
	message *message
	fault   *fault        // that it was across; nil: none
	at      time.Duration // when it came; 0: it has not
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

// links are the members that i connects to when it starts: each link is made from one end, but a restarted member makes all of its own.
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

func (r *run) newStay(member int) *stay {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := &stay{
		run: r, id: len(r.stays), member: member, outgoing: make(chan *message, backlog), stopped: make(chan struct{}),
		due: make(map[[2]int]*due), extra: make(map[[2]int]bool), last: make(map[int]int), wrong: make(map[string]int),
	}
	r.stays = append(r.stays, st)
	return st
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

// newMessage writes down who must have the next message of a stay.
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

func (m *message) data() []byte {
	data := make([]byte, max(m.size, header))
	binary.BigEndian.PutUint32(data, uint32(m.stay))
	binary.BigEndian.PutUint32(data[4:], uint32(m.count))
	return data
}

func (s *stay) expect(d *due) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due[[2]int{d.message.stay, d.message.count}] = d
	s.owed++
}

func (s *stay) message(user string, data []byte) {
	from, count := int(binary.BigEndian.Uint32(data)), int(binary.BigEndian.Uint32(data[4:]))
	s.run.mu.Lock()
	member := s.run.stays[from].member
	s.run.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if user != "" && user != userName(member) {
		s.wrong["from somebody else"]++
	}
	last, any := s.last[from]
	if !any || count > last {
		s.last[from] = count
	}
	key := [2]int{from, count}
	d := s.due[key]
	switch {
	case d == nil && s.extra[key], d != nil && d.at != 0:
		s.wrong["duplicate"]++
		return
	case d == nil:
		s.extra[key] = true
	default:
		d.at = s.run.now()
		s.owed--
	}
	if any && count <= last {
		s.wrong["out of order"]++
	}
}

func (s *stay) gap(missing uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong["reported lost"] += int(missing)
}

func (r *run) kill(i int) {
	r.mu.Lock()
	st := r.current[i]
	r.current[i] = nil
	st.killed = true
	r.mu.Unlock()
	r.net.Kill(i)
	r.tasks.Go(st.stop)
}

func (s *stay) stop() {
	close(s.outgoing)
	s.session.stop()
	close(s.stopped)
}

func (r *run) restart(i int) {
	r.mu.Lock()
	st := r.latest[i]
	r.mu.Unlock()
	<-st.stopped
	r.net.Restart(i)
	st = r.newStay(i)
	r.tasks.Go(func() { r.join(st, true) })
}

func (r *run) begin(f *fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, f)
}

// end ends a fault, and looks for the return of a link.
func (r *run) end(f *fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = slices.DeleteFunc(r.faults, func(g *fault) bool { return f == g })
	f.healed = r.now()
	f.back = f.healed
	r.ended = append(r.ended, f)
	if !f.linked {
		return
	}
	r.crossing.Lock()
	clear(r.crossed)
	r.crossing.Unlock()
	r.net.Drop(func(i, j, _ int) bool {
		r.crossing.Lock()
		defer r.crossing.Unlock()
		r.crossed[[2]int{i, j}] = true
		return false
	})
	r.tasks.Go(func() { r.awaitLink(f) })
}

func (r *run) awaitLink(f *fault) {
	for until := f.healed + calm; r.now() < until; time.Sleep(lookEach) {
		for _, pair := range r.crossings() {
			if i, j := pair[0], pair[1]; f.apart(i, j) && r.net.Connected(i, j) && r.net.Connected(j, i) {
				r.mu.Lock()
				f.back = r.now()
				r.mu.Unlock()
				return
			}
		}
	}
}

func (r *run) crossings() (pairs [][2]int) {
	r.crossing.Lock()
	defer r.crossing.Unlock()
	for pair := range r.crossed {
		pairs = append(pairs, pair)
	}
	return pairs
}

func (r *run) cut(f *fault) {
	r.cuts[f] = true
	r.net.Split(f.a, f.b)
}

// heal undoes one cut: the network knows only how to undo all.
func (r *run) heal(f *fault) {
	delete(r.cuts, f)
	r.net.Heal()
	for f := range r.cuts {
		r.net.Split(f.a, f.b)
	}
}

// disconnect closes the connections of a member at both ends.
func (r *run) disconnect(i int) {
	for j := range r.schedule.members {
		for _, ends := range [][2]int{{i, j}, {j, i}} {
			require.NoError(r.t, r.net.Host(ends[0]).Network().ClosePeer(r.net.ID(ends[1])))
		}
	}
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

// finish ends all sessions at once, and then every goroutine of the run.
func (r *run) finish() {
	r.mu.Lock()
	left := slices.DeleteFunc(slices.Clone(r.current), func(s *stay) bool { return s == nil })
	r.mu.Unlock()
	for _, st := range left {
		r.tasks.Go(st.stop)
	}
	r.tasks.Wait()
	require.Empty(r.t, r.faults, "the schedule has not ended its faults")
	for k, f := range r.ended {
		for _, within := range r.ended[:k] {
			if f.whole {
				f.back = max(f.back, within.back)
			}
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
