package stay

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// ward is a roster in which "a" is this node. A test sets its neighbours and its time by hand.
type ward struct {
	*roster
	t      *testing.T
	now    time.Time
	linked map[peer.ID]bool
	signed map[peer.ID]time.Time // when a device last said something over its connection
	list   []string              // the last accusations
	gone   []string
}

func newWard(t *testing.T, users ...string) *ward {
	w := &ward{roster: newRoster(&Door{}, newJournal(FeedTag{}, plenty), "a", 10*time.Second), t: t, now: epoch, linked: make(map[peer.ID]bool), signed: make(map[peer.ID]time.Time)}
	w.jitter = func(time.Duration) time.Duration { return 0 }
	w.turn = func(peer.ID, time.Duration) time.Duration { return 0 }
	w.pace = 1
	w.roster.linked = func(p peer.ID) bool { return w.linked[p] }
	w.roster.signs = func(p peer.ID) time.Time { return w.signed[p] }
	for i, u := range append([]string{"a"}, users...) {
		_, c := w.apply(w.now, entry("user "+u, u, 100, byte(i+1), true))
		require.Equal(t, joined, c)
	}
	return w
}

// link makes a device a neighbour of this node.
func (w *ward) link(devices ...string) {
	for _, d := range devices {
		w.linked[peer.ID(d)] = true
		w.subscribed(w.now, peer.ID(d))
	}
}

// cut ends the connection to a device.
func (w *ward) cut(device string) {
	delete(w.linked, peer.ID(device))
	w.lost(w.now, peer.ID(device))
}

// of is an accusation of a device as it is known.
func (w *ward) of(device string) accusation {
	s := w.devices[peer.ID(device)]
	return accusation{device: s.Peer, feed: s.entry.Feed, sequence: s.entry.Sequence}
}

// pass lets time pass, and does everything that is due in it.
func (w *ward) pass(d time.Duration) {
	w.t.Helper()
	w.list, w.gone = nil, nil
	end := w.now.Add(d)
	for range 10000 {
		for _, s := range w.accusations(w.now, len(w.linked) > 0) {
			w.list = append(w.list, string(s.Peer))
		}
		for _, s := range w.expire(w.now) {
			w.gone = append(w.gone, string(s.Peer))
		}
		due := w.due()
		if due.IsZero() || due.After(end) {
			w.now = end
			return
		}
		require.False(w.t, due.Before(w.now), "due in the past, for ever")
		if due.Equal(w.now) && w.refutes(w.now) {
			continue
		}
		w.now = due
	}
	w.t.Fatal("something is due for ever")
}

func TestALostNeighbourIsAccusedOnceAndDroppedWhenTheGraceIsOver(t *testing.T) {
	w := newWard(t, "b", "c")
	w.link("b", "c")
	w.cut("b")
	w.pass(LostFor - 1)
	require.Empty(t, w.list)
	w.pass(1)
	require.Equal(t, []string{"b"}, w.list)
	w.pass(10*time.Second - LostFor - 1)
	require.Empty(t, w.list)
	require.Empty(t, w.gone)
	w.pass(1)
	require.Equal(t, []string{"b"}, w.gone)
}

func TestWhatHappensToALostNeighbour(t *testing.T) {
	for name, c := range map[string]struct {
		then    func(w *ward) // 2 s after the connection was lost and 1 s after it was accused
		dropped time.Duration // after the loss; 0: not
		accused bool          // again
	}{
		"nothing":                        {func(*ward) {}, 10 * time.Second, false},
		"it is a neighbour again":        {func(w *ward) { w.link("b") }, 0, false},
		"others pass on what it says":    {func(w *ward) { w.spoke(w.now, "b") }, 0, false},
		"it answers":                     {func(w *ward) { w.apply(w.now, entry("user b", "b", 101, 2, true)) }, 10 * time.Second, true},
		"it answers and lives":           {func(w *ward) { w.spoke(w.now, "b"); w.apply(w.now, entry("user b", "b", 101, 2, true)) }, 0, false},
		"connected, and not in the room": {func(w *ward) { w.reconnected(w.now, "b") }, 12 * time.Second, false},
		"somebody repeats its entry":     {func(w *ward) { w.hearsay(w.now, entry("user b", "b", 100, 2, true), time.Time{}) }, 10 * time.Second, false},
		"what it said before is fetched": {func(w *ward) { w.devices["b"].hear(w.now.Add(-5 * time.Second)) }, 10 * time.Second, false},
		"it leaves":                      {func(w *ward) { w.apply(w.now, entry("user b", "b", 101, 2, false)) }, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t, "b", "c")
			w.link("b", "c")
			w.pass(time.Minute)
			w.cut("b")
			w.pass(2 * time.Second)
			require.Equal(t, []string{"b"}, w.list)
			c.then(w)
			if c.dropped == 0 {
				w.pass(time.Minute)
				require.Empty(t, w.gone)
			} else {
				w.pass(c.dropped - 2*time.Second - 1)
				require.Empty(t, w.gone)
			}
			require.Equal(t, c.accused, len(w.list) > 0, "%v", w.list)
			if c.dropped > 0 {
				w.pass(1)
				require.Equal(t, []string{"b"}, w.gone)
			}
		})
	}
}

func TestAnEchoOfALostNeighbourIsNoSignOfLife(t *testing.T) {
	w := newWard(t, "b", "c")
	w.link("b", "c")
	w.cut("b")
	w.pass(echoWait - 1)
	w.spoke(w.now, "b")
	w.pass(9*time.Second + 1)
	require.Equal(t, []string{"b"}, w.gone)
}

func TestWhatAnAccusationDoes(t *testing.T) {
	const ago = time.Minute
	for name, c := range map[string]struct {
		before  func(w *ward) // a minute after all joined
		accuse  func(w *ward) accusation
		by      string
		age     time.Duration
		ask     bool
		dropped bool // after the grace
		longer  bool // and the last word of a neighbour has been waited for
	}{
		"of a member that is no neighbour": {dropped: true},
		"of a neighbour heard of lately":   {before: func(w *ward) { w.link("b") }},
		"of a neighbour that is quiet":     {before: func(w *ward) { w.link("b"); w.pass(freshFor) }, ask: true, dropped: true, longer: true},
		"a question":                       {accuse: func(w *ward) accusation { a := w.of("b"); a.question = true; return a }},
		"of a neighbour that says something over its connection": {before: func(w *ward) {
			w.link("b")
			w.pass(freshFor)
			w.signed["b"] = w.now
		}},
		"an old one, of a neighbour":                      {before: func(w *ward) { w.link("b"); w.pass(freshFor) }, age: freshFor},
		"an old one":                                      {age: 20 * time.Second, dropped: true},
		"an old one, and it was heard of since":           {before: func(w *ward) { w.spoke(w.now, "b"); w.pass(time.Second) }, age: 2 * time.Second},
		"of an entry that it has replaced":                {accuse: func(w *ward) accusation { a := w.of("b"); a.sequence--; return a }},
		"of a later entry":                                {accuse: func(w *ward) accusation { a := w.of("b"); a.sequence = 1 << 63; return a }, dropped: true},
		"of another stay":                                 {accuse: func(w *ward) accusation { a := w.of("b"); a.feed[0]++; return a }},
		"of a stranger":                                   {accuse: func(w *ward) accusation { return accusation{device: "x", feed: FeedID{2}, sequence: 100} }},
		"of oneself":                                      {by: "b"},
		"by a stranger":                                   {by: "x"},
		"by a member that has left":                       {before: func(w *ward) { w.apply(w.now, entry("user c", "c", 101, 3, false)) }},
		"by a member that was dropped, when it was there": {before: func(w *ward) { w.leave(w.now, w.devices["c"], Dropped) }, dropped: true},
		"by a member that was evicted":                    {before: func(w *ward) { w.leave(w.now, w.devices["c"], Evicted) }},
		"of a member that has left":                       {before: func(w *ward) { w.apply(w.now, entry("user b", "b", 101, 2, false)) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t, "b", "c", "d")
			w.link("d")
			w.pass(ago)
			if c.before != nil {
				c.before(w)
			}
			a := w.of("b")
			if c.accuse != nil {
				a = c.accuse(w)
			}
			by := peer.ID("c")
			if c.by != "" {
				by = peer.ID(c.by)
			}
			was := w.present
			require.Equal(t, c.ask, w.accused(w.now, w.now.Add(-c.age), by, a))
			grace := 10 * time.Second
			if c.longer {
				grace += lastWord
			}
			w.pass(grace - 1)
			require.Empty(t, w.gone)
			require.Equal(t, was, w.present)
			w.pass(1)
			require.Equal(t, c.dropped, len(w.gone) == 1, "%v", w.gone)
		})
	}
}

func TestNobodyAccusesWhomSomebodyHasAccused(t *testing.T) {
	w := newWard(t, "b", "c")
	w.link("b", "c")
	w.pass(time.Minute)
	w.cut("b")
	w.pass(LostFor - 1)
	w.accused(w.now, w.now, "c", w.of("b"))
	w.pass(10 * time.Second)
	require.Empty(t, w.list)
	require.Equal(t, []string{"b"}, w.gone)
}

func TestAnAccusedNodeAnswersOnceForEachEntryAndNotTooOften(t *testing.T) {
	w := newWard(t, "b", "c", "d")
	var answers []time.Duration
	for range 300 { // half a minute of accusations by everybody, of whatever entry there is
		for _, by := range []peer.ID{"b", "c", "d"} {
			w.accused(w.now, w.now, by, w.of("a"))
		}
		if w.refutes(w.now) {
			answers = append(answers, w.now.Sub(epoch))
			w.apply(w.now, entry("user a", "a", w.of("a").sequence+1, 1, true))
		}
		w.now = w.now.Add(100 * time.Millisecond)
	}
	require.Len(t, answers, 10, "%v", answers)
	w.now = w.now.Add(time.Minute)
	require.True(t, w.refutes(w.now), "the last of them")
	old := w.of("a")
	w.apply(w.now, entry("user a", "a", old.sequence+1, 1, true))
	w.accused(w.now, w.now, "b", old)
	require.True(t, w.refuteAt.IsZero(), "answered already")

	w.accused(w.now, w.now, "b", w.of("a"))
	w.apply(w.now, entry("user a", "a", w.of("a").sequence+1, 1, true)) // its statement was renewed
	require.False(t, w.refutes(w.now.Add(time.Second)))
}

func TestAnAccuserHasSoManyMembersUnderSuspicionAndNoMore(t *testing.T) {
	var all []string
	for i := range 100 {
		all = append(all, string(rune(0x100+i)))
	}
	w := newWard(t, append(all, "x")...)
	w.pass(time.Minute)
	suspects := func() (n int) {
		for s := range w.order.all() {
			if !s.suspected.IsZero() {
				n++
			}
		}
		return n
	}
	accuse := func() {
		for _, d := range all {
			w.accused(w.now, w.now, "x", w.of(d))
		}
	}
	accuse()
	require.Equal(t, maxAccused, suspects())
	w.now = w.now.Add(5 * time.Second)
	accuse()
	require.Equal(t, maxAccused, suspects(), "more only when those are settled")
	for _, d := range all {
		w.spoke(w.now, peer.ID(d))
	}
	require.Zero(t, suspects())
	w.now = w.now.Add(time.Millisecond)
	accuse()
	require.LessOrEqual(t, suspects(), 5, "and no faster than one a second")
}

func TestAMemberThatNobodySeesIsAccusedWhenItHasBeenSilentForThreeBeats(t *testing.T) {
	w := newWard(t, "b", "c")
	w.link("c")
	w.pass(SilentBeats*BeatEvery - 1)
	require.Empty(t, w.list)
	w.spoke(w.now, "b")
	w.pass(SilentBeats*BeatEvery - 1)
	require.Empty(t, w.list)
	w.pass(1)
	require.Equal(t, []string{"b"}, w.list)
	w.pass(10 * time.Second)
	require.Equal(t, []string{"b"}, w.gone)
}

func TestWhoIsNotSeenByAllSaysThatItIsThere(t *testing.T) {
	w := newWard(t, "b", "c")
	w.link("b")
	require.Equal(t, epoch.Add(BeatEvery), w.beatAt(epoch))
	w.link("c")
	require.Zero(t, w.beatAt(epoch))
	w.present = 300
	require.Equal(t, 20*time.Minute, w.beat())
}

func TestAMemberThatOthersStillHaveIsAskedForAgain(t *testing.T) {
	w := newWard(t, "b", "c")
	w.link("c")
	w.leave(w.now, w.devices["b"], Dropped)
	w.hearsay(w.now, entry("user b", "b", 100, 2, true), time.Time{})
	w.pass(10 * time.Second)
	require.Empty(t, w.list, "their grace may still be running")
	start := w.now
	var asked []time.Duration
	for w.now.Sub(start) < 9*time.Minute { // others report it twice a second
		w.hearsay(w.now, entry("user b", "b", 100, 2, true), time.Time{})
		w.pass(500 * time.Millisecond)
		for range w.list {
			asked = append(asked, w.now.Sub(start)) // the end of the half second in which it was asked
		}
	}
	s := time.Second
	require.Equal(t, []time.Duration{s / 2, 3 * s / 2, 7 * s / 2, 15 * s / 2, 31 * s / 2, 63 * s / 2, 127 * s / 2}, asked[:7], "less and less often")
	for i := range asked[7:] {
		require.Equal(t, doubtEvery, asked[7+i]-asked[6+i])
	}
	require.Len(t, asked, 14)
	_, c := w.apply(w.now, entry("user b", "b", 101, 2, true))
	require.Equal(t, joined, c)
}

// Members that have been its neighbours since before may be about to drop the member themselves; a
// new neighbour brings the word of another part of the room.
func TestAMemberThatANewNeighbourHasIsAskedForAtOnce(t *testing.T) {
	w := newWard(t, "b", "c")
	w.link("c")
	w.leave(w.now, w.devices["b"], Dropped)
	w.pass(time.Second)
	w.hearsay(w.now, entry("user b", "b", 100, 2, true), w.now)
	w.pass(doubtSpread)
	require.Equal(t, []string{"b"}, w.list)
	require.Equal(t, 2, w.present, "nobody is listed on the word of others")
}

func TestWhatADroppedMemberPublishedShowsThatItIsBackIfItIsFresh(t *testing.T) {
	for name, c := range map[string]struct {
		at     time.Duration // after it was dropped a minute ago
		listed bool
	}{
		"just now":              {at: time.Minute, listed: true},
		"a moment ago":          {at: time.Minute - freshFor + 1, listed: true},
		"a while ago":           {at: time.Minute - freshFor},
		"before it was dropped": {at: 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t, "b", "c")
			w.link("c")
			dropped := w.now
			w.leave(w.now, w.devices["b"], Dropped)
			w.pass(time.Minute)
			w.hearsay(w.now, entry("user b", "b", 100, 2, true), w.now) // its neighbour has it
			w.list = nil
			require.Equal(t, c.listed, w.showed(w.now, dropped.Add(c.at), w.devices["b"]) == joined)
			w.pass(doubtSpread)
			require.Equal(t, !c.listed, len(w.list) == 1, "what is fetched does not keep it from being asked for")
			require.Equal(t, c.listed, w.devices["b"].present)
		})
	}
}

func TestASuspectedMemberIsGivenTimeToAnswerByANewWay(t *testing.T) {
	w := newWard(t, "b", "c")
	w.link("c")
	w.pass(time.Minute)
	w.accused(w.now, w.now, "c", w.of("b"))
	w.pass(9 * time.Second)
	w.bridged(w.now)
	w.pass(reprieve - time.Second)
	w.bridged(w.now) // once
	require.Empty(t, w.gone)
	w.pass(time.Second - 1)
	require.Empty(t, w.gone)
	w.pass(1)
	require.Equal(t, []string{"b"}, w.gone)
}

// The test puts one roster through losses, echoes, accusations and answers at random. A member that
// is alive answers within 3 s and must never be dropped. One that has died, and was a neighbour or
// was accused, must be dropped.
func TestRandomSchedulesDropTheDeadAndNobodyElse(t *testing.T) {
	names := []string{"b", "c", "d", "e", "f"}
	drops := 0
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWard(t, append(names, "z")...)
		w.link(append(names, "z")...) // z is always there, to hear what this node says
		dead := make(map[string]time.Time)
		answers := make(map[string]time.Time) // when they come
		accused := func(d string) {
			if _, ok := answers[d]; !ok && dead[d].IsZero() {
				answers[d] = w.now.Add(time.Duration(rng.IntN(3000)) * time.Millisecond)
			}
		}
		for range 2000 { // steps of 50 ms: 100 s
			d := names[rng.IntN(len(names))]
			switch id := peer.ID(d); rng.IntN(40) {
			case 0:
				w.cut(d)
			case 1:
				if dead[d].IsZero() {
					w.reconnected(w.now, id)
					w.link(d)
				}
			case 2:
				if dead[d].IsZero() {
					w.spoke(w.now, id)
				}
			case 3:
				by := peer.ID(names[rng.IntN(len(names))])
				if s := w.devices[id]; s.present {
					w.accused(w.now, w.now, by, w.of(d))
					accused(d)
				}
			case 4:
				if rng.IntN(20) == 0 && dead[d].IsZero() && len(dead) < 2 {
					dead[d] = w.now
					delete(answers, d)
					w.cut(d)
				}
			}
			for d, at := range answers {
				if !w.now.Before(at) {
					delete(answers, d)
					w.spoke(w.now, peer.ID(d))
					w.apply(w.now, entry("user "+d, d, w.of(d).sequence+1, w.devices[peer.ID(d)].entry.Feed[0], true))
				}
			}
			w.pass(50 * time.Millisecond)
			for _, d := range w.list {
				accused(d)
			}
			for _, d := range w.gone {
				require.False(t, dead[d].IsZero(), "seed %d: %s was dropped and is alive", seed, d)
				require.GreaterOrEqual(t, w.now.Sub(dead[d]), 5*time.Second, "seed %d", seed)
				drops++
			}
		}
		for d, at := range dead {
			if w.now.Sub(at) > 15*time.Second {
				require.False(t, w.devices[peer.ID(d)].present, "seed %d: %s has died", seed, d)
			}
		}
	}
	require.Greater(t, drops, 100)
}

func TestAMemberThatDoesNotAnswerAQuestionOfOthersIsAccused(t *testing.T) {
	for name, c := range map[string]struct {
		then    func(w *ward) // right after the question
		accused []string
	}{
		"nothing":                  {func(*ward) {}, []string{"b"}},
		"it answers":               {func(w *ward) { w.apply(w.now, entry("user b", "b", 101, 2, true)) }, nil},
		"it says something later":  {func(w *ward) { w.pass(2 * time.Second); w.spoke(w.now, "b") }, nil},
		"it had said something":    {func(w *ward) { w.showed(w.now, w.now.Add(-3*time.Second), w.devices["b"]) }, []string{"b"}},
		"something of it comes by": {func(w *ward) { w.spoke(w.now, "b") }, []string{"b"}},
		"it is a neighbour again":  {func(w *ward) { w.link("b") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t, "b", "c")
			w.link("c")
			w.pass(20 * time.Second)
			question := w.of("b")
			question.question = true
			w.accused(w.now, w.now, "c", question)
			c.then(w)
			w.pass(5*time.Second - 1)
			require.Empty(t, w.list)
			w.pass(3 * time.Second)
			require.Equal(t, c.accused, w.list)
		})
	}
}
