//go:build linux

package netlab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// survived reports whether a process has lived through the whole run.
func (l *life) survived() bool { return l.id.number == 1 && !l.dead.Load() }

// given returns the number of the first message that a process was given after a certain time, and
// of the last.
func (l *life) given(after time.Time) (first, last int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, _ = slices.BinarySearchFunc(l.written, after, time.Time.Compare)
	return first + 1, len(l.written)
}

// foreruns reports whether a process was a member before the other could publish anything. Either
// it was a member before the other started, or both are the first processes of their nodes, which
// began to talk only when all had met.
func (l *life) foreruns(other *life) bool {
	if l.id.number == 1 && other.id.number == 1 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.rec.entered.IsZero() && l.rec.entered.Before(other.started)
}

// due returns which messages of another process a process must have: those of a member that it
// knows, from when its own room is ready.
func (l *life) due(from *life) (first, last int) {
	l.mu.Lock()
	told := l.rec.told[from.id.user] // zero, which is a failure in itself, means all
	if !told.IsZero() && told.Before(l.rec.entered) {
		told = l.rec.entered
	}
	l.mu.Unlock()
	if l.foreruns(from) {
		told = time.Time{}
	}
	return from.given(told)
}

// whole reports whether nothing is missing among the living processes.
func (c *chaos) whole() bool {
	for _, l := range c.living {
		_, given := l.given(time.Time{})
		l.mu.Lock()
		results := len(l.rec.results) == given && !slices.Contains(l.rec.results, 0)
		l.mu.Unlock()
		if !results {
			return false
		}
		for _, from := range c.living {
			if from == l {
				continue
			}
			first, last := l.due(from)
			l.mu.Lock()
			all := l.rec.hasAll(from.id, first, last)
			l.mu.Unlock()
			if !all {
				return false
			}
		}
	}
	return c.unmet() == ""
}

// logFigures logs how much has arrived.
func (c *chaos) logFigures() {
	type figure struct{ due, got, pairs, whole int }
	var among, others figure
	left, unknown := 0, 0
	for _, l := range c.living {
		unknown += l.rec.unknown
		for _, e := range l.rec.notes {
			if e.Type == "member_left" {
				left++
			}
		}
		for _, from := range c.living {
			if from == l {
				continue
			}
			f := &others
			if l.survived() && from.survived() {
				f = &among
			}
			first, last := l.due(from)
			_, missing := l.rec.missing(from.id, first, last)
			f.due += last - first + 1
			f.got += last - first + 1 - missing
			f.pairs++
			if missing == 0 {
				f.whole++
			}
		}
	}
	say := func(what string, f figure) {
		c.t.Logf("%s: %d of %d messages (%.2f %%), all of them in %d of %d pairs", what, f.got, f.due,
			100*float64(f.got)/float64(max(f.due, 1)), f.whole, f.pairs)
	}
	say("between survivors", among)
	say("to or from processes started again", others)
	c.t.Logf("%d results unknown; %d news that a member has left", unknown, left)
	c.logKilled()
	c.logEarlier()
}

// logKilled logs how many messages of killed processes have reached the survivors. None of that is
// promised.
func (c *chaos) logKilled() {
	some, all := 0, 0
	for _, dead := range c.lives {
		for n := 1; dead.dead.Load() && n <= len(dead.written); n++ {
			have, want := 0, 0
			for _, l := range c.living {
				if l.survived() {
					want++
					if l.rec.hasAll(dead.id, n, n) {
						have++
					}
				}
			}
			if have > 0 {
				some++
			}
			if have == want {
				all++
			}
		}
	}
	c.t.Logf("of the killed: %d messages reached a survivor, %d of them all survivors", some, all)
}

// logEarlier logs how many messages from before their start later processes have received.
func (c *chaos) logEarlier() {
	told, of := 0, 0
	for _, l := range c.lives {
		if l.id.number == 1 {
			continue
		}
		of++
		for _, from := range c.lives {
			if _, before := from.given(time.Time{}); l.rec.heard[from.id] != nil {
				first, _ := from.given(l.started)
				_, missing := l.rec.missing(from.id, 1, min(first-1, before))
				told += first - 1 - missing
			}
		}
	}
	c.t.Logf("%d processes started again were told %d messages that others had been given before that, and may have published later", of, told)
}

// maxExplained is how many failures of each kind are reported with all details; the others get one
// line each.
const maxExplained = 3

// stretch is a part of the run.
type stretch struct{ from, to time.Time }

// complaints returns what is wrong, process by process and pair by pair. The run must have stopped.
func (c *chaos) complaints() []string {
	var all []string
	explained := make(map[string]int) // by kind
	complain := func(kind, text string, around stretch, who ...*life) {
		if explained[kind]++; explained[kind] <= maxExplained {
			text += c.story(around, who...)
		}
		all = append(all, text)
	}
	if unmet := c.unmet(); unmet != "" {
		all = append(all, "at the end not counted as members: "+unmet)
	}
	for _, survivors := range []bool{true, false} { // failures between survivors come first
		for _, l := range c.living {
			for _, from := range c.living {
				if from == l || (l.survived() && from.survived()) != survivors {
					continue
				}
				first, last := l.due(from)
				if spans, missing := l.rec.missing(from.id, first, last); missing > 0 {
					complain("missing", fmt.Sprintf("%v misses %d of the messages %d to %d of %v: %s",
						l.id, missing, first, last, from.id, list(spans)), from.stretch(spans), l, from)
				}
			}
		}
	}
	for _, l := range c.living {
		if spans := l.unresolved(); len(spans) > 0 {
			complain("results", fmt.Sprintf("%v has told no result of its lines %s", l.id, list(spans)), l.stretch(spans), l)
		}
	}
	feeds := make(map[string]lifeID)
	for _, l := range c.lives {
		maps.Copy(feeds, l.rec.feeds)
	}
	for _, l := range c.lives {
		if len(l.rec.wrong) > 0 {
			first := l.rec.wrong[0].Time
			text := fmt.Sprintf("%v was told %d events that must not be:", l.id, len(l.rec.wrong))
			for _, e := range l.rec.wrong[:min(len(l.rec.wrong), 10)] {
				text += fmt.Sprintf("\n    %s  %s  %s", c.clock(e.Time), e.Reason, e.encoded)
			}
			complain("events", text, stretch{first, first}, l)
		}
		for from, gaps := range c.gaps(l, feeds) {
			complain("gaps", fmt.Sprintf("%v was told of %d gaps in what %v said, first: %s", l.id, len(gaps), from.id, gaps[0].encoded),
				stretch{gaps[0].Time, gaps[0].Time}, l, from)
		}
	}
	return all
}

// gaps returns the gaps that a process reported in messages of living processes that started after
// it became a member. Messages of killed processes may be lost for everybody. For those that were
// there before it, only what is missing counts.
func (c *chaos) gaps(l *life, feeds map[string]lifeID) map[*life][]event {
	gaps := make(map[*life][]event)
	for _, e := range l.rec.lost {
		for _, from := range c.living {
			// A feed from which no process received a message must belong to its user's only
			// process, if there was only one.
			owner, known := feeds[e.Feed]
			if (known && owner == from.id || !known && from.survived() && e.From.User == from.id.user) && l.foreruns(from) {
				gaps[from] = append(gaps[from], e)
			}
		}
	}
	return gaps
}

// unresolved returns the lines without a result.
func (l *life) unresolved() []span {
	var spans []span
	for i := range l.written {
		if i >= len(l.rec.results) || l.rec.results[i] == 0 {
			spans = extend(spans, i+1)
		}
	}
	return spans
}

// stretch returns when the messages of spans were given to a process.
func (l *life) stretch(spans []span) stretch {
	return stretch{l.written[spans[0].first-1], l.written[spans[len(spans)-1].last-1]}
}

// story describes what happened around a failure: the faults, and what the processes involved
// reported meanwhile and last.
func (c *chaos) story(around stretch, who ...*life) string {
	var b strings.Builder
	from, to := around.from.Add(-10*time.Second), around.to.Add(10*time.Second)
	fmt.Fprintf(&b, "\n  from %s to %s of the run; the faults around it:", c.clock(around.from), c.clock(around.to))
	for _, f := range c.faults {
		if c.begun.Add(f.to).After(from) && c.begun.Add(f.from).Before(to) {
			fmt.Fprintf(&b, "\n    %v", f)
		}
	}
	for _, l := range who {
		const most = 15
		meanwhile, last := make([]event, 0, most), l.rec.notes[max(0, len(l.rec.notes)-5):]
		for _, e := range l.rec.notes {
			if e.Time.After(from) && e.Time.Before(to) && len(meanwhile) < most {
				meanwhile = append(meanwhile, e)
			}
		}
		for _, part := range []struct {
			what   string
			events []event
		}{{"then", meanwhile}, {"last", last}} {
			fmt.Fprintf(&b, "\n  %v told %s, but for messages and results:", l.id, part.what)
			for _, e := range part.events {
				fmt.Fprintf(&b, "\n    %s  %s", c.clock(e.Time), e.encoded)
			}
		}
		fmt.Fprintf(&b, "\n  %v has told by now:", l.id)
		for _, id := range slices.SortedFunc(maps.Keys(l.rec.heard), func(a, b lifeID) int { return strings.Compare(a.String(), b.String()) }) {
			fmt.Fprintf(&b, " %v up to %d,", id, l.rec.heard[id].highest)
		}
		fmt.Fprintf(&b, " and %d results", len(l.rec.results))
	}
	return b.String()
}

// clock returns a time as seconds since the start of the run.
func (c *chaos) clock(at time.Time) string { return fmt.Sprintf("%7.3fs", at.Sub(c.begun).Seconds()) }

// list returns the first spans as text.
func list(spans []span) string {
	const most = 12
	var b strings.Builder
	for _, s := range spans[:min(len(spans), most)] {
		fmt.Fprintf(&b, "%v ", s)
	}
	if len(spans) > most {
		fmt.Fprintf(&b, "and %d more holes", len(spans)-most)
	}
	return strings.TrimSpace(b.String())
}

func TestDueIsWhatWasSaidToMembers(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	born := func(user string, number int, started, entered int64) *life {
		l := &life{chat: &chat{started: at(started)}, id: lifeID{user, number}, rec: newRecord()}
		l.rec.entered = at(entered)
		// Message n in second n of its life.
		for second := started + 1; second <= started+10; second++ {
			l.written = append(l.written, at(second))
		}
		return l
	}
	alice, bob := born("alice", 1, 0, 2), born("bob", 1, 1, 2)
	second, third := born("bob", 2, 20, 25), born("bob", 3, 40, 42)
	alice.rec.told["bob"], bob.rec.told["alice"] = at(4), at(5)
	other := born("carol", 2, 30, 31) // when bob's second process was there
	other.rec.told["bob"] = at(33)
	for _, c := range []struct {
		name     string
		l, from  *life
		foreruns bool
		first    int
	}{
		{"the first, who met before they talked", alice, bob, true, 1},
		{"and the other way round", bob, alice, true, 1},
		{"of one that was started again, to one that was there", alice, second, true, 1},
		{"and of its next", alice, third, true, 1},
		{"of one that was there, to one that came, which was told of it after its last", other, second, false, 11},
		{"of one that was started after that", other, third, true, 1},
		{"of one that was there, and that it was never told of", second, alice, false, 1},
	} {
		first, last := c.l.due(c.from)
		require.Equal(t, c.foreruns, c.l.foreruns(c.from), c.name)
		require.Equal(t, c.first, first, c.name)
		require.Equal(t, 10, last, c.name)
	}
	other.rec.told["bob"], other.rec.entered = at(26), at(24)
	first, _ := other.due(second)
	require.Equal(t, 6, first, "what was given to it when the other was told of it, and later")
	other.rec.entered = at(28)
	first, _ = other.due(second)
	require.Equal(t, 8, first, "but nothing from before the other's room was ready")
}
