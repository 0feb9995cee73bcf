package trial

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// sec is the unit in which scenarios are written.
const sec = time.Second

// usual is the size of a message, in bytes, unless a scenario needs another.
const usual = 200

// schedule is what happens to a room, and when. It depends only on its seed. Times count from the
// moment when all have joined and settled.
type schedule struct {
	rng     *rand.Rand
	members int
	links   [][2]int
	steps   []step
}

type step struct {
	at time.Duration
	do func(*run)
}

func newSchedule(seed uint64, members int, links wiring, plan func(*schedule)) *schedule {
	rng := rand.New(rand.NewPCG(seed, uint64(members)))
	s := &schedule{rng: rng, members: members, links: links(rng, members)}
	plan(s)
	slices.SortStableFunc(s.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return s
}

func (s *schedule) at(at time.Duration, do func(*run)) { s.steps = append(s.steps, step{at, do}) }

// publish makes a member publish size bytes without waiting for the outcome. A member that is not
// in the room then publishes nothing.
func (s *schedule) publish(at time.Duration, member, size int) {
	s.at(at, func(r *run) { r.publish(member, size) })
}

// publishAndWait makes a member publish and wait for the outcome, for at most patience; the
// schedule waits too.
func (s *schedule) publishAndWait(at time.Duration, member int, want error) {
	s.at(at, func(r *run) { r.publishAndWait(member, want) })
}

// burst makes a member publish count messages at once.
func (s *schedule) burst(at time.Duration, member, count, size int) {
	for range count {
		s.publish(at, member, size)
	}
}

// traffic makes a random member publish at regular intervals.
func (s *schedule) traffic(from, to, every time.Duration) {
	for at := from; at < to; at += every {
		s.publish(at, s.rng.IntN(s.members), usual)
	}
}

// cut keeps all of a apart from all of b: packets between them vanish without notice.
func (s *schedule) cut(from, to time.Duration, a, b []int) {
	f := &fault{linked: true, a: a, b: b}
	s.fault(from, to, f, func(r *run) { r.cut(f) }, func(r *run) { r.heal(f) })
}

// away cuts a member off from all others; both ends of each of its connections notice at once.
func (s *schedule) away(from, to time.Duration, member int) {
	s.cut(from, to, []int{member}, without(s.everybody(), member))
	s.at(from, func(r *run) { r.disconnect(member) })
}

// pause drops all packets of a member, which keeps running.
func (s *schedule) pause(from, to time.Duration, member int) {
	f := &fault{linked: true, a: []int{member}, b: without(s.everybody(), member)}
	s.fault(from, to, f, func(r *run) { r.net.Pause(member) }, func(r *run) { r.net.Resume(member) })
}

// loss loses packets at random.
func (s *schedule) loss(from, to time.Duration, percent float64) {
	s.fault(from, to, &fault{a: s.everybody(), b: s.everybody()}, func(r *run) { r.net.Loss(percent) }, func(r *run) { r.net.Loss(0) })
}

// kill ends a member without a good-bye.
func (s *schedule) kill(at time.Duration, member int) { s.at(at, func(r *run) { r.kill(member) }) }

// restart brings back a killed member, which is in the room again as soon as it has joined.
func (s *schedule) restart(at time.Duration, member int) {
	s.at(at, func(r *run) { r.restart(member) })
}

// trouble declares that everything published meanwhile is across a fault for every member. It must
// be recovered when this fault and all faults within it are over.
func (s *schedule) trouble(from, to time.Duration) {
	nothing := func(*run) {}
	s.fault(from, to, &fault{a: s.everybody(), b: s.everybody(), whole: true}, nothing, nothing)
}

func (s *schedule) fault(from, to time.Duration, f *fault, begin, end func(*run)) {
	s.at(from, func(r *run) { begin(r); r.begin(f) })
	s.at(to, func(r *run) { end(r); r.end(f) })
}

func (s *schedule) everybody() []int {
	all := make([]int, s.members)
	for i := range all {
		all[i] = i
	}
	return all
}

// between draws a time.
func (s *schedule) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.rng.Int64N(int64(to-from)))
}

// some draws count members such that the others stay linked to each other; with both, so do the
// drawn members.
func (s *schedule) some(count int, both bool) (some, others []int) {
	for {
		all := s.rng.Perm(s.members)
		some, others = all[:count], all[count:]
		if connected(s.links, others) && (!both || connected(s.links, some)) {
			return some, others
		}
	}
}

func without(all []int, member int) []int {
	return slices.DeleteFunc(slices.Clone(all), func(i int) bool { return i == member })
}

// wiring returns the links between members at the beginning.
type wiring func(rng *rand.Rand, members int) [][2]int

// chain links each member with the next.
func chain(_ *rand.Rand, members int) (links [][2]int) {
	for i := 1; i < members; i++ {
		links = append(links, [2]int{i - 1, i})
	}
	return links
}

// everyPair links all members with each other.
func everyPair(_ *rand.Rand, members int) (links [][2]int) {
	for i := range members {
		for j := range i {
			links = append(links, [2]int{j, i})
		}
	}
	return links
}

// sixEach links each member with six others on average: a ring, and random chords.
func sixEach(rng *rand.Rand, members int) [][2]int {
	links := append(chain(rng, members), [2]int{0, members - 1})
	for len(links) < members*3 {
		i, j := rng.IntN(members), rng.IntN(members)
		if l := [2]int{min(i, j), max(i, j)}; i != j && !slices.Contains(links, l) {
			links = append(links, l)
		}
	}
	return links
}

// connected reports whether the links between the given members alone connect them.
func connected(links [][2]int, members []int) bool {
	reached := []int{members[0]}
	for k := 0; k < len(reached); k++ {
		for _, l := range links {
			for _, to := range [][2]int{{l[0], l[1]}, {l[1], l[0]}} {
				if to[0] == reached[k] && slices.Contains(members, to[1]) && !slices.Contains(reached, to[1]) {
					reached = append(reached, to[1])
				}
			}
		}
	}
	return len(reached) == len(members)
}
