package trial

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// oneOf returns one of three wirings: all pairs, a chain, or a tree with some more links.
func oneOf(seed uint64) wiring { return []wiring{everyPair, chain, tree}[seed%3] }

// tree links each member with one before it, and sometimes with others.
func tree(rng *rand.Rand, members int) (links [][2]int) {
	for i := 1; i < members; i++ {
		to := rng.IntN(i)
		for j := range i {
			if j == to || rng.IntN(4) == 0 {
				links = append(links, [2]int{j, i})
			}
		}
	}
	return links
}

// anything plans up to a minute of traffic and random faults, which overlap. It returns a
// description of its plan.
func anything(s *schedule) (words []string) {
	end := s.between(15*sec, time.Minute)
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	every := s.between(100*time.Millisecond, 800*time.Millisecond)
	s.traffic(0, end, every)
	say("traffic each %v for %v", every, end)
	var calm time.Duration // no member is apart from others before this
	if s.rng.IntN(2) == 0 {
		// Do not choose a member whose death parts the others: messages published on the far side
		// would be from before the time when a member that comes back links them again. Nor kill it
		// while it is alone, when everything that it publishes counts as sent.
		killed, _ := s.some(1, false)
		calm = s.between(0, end)
		s.kill(calm, killed[0])
		say("%v: kill %d", calm, killed[0])
		if s.rng.IntN(3) > 0 {
			back := calm + s.between(time.Second, 15*sec)
			s.restart(back, killed[0])
			say("%v: restart %d", back, killed[0])
		}
	}
	lossy, paused := false, make(map[int]bool)
	for range 2 + s.rng.IntN(8) {
		from := s.between(calm, end)
		to := from + s.between(50*time.Millisecond, 20*sec)
		if s.rng.IntN(3) == 0 {
			to = from + s.between(50*time.Millisecond, 2*sec)
		}
		one := s.rng.IntN(s.members)
		switch s.rng.IntN(6) {
		case 0, 1:
			all := s.rng.Perm(s.members)
			n := 1 + s.rng.IntN(s.members-1)
			s.cut(from, to, all[:n], all[n:])
			say("%v to %v: cut %v from %v", from, to, all[:n], all[n:])
		case 2:
			s.away(from, to, one)
			say("%v to %v: %d away", from, to, one)
		case 3:
			if !paused[one] {
				paused[one] = true
				s.pause(from, to, one)
				say("%v to %v: %d paused", from, to, one)
			}
		case 4:
			if percent := 1 + 20*s.rng.Float64(); !lossy {
				lossy = true
				s.loss(from, to, percent)
				say("%v to %v: loss of %.0f %%", from, to, percent)
			}
		case 5:
			count := 1 + s.rng.IntN(200)
			s.burst(from, one, count, usual)
			say("%v: %d publishes %d", from, one, count)
		}
	}
	return words
}

// TestRandomSchedules runs whole nodes through random schedules: everything that must arrive does,
// once and in order, and nothing is reported lost.
func TestRandomSchedules(t *testing.T) {
	for k := range random {
		seed := seed + k
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			var words []string
			members := 4 + int(seed*7%3)
			s := newSchedule(seed, members, oneOf(seed), func(s *schedule) { words = anything(s) })
			var out tally
			start := time.Now()
			synctest.Test(t, func(t *testing.T) {
				r := &run{t: t, schedule: s, driver: oursDriver}
				out = r.execute(seed)
			})
			require.NotZero(t, out.due)
			if out.got != out.due || len(out.wrong) > 0 {
				t.Errorf("STARLING_SEED=%d: %d of %d arrived; %s\n%s\n%d members, links %v\n%s", seed, out.got, out.due, out.faults(),
					strings.Join(out.missing, "\n"), members, s.links, strings.Join(words, "\n"))
			}
			t.Logf("%d of %d across a fault, recovered %v after the link (%v)", out.across.got, out.across.due, out.recovered, time.Since(start).Round(time.Millisecond))
		})
	}
}
