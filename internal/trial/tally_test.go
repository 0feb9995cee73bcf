package trial

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// tally is the result of a run.
type tally struct {
	share        // of all that was due
	across share // of what was due across a fault
	// The longest time from a link's return to the last message it had delayed; 0 without a fault.
	recovered time.Duration
	healed    time.Duration  // the same, since packets pass
	late      int            // how many of across took longer than recovery
	wrong     map[string]int // duplicates, violations of order, reports of loss
	missing   []string       // some of what did not arrive
}

type share struct{ due, got int }

func (s *share) add(arrived bool) {
	s.due++
	if arrived {
		s.got++
	}
}

func (s share) String() string {
	if s.due == 0 {
		return "–"
	}
	text := fmt.Sprintf("%.1f %%", 100*float64(s.got)/float64(s.due))
	if s.got < s.due && text == "100.0 %" {
		return "99.9 %" // only a complete share may show as 100 %
	}
	return text
}

// someMissing bounds the examples of a failure.
const someMissing = 10

func (r *run) count() tally {
	t := tally{wrong: make(map[string]int)}
	// Some of what a killed member had not sent out yet may be lost, and must then be reported.
	// What had to arrive is counted separately.
	excused := make(map[string]bool)
	for _, st := range r.stays {
		excused[userName(st.member)] = excused[userName(st.member)] || st.killed
	}
	known := r.known()
	for _, st := range r.stays {
		for what, n := range st.wrong {
			t.wrong[what] += n
		}
		for user, n := range st.lost {
			if !excused[user] {
				t.wrong["reported lost"] += n
			}
		}
		if st.killed {
			continue
		}
		lacking := make(map[string]int) // by user
		for _, key := range slices.SortedFunc(maps.Keys(st.due), inOrder) {
			if d := st.due[key]; r.counts(d.message) {
				t.add(r, st, d)
				if d.at == 0 && known[key] {
					lacking[userName(r.stays[d.message.stay].member)]++
				}
			}
		}
		for user, n := range lacking {
			if untold := n - st.lost[user]; untold > 0 {
				t.wrong["missing without a word"] += untold
			}
		}
	}
	return t
}

// known returns which messages somebody has who is still there: what only those had who were killed
// is missing, and nobody can say so.
func (r *run) known() map[[2]int]bool {
	known := make(map[[2]int]bool)
	for _, st := range r.stays {
		for key, d := range st.due {
			if d.at != 0 && !st.killed || !r.stays[d.message.stay].killed {
				known[key] = true
			}
		}
	}
	return known
}

// counts reports whether a message must arrive. A message that a member was still publishing when
// it was killed need not.
func (r *run) counts(m *message) bool {
	if !r.stays[m.stay].killed {
		return true
	}
	return isClosed(m.done) && m.outcome() == nil
}

func (t *tally) add(r *run, st *stay, d *due) {
	arrived := d.at != 0
	t.share.add(arrived)
	if !arrived && len(t.missing) < someMissing {
		t.missing = append(t.missing, fmt.Sprintf("member %d (stay %d) lacks %d of member %d (stay %d), published at %v",
			st.member, st.id, d.message.count, r.stays[d.message.stay].member, d.message.stay, d.message.at))
	}
	if d.fault == nil {
		return
	}
	t.across.add(arrived)
	if arrived {
		back, healed := r.due(d, r.stays[d.message.stay].member, st.member)
		t.recovered = max(t.recovered, d.at-back)
		if d.at-back > recovery {
			t.late++
		}
		t.healed = max(t.healed, d.at-healed)
	}
}

func (t tally) faults() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(t.wrong)) {
		parts = append(parts, fmt.Sprintf("%d %s", t.wrong[what], what))
	}
	return strings.Join(parts, ", ")
}

func inOrder(a, b [2]int) int { return slices.Compare(a[:], b[:]) }
