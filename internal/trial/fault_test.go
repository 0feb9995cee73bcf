package trial

import (
	"slices"
	"time"

	"github.com/stretchr/testify/require"
)

// lookEach is how often a run checks for a link that returns.
const lookEach = 10 * time.Millisecond

// fault is a period in which packets between members of a and members of b do not pass, or not
// reliably.
type fault struct {
	a, b []int
	// It ends with the return of links, which takes a varying time.
	linked bool
	// It stands for all faults within it, and ends with the last of them.
	whole  bool
	began  time.Duration
	healed time.Duration // when packets pass again
	back   time.Duration // when there is also a link
}

func (f *fault) apart(i, j int) bool {
	return slices.Contains(f.a, i) && slices.Contains(f.b, j) || slices.Contains(f.a, j) && slices.Contains(f.b, i)
}

func (r *run) begin(f *fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.began = r.now()
	r.faults = append(r.faults, f)
}

// end ends a fault, and watches for the return of a link.
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

// heal undoes one cut, though the network can only undo all cuts at once.
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

// due returns when a message that a fault delayed should have reached a member, apart from the time
// that recovery takes. That is after the link's return, and after the return of every further link
// between sender and receiver that was lost before recovery was over.
func (r *run) due(d *due, sender, receiver int) (back, healed time.Duration) {
	back, healed = max(d.message.at, d.fault.back), max(d.message.at, d.fault.healed)
	for again := true; again; {
		again = false
		for _, f := range r.ended {
			if f.linked && f.apart(sender, receiver) && f.began < back+recovery && f.back > back && f.back <= d.at {
				back, healed, again = f.back, max(healed, f.healed), true
			}
		}
	}
	return back, healed
}

// closeWhole sets the end of each fault that stands for others to the end of the last of these.
func (r *run) closeWhole() {
	for k, f := range r.ended {
		for _, within := range r.ended[:k] {
			if f.whole {
				f.back = max(f.back, within.back)
			}
		}
	}
}
