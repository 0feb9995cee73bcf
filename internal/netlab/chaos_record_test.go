//go:build linux

package netlab

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lifeID names one process of a chaos run: the user, and the number of the process among the
// user's, from 1.
type lifeID struct {
	user   string
	number int
}

func (l lifeID) String() string { return fmt.Sprintf("%s.%d", l.user, l.number) }

// chaosText is the text of a process's message with that number, from 1; chaosNumber parses it.
func chaosText(life, number int) string { return fmt.Sprintf("%d/%d", life, number) }

func chaosNumber(e event) (from lifeID, number int, err error) {
	from.user = e.From.User
	if _, err := fmt.Sscanf(e.Text, "%d/%d", &from.number, &number); err != nil || e.Text != chaosText(from.number, number) {
		return from, 0, fmt.Errorf("%q: not what anybody was made to say", e.Text)
	}
	if number < 1 {
		return from, 0, fmt.Errorf("%q: numbers count from 1", e.Text)
	}
	return from, number, nil
}

// hearing is what one process has received of another's broadcasts.
type hearing struct {
	seen    []bool // by number-1
	count   int    // how many of them were seen
	highest int
	gap     bool // there was a gap_lost since the last message
}

// record is what one process has reported so far. It keeps the numbers of the broadcasts, and of
// everything else what helps to understand a failure.
type record struct {
	entered time.Time            // when its room was ready; zero: not yet
	told    map[string]time.Time // when each user was first reported as a member
	there   map[string]bool      // who is a member now, according to its reports
	heard   map[lifeID]*hearing
	feeds   map[string]lifeID // the process that each feed belongs to
	lost    []event           // every gap_lost
	results []int             // how many results each line has, by line-1
	unknown int               // results that are "unknown"
	wrong   []event           // what must never be reported, with the reason in Reason
	notes   []event           // everything but messages and good results
	seq     map[string]uint64 // the last number of each stream
}

func newRecord() *record {
	return &record{
		told: make(map[string]time.Time), there: make(map[string]bool), heard: make(map[lifeID]*hearing),
		feeds: make(map[string]lifeID), seq: make(map[string]uint64),
	}
}

// take records one more event.
func (r *record) take(e event) {
	amiss := func(format string, args ...any) {
		e.Reason = fmt.Sprintf(format, args...)
		r.wrong = append(r.wrong, e)
	}
	if e.Seq != 0 {
		if want := r.seq[e.Room] + 1; e.Seq != want {
			amiss("seq %d after %d", e.Seq, want-1)
		}
		r.seq[e.Room] = e.Seq
	}
	switch e.Type {
	case "message":
		r.message(e, amiss)
		return
	case "sent":
		for len(r.results) < e.Line {
			r.results = append(r.results, 0)
		}
		r.results[e.Line-1]++
		if r.results[e.Line-1] > 1 {
			amiss("result %d of line %d", r.results[e.Line-1], e.Line)
		}
		switch {
		case e.OK:
			return
		case e.Error == "unknown":
			r.unknown++
			return
		}
		amiss("not published")
	case "entered":
		r.entered = e.Time
	case "member_joined":
		if r.told[e.Member.User].IsZero() {
			r.told[e.Member.User] = e.Time
		}
		r.there[e.Member.User] = true
	case "member_left":
		r.there[e.Member.User] = false
	case "gap_lost":
		r.lost = append(r.lost, e)
		if from, ok := r.feeds[e.Feed]; ok {
			r.heard[from].gap = true
		}
	case "error", "lagged", "identity_conflict", "duplicate_device", "logged_out", "bye":
		amiss("%s", e.Type)
	}
	r.notes = append(r.notes, e)
}

// message records a broadcast. It must come once, in order, and after a gap only if the gap was
// reported.
func (r *record) message(e event, amiss func(string, ...any)) {
	from, number, err := chaosNumber(e)
	if err != nil {
		amiss("%v", err)
		return
	}
	h := r.heard[from]
	if h == nil {
		// Messages before its first are judged by when it learned of the other process.
		h = &hearing{highest: number - 1}
		r.heard[from] = h
		r.feeds[e.Feed] = from
	}
	if r.feeds[e.Feed] != from {
		amiss("%v in a feed of another", from)
	}
	for len(h.seen) < number {
		h.seen = append(h.seen, false)
	}
	switch {
	case h.seen[number-1]:
		amiss("told twice: %v %d", from, number)
		return
	case number <= h.highest:
		amiss("out of order: %v %d after %d", from, number, h.highest)
	case number > h.highest+1 && !h.gap:
		amiss("skipped in silence: %v %d after %d", from, number, h.highest)
	}
	h.seen[number-1], h.gap = true, false
	h.highest = max(h.highest, number)
	h.count++
}

// span is a range of numbers, both ends included.
type span struct{ first, last int }

func (s span) String() string {
	if s.first == s.last {
		return fmt.Sprint(s.first)
	}
	return fmt.Sprintf("%d-%d", s.first, s.last)
}

// missing returns which of a sender's messages from first to last have not arrived, and how many
// they are.
func (r *record) missing(from lifeID, first, last int) (spans []span, count int) {
	var seen []bool
	if h := r.heard[from]; h != nil {
		seen = h.seen
	}
	for n := first; n <= last; n++ {
		if n <= len(seen) && seen[n-1] {
			continue
		}
		count++
		spans = extend(spans, n)
	}
	return spans, count
}

// extend adds a number that is higher than all those in spans.
func extend(spans []span, n int) []span {
	if last := len(spans) - 1; last >= 0 && spans[last].last == n-1 {
		spans[last].last = n
		return spans
	}
	return append(spans, span{n, n})
}

// hasAll reports whether missing would find nothing.
func (r *record) hasAll(from lifeID, first, last int) bool {
	h := r.heard[from]
	return last < first || h != nil && len(h.seen) >= last && !slices.Contains(h.seen[first-1:last], false)
}

func TestRecordsFindWhatIsAmiss(t *testing.T) {
	say := func(text string) event {
		e := event{Type: "message", Text: text, Feed: "f" + text[:1]}
		e.From.User = "bob"
		return e
	}
	gap := func(feed string) event { return event{Type: "gap_lost", Feed: feed} }
	result := func(line int, ok bool, code string) event {
		return event{Type: "sent", Line: line, OK: ok, Error: code}
	}
	for _, c := range []struct {
		name   string
		events []event
		wrong  string // all reasons
	}{
		{"in order", []event{say("1/1"), say("1/2"), say("1/3")}, ""},
		{"from the middle", []event{say("1/7"), say("1/8")}, ""},
		{"two lives", []event{say("1/1"), say("2/1"), say("1/2"), say("2/2")}, ""},
		{"twice", []event{say("1/1"), say("1/2"), say("1/1")}, "told twice: bob.1 1"},
		{"inversion", []event{say("1/1"), gap("f1"), say("1/3"), say("1/2")}, "out of order: bob.1 2 after 3"},
		{"before the first", []event{say("1/3"), say("1/2")}, "out of order: bob.1 2 after 3"},
		{"silent hole", []event{say("1/1"), say("1/3")}, "skipped in silence: bob.1 3 after 1"},
		{"a hole that was told", []event{say("1/1"), gap("f1"), say("1/3")}, ""},
		{"a second hole that was not", []event{say("1/1"), gap("f1"), say("1/3"), say("1/5")}, "skipped in silence: bob.1 5 after 3"},
		{"a hole told of another feed", []event{say("2/1"), say("1/1"), gap("f2"), say("1/3")}, "skipped in silence: bob.1 3 after 1"},
		{"no number", []event{say("hello")}, `"hello": not what anybody was made to say`},
		{"no such number", []event{say("1/0")}, `"1/0": numbers count from 1`},
		{"results", []event{result(1, true, ""), result(2, false, "unknown")}, ""},
		{"a second result", []event{result(1, true, ""), result(1, true, "")}, "result 2 of line 1"},
		{"not published", []event{result(1, false, "not_joined")}, "not published"},
		{"dropped events", []event{{Type: "peer_up", Seq: 1}, {Type: "peer_up", Seq: 3}}, "seq 3 after 1"},
		{"streams", []event{{Type: "peer_up", Seq: 1}, {Type: "x", Seq: 1, Room: "ops"}, {Type: "peer_up", Seq: 2}}, ""},
		{"lagged", []event{{Type: "lagged", Seq: 1}}, "lagged"},
	} {
		r := newRecord()
		for _, e := range c.events {
			r.take(e)
		}
		var reasons []string
		for _, w := range r.wrong {
			reasons = append(reasons, w.Reason)
		}
		require.Equal(t, c.wrong, strings.Join(reasons, "; "), c.name)
	}
}

func TestRecordsKnowWhatIsMissing(t *testing.T) {
	r, bob := newRecord(), lifeID{"bob", 2}
	for _, n := range []int{3, 4, 6, 9} {
		e := event{Type: "message", Text: chaosText(bob.number, n)}
		e.From.User = bob.user
		r.take(e)
	}
	for _, c := range []struct {
		first, last int
		want        string
		count       int
	}{
		{1, 10, "[1-2 5 7-8 10]", 6}, {3, 4, "[]", 0}, {4, 6, "[5]", 1}, {9, 12, "[10-12]", 3}, {11, 12, "[11-12]", 2}, {7, 6, "[]", 0},
	} {
		spans, count := r.missing(bob, c.first, c.last)
		require.Equal(t, c.want, fmt.Sprint(spans), "%v", c)
		require.Equal(t, c.count, count, "%v", c)
		require.Equal(t, count == 0, r.hasAll(bob, c.first, c.last), "%v", c)
	}
	_, count := r.missing(lifeID{"bob", 1}, 1, 3)
	require.Equal(t, 3, count, "of whom nothing was heard")
	require.False(t, r.hasAll(lifeID{"bob", 1}, 1, 3))
	require.True(t, r.hasAll(lifeID{"bob", 1}, 1, 0), "who has said nothing")
}

func TestRecordsKnowWhoIsThere(t *testing.T) {
	r := newRecord()
	member := func(typ string, at int64) event {
		e := event{Type: typ, Time: time.Unix(at, 0)}
		e.Member.User = "bob"
		return e
	}
	r.take(member("member_joined", 5))
	require.True(t, r.there["bob"])
	r.take(member("member_left", 6))
	require.False(t, r.there["bob"])
	r.take(member("member_joined", 7))
	require.True(t, r.there["bob"])
	require.Equal(t, time.Unix(5, 0), r.told["bob"])
	require.Len(t, r.notes, 3)
}
