package stay

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// desk returns a journal with one feed of another member, from which item 2 is missing.
func desk(t *testing.T) (*journal, *Feed, []*Envelope) {
	t.Helper()
	j := newJournal(FeedTag{}, plenty)
	j.ready = true
	e := entry("u", "author", 1, 1, true)
	f := j.open(epoch, e)
	all := chain(1, 1, 1, 1)
	for _, one := range all {
		one.tag = f.tag
	}
	j.take(epoch, "", f, all[0])
	j.take(epoch, "", f, all[3])
	require.True(t, f.proven())
	return j, f, all
}

// ask plans, and returns whom to ask.
func (j *journal) ask(now time.Time, neighbours ...peer.ID) (asked []Pull, lost []arrival) {
	return j.plan(now, neighbours, neighbours, false, false)
}

// givenUp asks neighbours, who answer as they say, until a gap is given up. It returns when that
// is.
func (j *journal) givenUp(t *testing.T, now time.Time, say func(peer.ID) Outcome, neighbours ...peer.ID) time.Time {
	t.Helper()
	for until := now.Add(time.Minute); now.Before(until); now = now.Add(50 * time.Millisecond) {
		pulls, lost := j.ask(now, neighbours...)
		if len(lost) > 0 {
			require.Equal(t, span{2, 3}, lost[0].lost)
			require.Zero(t, j.lacking.len())
			return now
		}
		for _, p := range pulls {
			j.answered(now, p, say(p.From))
		}
	}
	require.FailNow(t, "the gap is not given up")
	return now
}

func TestAGapIsGivenUpEarlyOnlyWhenAllWhoWereAskedSayThatItIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		gone int // how many of three say so
		wait time.Duration
	}{"all": {3, lostWait}, "a liar": {1, lackWait}, "two liars": {2, lackWait}, "none": {0, lackWait}} {
		t.Run(name, func(t *testing.T) {
			j, f, _ := desk(t)
			took := j.givenUp(t, epoch, func(p peer.ID) Outcome {
				o := Outcome{}
				if int(p[0]-'a') < c.gone {
					o.gone = map[FeedTag]uint64{f.tag: 3}
				}
				return o
			}, "a", "b", "c").Sub(epoch)
			require.GreaterOrEqual(t, took, c.wait)
			require.Less(t, took, c.wait+2*retryWait)
		})
	}
}

// A neighbour may refuse a question because it answers others, or give others of the feeds asked
// for, and have what is missing.
func TestAGapIsNotGivenUpBecauseANeighbourDidNotAnswerOnce(t *testing.T) {
	for name, o := range map[string]Outcome{"it refused": {Err: errUnasked}, "it had no room for it": {more: true}} {
		t.Run(name, func(t *testing.T) {
			j, f, _ := desk(t)
			asks := 0
			took := j.givenUp(t, epoch, func(p peer.ID) Outcome {
				if p != "a" {
					return Outcome{gone: map[FeedTag]uint64{f.tag: 3}}
				}
				asks++
				return o
			}, "a", "b", "c").Sub(epoch)
			require.Greater(t, took, lackWait+retryWait<<(maxAgain-1))
			require.Less(t, took, lackWait+retryWait<<(maxAgain+1))
			require.Greater(t, asks, maxAgain)
		})
	}
}

// What lies behind the gap was published before it came here, because the neighbours have only now
// met a member that has it.
func TestAGapThatANeighbourHasGivenUpIsNotWaitedForAsLongAgain(t *testing.T) {
	for name, c := range map[string]struct {
		age  time.Duration // of what lies behind the gap
		gone []uint64      // what three neighbours say
		wait time.Duration
	}{
		"nobody has":             {time.Minute, nil, lackWait},
		"one has":                {time.Minute, []uint64{3}, goneWait},
		"one has, of part of it": {time.Minute, []uint64{2}, goneWait},
		"of something before it": {time.Minute, []uint64{1}, lackWait},
		"all have":               {time.Minute, []uint64{3, 3, 3}, lostWait},
		"it is not so old":       {3 * time.Second, []uint64{3}, lackWait - 3*time.Second},
		"it is new":              {0, []uint64{3}, lackWait},
	} {
		t.Run(name, func(t *testing.T) {
			j, f, _ := desk(t)
			f.held[0].came = epoch.Add(-c.age)
			took := j.givenUp(t, epoch, func(p peer.ID) Outcome {
				o := Outcome{}
				if i := int(p[0] - 'a'); i < len(c.gone) {
					o.gone = map[FeedTag]uint64{f.tag: c.gone[i]}
				}
				return o
			}, "a", "b", "c").Sub(epoch)
			require.GreaterOrEqual(t, took, c.wait)
			require.Less(t, took, c.wait+2*retryWait)
		})
	}
}

func TestAGapIsNotGivenUpEarlyBecauseANeighbourHasLeft(t *testing.T) {
	j, f, _ := desk(t)
	now := epoch
	for len(f.repair.tried) < 2 {
		pulls, lost := j.ask(now, "a", "b")
		require.Empty(t, lost)
		for _, p := range pulls {
			o := Outcome{}
			if p.From == "a" {
				o.gone = map[FeedTag]uint64{f.tag: 3}
			}
			j.answered(now, p, o)
		}
		now = now.Add(50 * time.Millisecond)
	}
	j.left(now, "a")
	end := j.givenUp(t, now, func(peer.ID) Outcome { return Outcome{} }, "b")
	require.GreaterOrEqual(t, end.Sub(epoch), lackWait, "b may yet get it")
}

func TestAGapIsNotGivenUpWhileWhoHasItIsBusy(t *testing.T) {
	j, f, all := desk(t)
	f.repair.source("busy", 4)
	everybody := []peer.ID{"a", "b", "busy"}
	now := epoch
	for ; now.Sub(epoch) < ApartWait; now = now.Add(50 * time.Millisecond) {
		pulls, lost := j.plan(now, everybody[:2], everybody, false, false)
		require.Empty(t, lost)
		for _, p := range pulls {
			j.answered(now, p, Outcome{gone: map[FeedTag]uint64{f.tag: 3}})
			j.left(now, p.From) // it has gone, and its answer comes afterwards
			f.repair.try(p.From, failed)
		}
	}
	pulls, _ := j.plan(now.Add(busyWait), everybody, everybody, false, false)
	require.Equal(t, peer.ID("busy"), pulls[0].From)
	j.take(now, "busy", f, all[1])
}

// One neighbour lacks what is missing, but gets it a moment later. Another one does not answer,
// since it is cut off and nobody knows yet.
func TestWhoLackedItIsAskedAgainWhileAnotherOneIsBusy(t *testing.T) {
	j, f, all := desk(t)
	now := epoch
	asked := 0
	for ; now.Sub(epoch) < 2*time.Second; now = now.Add(50 * time.Millisecond) {
		pulls, lost := j.plan(now, []peer.ID{"a"}, []peer.ID{"a", "dead"}, false, false)
		require.Empty(t, lost)
		for _, p := range pulls {
			require.Equal(t, peer.ID("a"), p.From)
			if asked++; asked > 1 {
				j.take(now, "a", f, all[1])
				require.GreaterOrEqual(t, now.Sub(epoch), retryWait, "not at once")
				require.Less(t, now.Sub(epoch), retryWait+pullWait+2*busyWait+pullWait/2)
				return
			}
			j.answered(now, p, Outcome{})
		}
	}
	t.Fatal("it is not asked again")
}

// A member that joined later guesses where a feed begins. Its author is a neighbour, but a lossy
// link has kept its answer back.
func TestAGuessWaitsForTheAuthorThatIsANeighbour(t *testing.T) {
	for name, c := range map[string]struct {
		near, present bool
		answers       time.Duration // zero: never
		begins        uint64
		within        time.Duration
	}{
		"it answers":              {true, true, 5 * time.Second, 1, 5*time.Second + busyWait},
		"it does not answer":      {true, true, 0, 7, lackWait + busyWait},
		"it is no neighbour":      {false, true, 0, 7, BaselineWait + sureWait + busyWait},
		"it has another stay now": {true, false, 0, 7, BaselineWait + sureWait + busyWait},
	} {
		t.Run(name, func(t *testing.T) {
			j, f := bobs(plenty)
			j.near = func(peer.ID) bool { return c.near }
			j.present = func(*Feed) bool { return c.present }
			j.claim(epoch, "late", f.tag, 9, 7, false)
			now := epoch
			for ; f.next == 0; now = now.Add(10 * time.Millisecond) {
				if c.answers > 0 && !now.Before(after(c.answers)) {
					j.claim(now, "b", f.tag, 9, 1, true)
				}
				j.expire(now)
				require.Less(t, now.Sub(epoch), time.Minute)
			}
			require.Equal(t, c.begins, f.next)
			require.LessOrEqual(t, now.Sub(epoch), c.within+20*time.Millisecond)
			require.Greater(t, now.Sub(epoch), c.within-2*busyWait)
		})
	}
}

// An envelope has waited long for the baseline of its feed. That something before it is missing
// shows only when the baseline is set.
func TestAGapIsAsOldAsTheBaselineThatShowsIt(t *testing.T) {
	j, f := bobs(plenty)
	j.becomeReady(epoch)
	e := chain(1, 1, 1, 1)[3]
	e.tag = f.tag
	j.take(epoch, "b", f, e)
	j.claim(epoch, "b", f.tag, 4, 2, true)
	f.notBefore = after(lackWait) // it waits for an earlier stay
	now := epoch
	for f.next == 0 {
		now = now.Add(50 * time.Millisecond)
		require.Less(t, now.Sub(epoch), time.Minute)
		j.expire(now)
	}
	end := j.givenUp(t, now, func(peer.ID) Outcome { return Outcome{gone: map[FeedTag]uint64{f.tag: 3}} }, "b")
	require.GreaterOrEqual(t, end.Sub(now), lostWait)
}

func TestWhoWasSlowIsPassedOverWhileThereIsAnother(t *testing.T) {
	j, f, all := desk(t)
	now := epoch.Add(time.Second)
	f.repair.source("slow", 4)
	pulls, _ := j.ask(now, "slow", "other")
	require.Equal(t, peer.ID("slow"), pulls[0].From)
	j.take(now, "slow", f, all[1])
	j.answered(now, pulls[0], Outcome{more: true, Slow: true})
	pulls, _ = j.ask(now, "slow", "other")
	require.Equal(t, peer.ID("other"), pulls[0].From, "although the slow one has brought something and says that it has more")
}

func TestNobodyIsAskedAndNothingGivenUpWhileAlone(t *testing.T) {
	j, f, all := desk(t)
	wakes := 0
	now := epoch
	for now.Before(epoch.Add(time.Hour)) {
		pulls, lost := j.ask(now)
		require.Empty(t, pulls)
		require.Empty(t, lost)
		j.announce(now)
		j.expire(now)
		due := j.due()
		require.True(t, due.After(now))
		now, wakes = due, wakes+1
	}
	require.Less(t, wakes, 2*int(time.Hour/lackWait), "and it rests")
	j.retry(now)
	now = now.Add(pullWait)
	pulls, _ := j.ask(now, "a")
	require.Len(t, pulls, 1)
	j.take(now, "a", f, all[1])
	ready, _ := j.take(now, "a", f, all[2])
	require.Equal(t, []uint64{3, 4}, firsts(ready))
	j.answered(now, pulls[0], Outcome{})
	require.Zero(t, j.lacking.len())
}

func TestAForgottenFeedIsAskedForNoMore(t *testing.T) {
	j, f, _ := desk(t)
	now := epoch.Add(time.Second)
	pulls, _ := j.ask(now, "a")
	require.Len(t, pulls, 1)
	j.remove(f)
	j.answered(now, pulls[0], Outcome{})
	require.Zero(t, j.lacking.len())
	require.NotContains(t, j.feeds, f.tag)
}

func TestABaselineOfWordsIsCorrectedAndOneOfEnvelopesIsNot(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	f := j.open(epoch, entry("u", "author", 1, 1, true))
	all := chain(1, 1, 1, 1, 1)
	for _, one := range all {
		one.tag = f.tag
	}
	j.claim(epoch, "liar", f.tag, 1<<40, 1<<40, true)
	j.becomeReady(epoch)
	require.EqualValues(t, uint64(1<<40), f.next)
	j.claim(after(time.Hour), "honest", f.tag, 5, 2, true)
	require.EqualValues(t, 2, f.next, "it does not reach so far")
	require.True(t, j.lacking.has(f))
	j.take(epoch, "honest", f, all[1])
	j.claim(epoch, "late", f.tag, 5, 1, true)
	require.EqualValues(t, 3, f.next, "what was delivered is no word")

	g := j.open(epoch, entry("v", "writer", 1, 1, true))
	j.claim(epoch, "a", g.tag, 9, 10, true)
	for _, due := range j.expire(after(BaselineWait)) {
		require.Empty(t, due.ready)
	}
	require.EqualValues(t, 10, g.next)
	j.claim(after(2*BaselineWait), "b", g.tag, 9, 7, true)
	require.EqualValues(t, 7, g.next, "another one who was a little later")
	j.claim(after(2*BaselineWait+baselineDoubt), "c", g.tag, 9, 3, true)
	require.EqualValues(t, 7, g.next, "one who was much later, and knows the same end")
}

// One neighbour keeps its word and the others do as they like, in any order: everything arrives, in
// order, once. Everything that waits is woken, and nothing remains that grows.
func TestAJournalWithOneHonestNeighbourLosesNothing(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			j := newJournal(FeedTag{}, plenty)
			j.ready = true
			feeds := make([]*Feed, 1+r.IntN(4))
			all := make([][]*Envelope, len(feeds))
			next := make([]uint64, len(feeds))
			of := make(map[*Feed]int)
			for i := range feeds {
				feeds[i] = j.open(epoch, entry(fmt.Sprint("u", i), string(rune('a'+i)), 1, byte(i), true))
				counts := make([]uint32, 2+r.IntN(60))
				for n := range counts {
					counts[n] = 1 + r.Uint32N(5)
				}
				all[i], next[i], of[feeds[i]] = chain(counts...), 1, i
				for _, e := range all[i] {
					e.tag, e.came = feeds[i].tag, epoch
				}
			}
			end := func(i int) uint64 { return all[i][len(all[i])-1].last() }
			deliver := func(i int, ready []*Envelope, v verdict) {
				require.NotEqual(t, forked, v)
				for _, e := range ready {
					require.Equal(t, next[i], e.First)
					next[i] = e.Next()
				}
			}
			take := func(now time.Time, via peer.ID, i int, e *Envelope) {
				ready, v := j.take(now, via, feeds[i], e)
				deliver(i, ready, v)
			}
			now := epoch
			for i := range feeds { // some of what was published is lost, but the first shows that there is a feed
				take(now, "", i, all[i][0])
				for _, e := range all[i][1:] {
					if r.IntN(3) == 0 {
						take(now, "x", i, e)
					}
				}
			}
			neighbours := []peer.ID{"honest", "liar", "mute", "gone", "x"}
			type answer struct {
				p    Pull
				when time.Time
			}
			var under []answer
			busy := make(map[peer.ID]bool)
			done := func() bool {
				for i := range feeds {
					if next[i] <= end(i) {
						return false
					}
				}
				return j.lacking.len() == 0
			}
			spins := 0
			for steps := 0; !done(); steps++ {
				require.Less(t, now.Sub(epoch), 2*time.Minute, "%d steps", steps)
				require.Less(t, steps, 20_000)
				if r.IntN(4) == 0 {
					i := r.IntN(len(feeds))
					j.claim(now, "liar", feeds[i].tag, r.Uint64N(1<<62), 0, true)
				}
				if r.IntN(4) == 0 {
					for i, f := range feeds {
						j.claim(now, "honest", f.tag, end(i), 1, true)
					}
				}
				var idle []peer.ID
				for _, n := range neighbours {
					if !busy[n] {
						idle = append(idle, n)
					}
				}
				r.Shuffle(len(idle), func(a, b int) { idle[a], idle[b] = idle[b], idle[a] })
				pulls, lost := j.plan(now, idle, neighbours, false, false)
				for _, a := range lost {
					t.Fatalf("lost %v after %v", a.lost, now.Sub(epoch))
				}
				for _, p := range pulls {
					require.False(t, busy[p.From])
					busy[p.From] = true
					wait := 10 * time.Millisecond
					if p.From == "mute" {
						wait = syncTimeout
					}
					under = append(under, answer{p, now.Add(wait)})
				}
				j.announce(now)
				for _, a := range j.expire(now) {
					deliver(of[a.feed], a.ready, a.verdict)
				}
				wake := j.due()
				for _, a := range under {
					wake = earlier(wake, a.when)
				}
				if wake.IsZero() {
					wake = now.Add(time.Second) // until somebody says something
				}
				if wake.After(now) {
					now, spins = wake, 0
				} else if spins++; spins > 3 {
					t.Fatalf("the timer spins: due %v", j.due().Sub(now))
				}
				rest := under[:0]
				for _, a := range under {
					if a.when.After(now) {
						rest = append(rest, a)
						continue
					}
					busy[a.p.From] = false
					o := Outcome{gone: make(map[FeedTag]uint64)}
					for _, w := range a.p.wants {
						i := of[w.feed]
						switch a.p.From {
						case "honest":
							for _, e := range all[i] {
								if e.last() >= w.span.first && e.First <= w.span.last {
									take(now, "honest", i, e)
								}
							}
						case "gone":
							o.gone[w.feed.tag] = 1 << 62
						case "mute":
							o.Err, o.Slow = ErrBadSync, true
						case "liar":
							o.more = true
						}
					}
					j.answered(now, a.p, o)
				}
				under = rest
				for _, f := range feeds {
					require.LessOrEqual(t, len(f.repair.sources), maxSources)
					require.LessOrEqual(t, len(f.repair.tried), len(neighbours))
				}
			}
			require.Zero(t, j.waiting.len())
		})
	}
}

func TestNothingIsLostOfWhatWasPassedOverAsOld(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	j.ready = true
	f := j.open(epoch, entry("u", "author", 1, 1, true))
	all := chain(1, 1, 1, 1, 1)
	j.claim(epoch, "a", f.tag, 5, 4, false) // a guess
	j.suppose(epoch, f)
	j.skip(epoch, f, all[3]) // from before this node's time, as its author's clock shows
	a := j.claim(after(time.Second), "b", f.tag, 5, 2, true)
	require.Zero(t, a.lost, "b is generous: what it says begins before what was passed over")
	ready, _ := j.take(after(time.Second), "b", f, all[4])
	require.Equal(t, []uint64{5}, firsts(ready))
}
