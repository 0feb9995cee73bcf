package stay

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// A member was killed and has come back. Its later stay begins at once, unless others that were
// just met may have more of the earlier one.
func TestALaterStayWaitsForWhatNeighboursJustMetMayHaveOfTheEarlierOne(t *testing.T) {
	const never = time.Hour
	for name, c := range map[string]struct {
		met    time.Duration // until when a neighbour counts as just met
		ended  bool          // the goodbye of the earlier stay has been delivered
		gossip bool          // the first item of the later stay comes by gossip, and nobody says anything
		brings time.Duration // when one says that it has more of the earlier stay
		begins time.Duration
	}{
		"nobody was met":                  {brings: never},
		"the earlier stay has ended":      {met: meetWait, ended: true, brings: never},
		"those who were met have no more": {met: meetWait, brings: never, begins: meetWait},
		"others are met all the time":     {met: never, brings: never, begins: 2 * meetWait},
		"one has more":                    {met: meetWait, brings: meetWait / 2, begins: lackWait},
		"nobody was met, by gossip":       {gossip: true, brings: never},
		"no more, by gossip":              {met: meetWait, gossip: true, brings: never, begins: meetWait},
		"all the time, by gossip":         {met: never, gossip: true, brings: never, begins: 2 * meetWait},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJournal(FeedTag{}, plenty)
			j.becomeReady(epoch)
			now := epoch
			j.meeting = func(at time.Time, about peer.ID) bool {
				require.Equal(t, peer.ID("author"), about)
				return at.Before(epoch.Add(c.met))
			}
			earlier := j.open(now, entry("u", "author", 1, 1, true))
			earlier.begin(1)
			earlier.ended = c.ended
			later := j.open(now, entry("u", "author", 2, 2, true))
			if c.gossip {
				first := chain(1)[0]
				first.tag = later.tag
				j.take(now, "other", later, first)
			} else {
				j.claim(now, "author", later.tag, 2, 1, true)
			}
			for later.next == 0 {
				require.Less(t, now.Sub(epoch), time.Minute)
				if now = now.Add(10 * time.Millisecond); now.Sub(epoch) == c.brings {
					j.claim(now, "other", earlier.tag, 3, 1, true)
				}
				j.expire(now)
			}
			took := now.Sub(epoch)
			require.GreaterOrEqual(t, took, c.begins)
			require.Less(t, took, max(c.begins, BaselineWait)+2*busyWait)
		})
	}
}

// This node was cut off from everybody. The first neighbour to come back is the author, who was
// restarted meanwhile, and the others come back one after the other.
func TestALaterStayWaitsAfterACutForWhoKnowsHowFarTheEarlierOneGot(t *testing.T) {
	const never = time.Hour
	for name, c := range map[string]struct {
		back    time.Duration // when no other member is away any more
		sure    time.Duration // when a neighbour says where the earlier stay begins, and has no more of it
		unsure  bool          // it has joined later
		meets   bool          // until meetWait after that, somebody has just been met
		stayed  bool          // this node was not cut off
		ended   bool
		history bool
		begins  time.Duration
	}{
		"nobody else was there":          {sure: never},
		"the others are away for long":   {back: never, sure: never, begins: returnWait},
		"the others are back":            {back: time.Second, sure: never, begins: time.Second},
		"one of them knows":              {back: never, sure: time.Second, begins: time.Second},
		"one of them was away as well":   {back: never, sure: time.Second, meets: true, begins: time.Second + meetWait},
		"all are back, and have no more": {back: time.Second, sure: time.Second, meets: true, begins: 2 * meetWait},
		"the last has said nothing yet":  {back: time.Second, sure: 4 * meetWait, meets: true, begins: 4 * meetWait},
		"this node was not cut off":      {back: never, sure: never, stayed: true},
		"one that is back joined later":  {back: never, sure: time.Second, unsure: true, begins: returnWait},
		"its author had said goodbye":    {back: never, sure: never, ended: true},
		"the app wants what was before":  {back: never, sure: never, history: true},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJournal(FeedTag{}, plenty)
			j.history = c.history
			j.becomeReady(epoch)
			says := func(now time.Time, sure bool) {
				j.claim(now, "other", entry("u", "author", 1, 1, true).Tag(), 1, 1, sure)
			}
			earlier := j.open(epoch, entry("u", "author", 1, 1, true))
			earlier.begin(1)
			e := chain(1)[0]
			e.tag, e.how = earlier.tag, Gossiped
			j.take(epoch, "author", earlier, e)
			earlier.ended = c.ended
			says(epoch, true)
			back := after(time.Minute)
			if !c.stayed {
				j.renew(back)
			}
			j.away = func(at time.Time, about peer.ID) bool {
				require.Equal(t, peer.ID("author"), about)
				return at.Before(back.Add(c.back))
			}
			j.meeting = func(at time.Time, _ peer.ID) bool { return c.meets && at.Before(back.Add(c.sure+meetWait)) }
			later := j.open(back, entry("u", "author", 2, 2, true))
			first := chain(1)[0]
			first.tag = later.tag
			j.take(back, "author", later, first)
			now := back
			for later.next == 0 {
				require.Less(t, now.Sub(back), time.Minute)
				if now = now.Add(10 * time.Millisecond); now.Sub(back) == c.sure {
					says(now, !c.unsure)
				}
				j.expire(now)
			}
			require.GreaterOrEqual(t, now.Sub(back), c.begins)
			require.Less(t, now.Sub(back), max(c.begins, BaselineWait)+2*busyWait)
		})
	}
}

// A device was heard in this node's own stay, and has come back while this node was cut off. The
// first neighbour to be met again has joined later, and has only the end of the device's new stay.
func TestAStayThatBeganDuringThisNodesOwnBeginsAtItsFirstItem(t *testing.T) {
	late := epoch.Add(time.Minute)
	for name, c := range map[string]struct {
		via     peer.ID
		heard   time.Time // when something of the earlier stay came
		how     Way
		history bool
		certain bool
	}{
		"heard long after joining":           {via: "other", heard: late, certain: true},
		"heard soon: it may be older":        {via: "other", heard: epoch.Add(2 * authorProof)},
		"only fetched":                       {via: "author", heard: late, how: Repaired},
		"the app wants what was before":      {via: "author", heard: late, history: true},
		"heard as soon as nothing old comes": {via: "other", heard: epoch.Add(baselineProof), certain: true},
		"heard from the device itself":       {via: "author", heard: epoch.Add(authorProof), certain: true},
		"which still offers what is older":   {via: "author", heard: epoch.Add(authorProof / 2)},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJournal(FeedTag{}, plenty)
			j.history = c.history
			j.becomeReady(epoch)
			earlier := j.open(epoch, entry("u", "author", 1, 1, true))
			e := chain(1)[0]
			e.tag, e.how = earlier.tag, c.how
			ready, _ := j.take(c.heard, c.via, earlier, e)
			require.Len(t, ready, 1)
			now := late.Add(time.Second)
			later := j.open(now, entry("u", "author", 2, 2, true))
			j.claim(now, "other", later.tag, 40, 35, false)
			if c.certain {
				require.EqualValues(t, 1, later.next)
				require.Equal(t, []span{{1, 40}}, later.missing(later.repair.upTo()))
				return
			}
			require.Zero(t, later.next)
			j.expireUntil(t, now, later.begun)
			require.EqualValues(t, 35, later.next)
		})
	}
}

// Something of the later stay is held meanwhile, since it waits for the earlier one.
func TestAStayThatBeganDuringThisNodesOwnGoesOnWithWhatItHolds(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	now := epoch.Add(time.Minute)
	met := now.Add(meetWait)
	j.meeting = func(at time.Time, _ peer.ID) bool { return at.Before(met) }
	earlier := j.open(epoch, entry("u", "author", 1, 1, true))
	e := chain(1)[0]
	e.tag = earlier.tag
	j.take(now, "author", earlier, e)
	later := j.open(now, entry("u", "author", 2, 2, true))
	all := chain(1, 1, 1)
	for _, e := range all {
		e.tag = later.tag
		ready, v := j.take(now, "other", later, e)
		require.Empty(t, ready)
		require.Equal(t, taken, v)
	}
	_, out := j.expireUntil(t, now, anything)
	require.Len(t, out[0].ready, 3)
	require.Zero(t, out[0].lost)
}

// The second item came before it was known that all of the feed is for this node.
func TestAStayThatBeganDuringThisNodesOwnDoesNotKeepItsFirstItemWaiting(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	now := after(time.Minute)
	earlier, later := j.open(epoch, entry("u", "author", 1, 1, true)), j.open(now, entry("u", "author", 2, 2, true))
	e := chain(1, 1)
	ready, _ := j.take(now, "other", later, e[1])
	require.Empty(t, ready)
	last := *e[0]
	ready, _ = j.take(now, "author", earlier, &last)
	require.Len(t, ready, 1)
	ready, _ = j.take(now, "other", later, e[0])
	require.Len(t, ready, 2)
}

// The first item is held while an earlier stay may go on, and comes again when that has ended.
func TestAFirstItemThatComesTwiceIsNoFork(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	earlier, later := j.open(epoch, entry("u", "author", 1, 1, true)), j.open(epoch, entry("u", "author", 2, 2, true))
	earlier.begin(1)
	j.claim(epoch, "other", earlier.tag, 2, 0, false)
	e, again := chain(1, 1), chain(1)[0]
	for _, e := range e {
		ready, v := j.take(epoch, "other", later, e)
		require.Equal(t, taken, v)
		require.Empty(t, ready)
	}
	all := chain(1, 1)
	for _, e := range all {
		j.take(after(time.Second), "other", earlier, e)
	}
	ready, v := j.take(after(time.Second), "author", later, again)
	require.Equal(t, taken, v)
	require.Len(t, ready, 2)
}

// Between the two stays the clock of the device was set back, so what it publishes now looks as if
// it were from before this node's time.
func TestAStayThatBeganDuringThisNodesOwnIsNotTakenForOld(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	now := after(time.Minute)
	earlier := j.open(epoch, entry("u", "author", 1, 1, true))
	e := chain(1)[0]
	seat := &seat{feed: earlier}
	e.SentMs = now.UnixMilli()
	seat.transit.late(now, now)
	ready, _ := j.take(now, "author", earlier, e)
	require.Len(t, ready, 1)
	later := j.open(now, entry("u", "author", 2, 2, true))
	first := chain(1)[0]
	first.SentMs, first.came = now.Add(-2*time.Minute).UnixMilli(), now
	require.False(t, j.unwanted(later, first, epoch, seat))
	require.True(t, j.unwanted(j.open(now, entry("v", "another", 1, 3, true)), first, epoch, seat))
}

// expireUntil lets time pass until something is true, and returns when that is and what has
// arrived.
func (j *journal) expireUntil(t *testing.T, now time.Time, done func(arrived []arrival) bool) (at time.Time, arrived []arrival) {
	t.Helper()
	for until := now.Add(time.Minute); !done(arrived); {
		now = now.Add(10 * time.Millisecond)
		require.True(t, now.Before(until), "it does not come to that")
		arrived = append(arrived, j.expire(now)...)
	}
	return now, arrived
}

// begun reports whether a feed has a baseline, anything whether something has arrived.
func (f *Feed) begun([]arrival) bool  { return f.next > 0 }
func anything(arrived []arrival) bool { return len(arrived) > 0 }

// Neighbours have said how far both stays have got before anybody has said whose the later one is,
// and its baseline has been set.
func TestAStayWhoseAuthorIsLearnedLaterWaitsForTheEarlierOneAllTheSame(t *testing.T) {
	for _, told := range []bool{false, true} { // that there is more of the earlier stay
		t.Run(fmt.Sprint(told), func(t *testing.T) {
			j := newJournal(FeedTag{}, plenty)
			j.becomeReady(epoch)
			earlier := j.open(epoch, entry("u", "author", 1, 1, true))
			earlier.begin(2)
			who := entry("u", "author", 2, 2, true)
			j.claim(epoch, "other", who.Tag(), 3, 1, true)
			later := j.feeds[who.Tag()]
			now, _ := j.expireUntil(t, epoch, later.begun)
			if told {
				j.claim(now, "other", earlier.tag, 2, 1, true)
			}
			require.Same(t, later, j.open(now, who))
			e := chain(1, 1, 1)
			for i := range e {
				e[i].tag = later.tag
				ready, _ := j.take(now, "other", later, e[i])
				require.Equal(t, told, len(ready) == 0)
			}
			if !told {
				return
			}
			more := chain(1, 1)[1]
			more.tag = earlier.tag
			ready, _ := j.take(now, "other", earlier, more)
			require.Len(t, ready, 1)
			now, out := j.expireUntil(t, now, anything)
			require.Less(t, now.Sub(epoch), BaselineWait+2*time.Second)
			require.Same(t, later, out[0].feed)
			require.Len(t, out[0].ready, 3)
			require.Zero(t, out[0].lost)
		})
	}
}

// A member that joined later says where the later stay begins for it. Only then it becomes known
// whose stay that is, or that the earlier one lasted into this node's own stay.
func TestAGuessedBeginningOfAStayThatIsWhollyForThisNodeIsTakenBack(t *testing.T) {
	for _, c := range []string{"its author becomes known", "the earlier stay becomes known", "the earlier stay turns out to have lasted"} {
		t.Run(c, func(t *testing.T) {
			j := newJournal(FeedTag{}, plenty)
			j.becomeReady(epoch)
			before, who := entry("u", "author", 1, 1, true), entry("u", "author", 2, 2, true)
			now := after(baselineProof)
			lasts := func() {
				earlier := j.open(now, before)
				earlier.begin(1)
				first := chain(1)[0]
				first.tag, first.how = earlier.tag, Gossiped
				ready, _ := j.take(now, "other", earlier, first)
				require.Len(t, ready, 1)
				earlier.ended = true
			}
			switch c {
			case "its author becomes known":
				lasts()
			case "the earlier stay turns out to have lasted":
				j.open(now, before).begin(1)
				j.open(now, who)
			}
			j.claim(now, "other", who.Tag(), 4, 3, false)
			later := j.feeds[who.Tag()]
			now, _ = j.expireUntil(t, now, later.begun)
			require.EqualValues(t, 3, later.next)
			switch c {
			case "its author becomes known":
				j.open(now, who)
			case "the earlier stay becomes known":
				j.open(now, who)
				lasts()
			default:
				lasts()
			}
			e := chain(1, 1, 1, 1)
			for i := range e {
				e[i].tag = later.tag
			}
			for _, i := range []int{2, 3} {
				ready, _ := j.take(now, "other", later, e[i])
				require.Empty(t, ready)
			}
			j.expireUntil(t, now, later.begun)
			require.EqualValues(t, 1, later.floor)
			for i, want := range []int{1, 3} {
				ready, _ := j.take(now, "other", later, e[i])
				require.Len(t, ready, want)
			}
		})
	}
}

// What a late beginning has made this node report as lost does not come after all, whatever becomes
// known then.
func TestWhatWasReportedLostIsNotTakenBackWithTheBeginning(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	earlier := j.open(epoch, entry("u", "author", 1, 1, true))
	earlier.begin(1)
	later := j.open(epoch, entry("u", "author", 2, 2, true))
	j.claim(epoch, "other", later.tag, 8, 5, false)
	now, _ := j.expireUntil(t, epoch, later.begun)
	require.EqualValues(t, 5, later.floor)
	now = now.Add(baselineDoubt)
	require.Equal(t, span{3, 4}, j.claim(now, "b", later.tag, 4, 3, false).lost)
	first := chain(1)[0]
	first.tag, first.how = earlier.tag, Gossiped
	ready, _ := j.take(now, "other", earlier, first)
	require.Len(t, ready, 1)
	require.True(t, j.stays.within(later))
	require.EqualValues(t, 5, later.next)
}

func TestALaterStayWaitsAfterACutForWhatIsMissingOfTheEarlierOne(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	earlier := j.open(epoch, entry("u", "author", 1, 1, true))
	e := chain(1, 1, 1)
	for _, i := range []int{0, 2} {
		e[i].tag, e[i].came = earlier.tag, epoch
		j.take(epoch, "other", earlier, e[i])
	}
	later := j.open(epoch, entry("u", "author", 2, 2, true))
	first := chain(1)[0]
	first.tag, first.came = later.tag, epoch
	ready, _ := j.take(epoch, "other", later, first)
	require.Empty(t, ready)
	healed := after(time.Minute)
	for now := epoch; now.Before(healed); now = now.Add(100 * time.Millisecond) {
		j.renew(now)
		require.Empty(t, j.expire(now))
	}
	ready, _ = j.take(healed, "other", earlier, e[1])
	require.Len(t, ready, 2)
	_, arrived := j.expireUntil(t, healed, anything)
	require.Same(t, later, arrived[0].feed)
}

// The later stay has begun, but nothing of it has come, when the earlier one becomes known.
func TestAStayWaitsForAnEarlierOneThatBecomesKnownLater(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	who := entry("u", "author", 1, 1, true)
	j.claim(epoch, "other", who.Tag(), 3, 1, true)
	later := j.open(epoch, entry("u", "author", 2, 2, true))
	j.claim(epoch, "author", later.tag, 2, 1, true)
	require.EqualValues(t, 1, later.next)
	pulls := func(now time.Time) (n int) {
		list, _ := j.ask(now, "other", "author")
		for _, p := range list {
			for _, w := range p.wants {
				if w.feed == later {
					n++
				}
			}
		}
		return n
	}
	require.Equal(t, 1, pulls(after(pullWait)), "it is being asked for")
	earlier := j.open(after(pullWait), who)
	require.Zero(t, later.next)
	require.Empty(t, later.repair.from)
	e := chain(1, 1)
	for i := range e {
		e[i].tag = later.tag
		ready, _ := j.take(after(pullWait), "author", later, e[i])
		require.Empty(t, ready)
	}
	now, _ := j.expireUntil(t, after(pullWait), earlier.begun)
	require.Zero(t, later.next)
	for _, e := range chain(1, 1, 1) {
		e.tag = earlier.tag
		ready, _ := j.take(now, "other", earlier, e)
		require.Len(t, ready, 1)
	}
	_, out := j.expireUntil(t, now, anything)
	require.Same(t, later, out[0].feed)
	require.Len(t, out[0].ready, 2)
}

func TestANeighbourIsPartedUntilItIsBackOrForLong(t *testing.T) {
	ps := make(parted)
	lately := func(now time.Time, but peer.ID) bool {
		return ps.lately(now, func(p peer.ID) bool { return p != but })
	}
	ps.left(epoch, "a")
	ps.left(epoch, "b")
	require.True(t, lately(after(ApartWait-1), "a"))
	require.False(t, lately(after(ApartWait), ""))
	ps.back(after(time.Minute), "c")
	require.False(t, lately(after(time.Minute), ""), "one that was never away says nothing of the others")
	ps.back(after(time.Minute), "a")
	require.True(t, lately(after(time.Minute), ""), "b may come back as well")
	require.False(t, lately(after(time.Minute), "b"))
	require.False(t, lately(after(time.Minute+ApartWait), ""))

	ps.left(after(partedFor-1), "c")
	ps.back(after(partedFor), "c")
	require.NotContains(t, ps, peer.ID("b"), "it is forgotten, whoever comes back")
	for i := range 2 * maxParted {
		ps.left(after(time.Hour+time.Duration(i)), peer.ID(fmt.Sprint(i)))
	}
	require.Len(t, ps, maxParted)
	require.NotContains(t, ps, peer.ID("0"))
	require.Contains(t, ps, peer.ID(fmt.Sprint(2*maxParted-1)), "the latest are remembered")
}
