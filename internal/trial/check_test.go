package trial

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// heard runs a room of two members in which the second must have three messages of the first. It
// receives the given ones, by count.
func heard(user string, counts ...int) tally {
	r := &run{zero: time.Now().Add(-time.Minute)}
	from, to := r.newStay(0), r.newStay(1)
	r.current = []*stay{from, to}
	var sent []*message
	for range 3 {
		sent = append(sent, r.newMessage(from, usual))
	}
	for _, k := range counts {
		to.message(user, sent[k].data())
	}
	return r.count()
}

func TestWhatIsWrongIsNoticed(t *testing.T) {
	for _, c := range []struct {
		name   string
		user   string
		counts []int
		got    int
		wrong  string
	}{
		{"all is well", userName(0), []int{0, 1, 2}, 3, ""},
		{"one lost", userName(0), []int{0, 2}, 2, "1 missing without a word"},
		{"one twice", userName(0), []int{0, 1, 1, 2}, 3, "1 duplicate"},
		{"one late", userName(0), []int{0, 2, 1}, 3, "1 out of order"},
		{"one twice and late", userName(0), []int{0, 1, 2, 0}, 3, "1 duplicate"},
		{"under another name", userName(1), []int{0, 1, 2}, 3, "3 from somebody else"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := heard(c.user, c.counts...)
			require.Equal(t, share{due: 3, got: c.got}, out.share)
			require.Equal(t, c.wrong, out.faults())
			require.Len(t, out.missing, 3-c.got)
		})
	}
}

func TestAKilledSenderIsHeldToWhatItReported(t *testing.T) {
	r := &run{zero: time.Now().Add(-time.Minute)}
	from, to := r.newStay(0), r.newStay(1)
	r.current = []*stay{from, to}
	sent := []*message{r.newMessage(from, usual), r.newMessage(from, usual), r.newMessage(from, usual)}
	from.killed = true
	for k, err := range []error{nil, context.Canceled} {
		sent[k].outcome = func() error { return err }
		close(sent[k].done)
	}
	require.Empty(t, r.count().wrong, "nobody who is left has it, or can say so")
	other := r.newStay(2)
	other.expect(&due{message: sent[0]})
	other.message(userName(0), sent[0].data())
	require.Equal(t, "1 missing without a word", r.count().faults())
	other.killed = true
	to.gap(userName(0), 3)
	out := r.count()
	require.Equal(t, share{due: 1}, out.share, "the first was reported as sent, the second failed, the third had not ended")
	require.Empty(t, out.wrong, "what the killed member had not brought out may be reported lost")
	to.gap(userName(1), 1)
	require.Equal(t, "1 reported lost", r.count().faults())
}

func TestRecoveryCountsFromTheLinksReturn(t *testing.T) {
	r := &run{zero: time.Now().Add(-10 * time.Second)}
	from, to := r.newStay(0), r.newStay(1)
	r.current = []*stay{from, to}
	f := &fault{a: []int{0}, b: []int{1}}
	r.begin(f)
	m := r.newMessage(from, usual)
	to.message(userName(0), m.data())
	at := to.due[[2]int{from.id, 0}].at
	f.healed, f.back = at-3*time.Second, at-time.Second
	m.at = at - 5*time.Second
	out := r.count()
	require.Equal(t, share{due: 1, got: 1}, out.across)
	require.Equal(t, time.Second, out.recovered)
	require.Equal(t, 3*time.Second, out.healed)
}

func TestASeedGivesOneSchedule(t *testing.T) {
	times := func(s *schedule) (all []time.Duration) {
		for _, step := range s.steps {
			all = append(all, step.at)
		}
		return all
	}
	for _, sc := range scenarios {
		a, b := newSchedule(7, sc.members, sc.links, sc.plan), newSchedule(7, sc.members, sc.links, sc.plan)
		require.Equal(t, a.links, b.links, sc.name)
		require.Equal(t, times(a), times(b), sc.name)
		require.True(t, connected(a.links, a.everybody()), sc.name)
	}
}
