package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// timed is an event in short, and when it was queued.
type timed struct {
	line string
	at   time.Time
}

// told collects the events of a room until d has passed.
func told(t *testing.T, r *Room, d time.Duration) (got []timed) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for {
		ev, err := passing(ctx, r)
		if errors.Is(err, context.DeadlineExceeded) {
			return got
		}
		require.NoError(t, err)
		got = append(got, timed{line(ev), ev.Head().Time})
	}
}

func lines(events []timed) (out []string) {
	for _, e := range events {
		out = append(out, e.line)
	}
	return out
}

// sum adds up a counter over the stations.
func (f *flock) sum(count func(Stats) uint64) (n uint64) {
	for _, s := range f.at {
		n += count(s.Stats())
	}
	return n
}

// drain reads what everybody has been told so far.
func drain(t *testing.T, rooms []*Room) {
	t.Helper()
	for _, r := range rooms {
		told(t, r, 0)
	}
}

// endOf waits until host i knows that its connection to host j has ended, and returns the time.
func (f *flock) endOf(i, j int) time.Time {
	f.t.Helper()
	for f.net.Host(i).Network().Connectedness(f.net.ID(j)) != network.NotConnected {
		time.Sleep(10 * time.Millisecond)
	}
	return time.Now()
}

func TestACrashIsToldEverywhereInAChain(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		time.Sleep(5 * time.Second)
		drain(t, rooms)
		f.net.Kill(3)
		detected := f.endOf(2, 3)
		for i := range 3 {
			got := told(t, rooms[i], time.Until(detected.Add(20*time.Second)))
			require.Equal(t, []string{"-u3 dropped"}, lines(got), "station %d", i)
			after := got[0].at.Sub(detected)
			t.Logf("station %d was told %v after the connection ended", i, after)
			require.GreaterOrEqual(t, after, 10*time.Second-20*time.Millisecond)
			require.Less(t, after, 10*time.Second+2*stay.LostFor+time.Second)
			require.Equal(t, []string{"u0", "u1", "u2"}, users(rooms[i]))
		}
		require.EqualValues(t, 1, f.sum(func(s Stats) uint64 { return s.Suspicions }))
	})
}

func TestALostLinkIsNoLostMember(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		time.Sleep(5 * time.Second)
		drain(t, rooms)
		f.net.Cut(0, 1)
		f.endOf(0, 1)
		for _, r := range rooms {
			require.Empty(t, told(t, r, 2*time.Minute))
		}
		require.Positive(t, f.sum(func(s Stats) uint64 { return s.Suspicions }))
		require.LessOrEqual(t, f.sum(func(s Stats) uint64 { return s.Suspicions }), uint64(2))
		require.LessOrEqual(t, f.sum(func(s Stats) uint64 { return s.Refutations }), uint64(2))
		want := published(t, rooms[0], "u0", "still here", 1)
		require.Equal(t, want, messages(t, rooms[1], 1))
	})
}

func TestAPausedMemberNeverLeaves(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		time.Sleep(30 * time.Second)
		drain(t, rooms)
		f.net.Pause(2)
		time.Sleep(time.Second)
		f.accuse(rooms[0], rooms[2]) // a hasty member
		time.Sleep(7 * time.Second)
		f.net.Resume(2)
		for _, r := range rooms {
			require.Empty(t, told(t, r, time.Minute))
		}
	})
}

// The silence ends shortly before the grace does: by then, what was lost on the way to the member
// in the meantime has to be repaired.
func TestAMemberWhosePauseEndsWithinTheGraceNeverLeaves(t *testing.T) {
	for phase := range 6 { // of the beats
		t.Run(fmt.Sprint(phase), func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				rooms := f.joinAll("ops")
				time.Sleep(30*time.Second + time.Duration(phase)*500*time.Millisecond)
				drain(t, rooms)
				f.net.Pause(2)
				time.Sleep(200 * time.Millisecond)
				for _, by := range rooms[:2] { // they are hasty, and accuse again when the silence counts
					f.accuse(by, rooms[2])
				}
				time.Sleep(6800 * time.Millisecond)
				f.net.Resume(2)
				for i, r := range rooms {
					require.Empty(t, told(t, r, time.Minute), "member %d", i)
				}
			}, WithGrace(7*time.Second))
		})
	}
}

// Members that do not see the member themselves wait for its answer to come through its neighbour.
func TestAMemberAtTheEndOfAChainWhosePauseEndsWithinTheGraceNeverLeaves(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		time.Sleep(30 * time.Second)
		drain(t, rooms)
		f.net.Pause(3)
		f.accuse(rooms[2], rooms[3])
		time.Sleep(7500 * time.Millisecond)
		f.net.Resume(3)
		for i, r := range rooms {
			require.Empty(t, told(t, r, time.Minute), "member %d", i)
		}
	})
}

// The member has just sent something when its neighbour is heard again, so it sends nothing then,
// and the neighbour does not hear it: all that it sent was lost.
func TestAMemberThatHearsAgainBeforeItIsHeardIsNotGivenUp(t *testing.T) {
	for phase := range 50 { // of the beats
		t.Run(fmt.Sprint(phase), func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				rooms := f.joinAll("ops")
				time.Sleep(30*time.Second + time.Duration(phase)*50*time.Millisecond)
				drain(t, rooms)
				f.net.Pause(1)
				time.Sleep(7400 * time.Millisecond)
				f.at[1].tell(f.net.Host(0).ID(), &wire.RoomFrame{Room: rooms[1].tag[:], Body: &wire.RoomFrame_Beat_{Beat: &wire.RoomFrame_Beat{}}})
				time.Sleep(time.Millisecond)
				f.net.Resume(1)
				time.Sleep(time.Minute)
				require.Zero(t, f.at[0].Stats().NeighboursSilent+f.at[1].Stats().NeighboursSilent, "connections closed")
			})
		})
	}
}

// accuse makes a member accuse others.
func (f *flock) accuse(by *Room, others ...*Room) {
	f.t.Helper()
	for _, o := range others {
		o.mu.Lock()
		own := o.stay.Own()
		o.mu.Unlock()
		payload, err := proto.Marshal(&wire.Suspicion{Device: own.Statement.Device[:], Feed: own.Feed[:], Sequence: own.Sequence})
		require.NoError(f.t, err)
		by.outbox.push(wire.Kind_KIND_SUSPICION, payload)
	}
}

// The member's seat was taken from it, so it left without a goodbye. Its neighbour has suspected it
// when another one joins, which hears of the member and never of the suspicion.
func TestAMemberThatIsGoneIsMissedAlsoByOneThatHasOnlyHeardOfIt(t *testing.T) {
	for name, links := range map[string][][2]int{"connected before": {{0, 2}, {0, 1}}, "connected after": {{0, 1}, {0, 2}}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.Connect(1, 2)
				f.join(1, "ops")
				f.join(2, "ops")
				time.Sleep(5 * time.Second)
				f.at[2].EvictAll(ErrReplaced)
				time.Sleep(5 * time.Second)
				f.net.Connect(links[0][0], links[0][1])
				r := f.join(0, "ops")
				f.net.Connect(links[1][0], links[1][1])
				require.Equal(t, []string{"+u1", "+u2", "-u2 dropped"}, lines(told(t, r, 15*time.Second)))
			})
		})
	}
}

// The last of them is connected neither to the member that is gone nor to those that miss it.
func TestAMemberThatOthersMissIsMissedByAll(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.Connect(1, 2)
		f.net.Connect(1, 3)
		for i := 1; i < 4; i++ {
			f.join(i, "ops")
		}
		time.Sleep(5 * time.Second)
		f.at[3].EvictAll(ErrReplaced)
		time.Sleep(5 * time.Second)
		f.net.Connect(0, 2)
		r := f.join(0, "ops")
		require.ElementsMatch(t, []string{"+u1", "+u2", "+u3", "-u3 dropped"}, lines(told(t, r, time.Minute)))
	})
}

func TestAMemberBackWithinTheGraceIsMissedByNobody(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		time.Sleep(5 * time.Second)
		drain(t, rooms)
		disconnect(t, f, 2, 3)
		time.Sleep(9 * time.Second)
		require.EqualValues(t, 1, f.at[2].Stats().Suspicions, "others have heard of it")
		f.net.Connect(2, 3)
		for _, r := range rooms {
			require.Empty(t, told(t, r, time.Minute))
		}
	})
}

func TestAMemberDroppedBySuspicionComesBackWithOneEvent(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		time.Sleep(5 * time.Second)
		drain(t, rooms)
		disconnect(t, f, 2, 3)
		time.Sleep(30 * time.Second)
		f.net.Connect(2, 3)
		for _, r := range rooms[:3] {
			require.Equal(t, []string{"-u3 dropped", "+u3"}, lines(told(t, r, time.Minute)))
		}
		// u3 was alone, and has missed only its one neighbour so far.
		require.Equal(t, []string{"-u2 dropped", "+u2"}, lines(told(t, rooms[3], time.Minute)))
		for _, r := range rooms {
			require.Equal(t, []string{"u0", "u1", "u2", "u3"}, users(r))
		}
	})
}

func TestAMemberThatWasAloneFindsAllAgainThroughOne(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		time.Sleep(5 * time.Second)
		drain(t, rooms)
		f.net.Isolate(3)
		time.Sleep(time.Minute)
		for i, r := range rooms[:3] {
			require.Equal(t, []string{"-u3 dropped"}, lines(told(t, r, 0)), "station %d", i)
			missing := r.Missing()
			require.Len(t, missing, 1)
			require.Equal(t, f.at[3].login(), missing[0].Login)
		}
		f.net.Heal()
		f.net.Connect(0, 3)
		for i, r := range rooms[:3] {
			require.Equal(t, []string{"+u3"}, lines(told(t, r, 20*time.Second)), "station %d", i)
			require.Empty(t, r.Missing())
		}
		got := lines(told(t, rooms[3], time.Second))
		require.Len(t, got, 6)
		require.ElementsMatch(t, []string{"-u0 dropped", "-u1 dropped", "-u2 dropped"}, got[:3], "leaves first")
		require.ElementsMatch(t, []string{"+u0", "+u1", "+u2"}, got[3:])
		require.LessOrEqual(t, f.sum(func(s Stats) uint64 { return s.Suspicions }), uint64(3), "of u3, and by it of the two that it does not see")
	})
}

// What the others published while the member was alone is fetched. It does not show that they are
// still there, and must not keep them from being asked.
func TestAMemberThatWasAloneListsWhoseOldBroadcastsItFetches(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		time.Sleep(5 * time.Second)
		f.net.Isolate(3)
		time.Sleep(30 * time.Second)
		for _, r := range rooms[:3] {
			_, err := r.PublishText(t.Context(), "meanwhile")
			require.NoError(t, err)
		}
		time.Sleep(30 * time.Second)
		drain(t, rooms)
		f.net.Heal()
		f.net.Connect(0, 3)
		ctx, cancel := context.WithTimeout(t.Context(), completeWithin)
		defer cancel()
		require.NoError(t, rooms[3].WaitPeers(ctx, 3))
	})
}

func TestAMemberThatNobodyWatchesIsNotedByItsSilence(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		drain(t, rooms)
		// In an idle room whose members do not all see each other nobody is missed.
		for _, r := range rooms {
			require.Empty(t, told(t, r, 5*time.Minute))
		}
		require.Zero(t, f.sum(func(s Stats) uint64 { return s.Suspicions }))
		published := f.sum(func(s Stats) uint64 { return s.EnvelopesPublished })
		require.InDelta(t, 4+4*10/0.875, float64(published), 6, "a beat in two minutes of each")

		f.net.Kill(2)
		f.net.Kill(3) // the members that watched it are gone too
		killed := time.Now()
		got := told(t, rooms[0], 10*time.Minute)
		require.Equal(t, []string{"-u2 dropped", "-u3 dropped"}, lines(got))
		silent := got[1].at.Sub(killed)
		require.Greater(t, silent, stay.SilentBeats*stay.BeatEvery-stay.BeatEvery)
		require.Less(t, silent, stay.SilentBeats*stay.BeatEvery+15*time.Second)
		require.Equal(t, []string{"u0", "u1"}, users(rooms[1]))
	})
}

func TestNobodyIsEvictedByAHostileAccuser(t *testing.T) {
	inBubble(t, 12, func(t *testing.T, f *flock) {
		f.net.Random(4)
		rooms := f.joinAll("ops")
		time.Sleep(5 * time.Second)
		drain(t, rooms)
		published := func() uint64 {
			return f.sum(func(s Stats) uint64 { return s.EnvelopesPublished }) - f.at[0].Stats().EnvelopesPublished
		}
		before := published()
		for range 60 {
			f.accuse(rooms[0], rooms[1:]...)
			time.Sleep(time.Second)
		}
		for _, r := range rooms {
			require.Empty(t, told(t, r, 5*time.Second))
		}
		t.Logf("%d envelopes of 11 members who were accused 60 times each", published()-before)
		require.LessOrEqual(t, published()-before, uint64(11*(60/3+2)), "an answer in 3 s, and now and then a beat")
	})
}

func TestAWholeRoomThatIsAccusedAnswersOnce(t *testing.T) {
	inBubble(t, 50, func(t *testing.T, f *flock) {
		f.net.Random(6)
		rooms := f.joinAll("ops")
		time.Sleep(5 * time.Second)
		drain(t, rooms)
		var before []uint64
		for _, s := range f.at {
			before = append(before, s.Stats().EnvelopesPublished)
		}
		f.accuse(rooms[0], rooms[1:]...)
		f.accuse(rooms[1], append(slices.Clone(rooms[2:]), rooms[0])...)
		time.Sleep(20 * time.Second)
		for i, s := range f.at {
			require.EqualValues(t, 1, s.Stats().Refutations)
			if i > 1 { // those two have published their accusations as well
				require.Equal(t, before[i]+1, s.Stats().EnvelopesPublished)
			}
		}
		for _, r := range rooms {
			require.Empty(t, told(t, r, 100*time.Millisecond))
			require.Len(t, r.Members(), 50)
		}
	})
}

func TestTwoHalvesOfARoomComeTogetherAgain(t *testing.T) {
	const half = 10
	inBubble(t, 2*half, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		time.Sleep(30 * time.Second)
		drain(t, rooms)
		var left, right []int
		var cut, back [2][]string
		for i := range half {
			left, right = append(left, i), append(right, half+i)
			for side, j := range []int{half + i, i} {
				cut[side] = append(cut[side], fmt.Sprintf("-u%d dropped", j))
				back[side] = append(back[side], fmt.Sprintf("+u%d", j))
			}
		}
		published := func() uint64 { return f.sum(func(s Stats) uint64 { return s.EnvelopesPublished }) }
		start := published()
		f.net.Split(left, right)
		time.Sleep(time.Minute)
		apart := published() - start
		suspicions := f.sum(func(s Stats) uint64 { return s.Suspicions })
		f.net.Heal()
		start = published()
		frames := f.sum(func(s Stats) uint64 { return s.RoomFrames })
		for _, i := range left {
			for _, j := range right {
				require.False(t, f.net.Connected(i, j))
				require.NoError(t, f.net.TryConnect(i, j))
			}
		}
		time.Sleep(20 * time.Second)
		healed := published() - start
		frames = f.sum(func(s Stats) uint64 { return s.RoomFrames }) - frames
		for i, r := range rooms {
			side := i / half
			got := lines(told(t, r, time.Second))
			require.Len(t, got, 2*half, "station %d: %q", i, got)
			require.ElementsMatch(t, cut[side], got[:half], "leaves first")
			require.ElementsMatch(t, back[side], got[half:])
			require.Len(t, r.Members(), 2*half)
		}
		t.Logf("apart: %d accusations in %d envelopes; healing: %d envelopes, %d room frames", suspicions, apart, healed, frames)
		require.LessOrEqual(t, suspicions, uint64(3*half), "one for each member, and few for whom two were quick")
		require.LessOrEqual(t, apart, suspicions+2*half, "and a beat of each")
		require.LessOrEqual(t, f.sum(func(s Stats) uint64 { return s.Refutations }), uint64(2*half), "an answer of each")
		require.LessOrEqual(t, healed, uint64(4*half), "and perhaps a beat")
		require.LessOrEqual(t, frames, uint64(2*half*250))
		for _, r := range rooms {
			require.Empty(t, told(t, r, 10*time.Second))
		}
	})
}

func TestMalformedSuspicionsAreRefused(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		read(t, rooms[1], 1)
		device, feed := rooms[1].device[:], rooms[1].id[:]
		n := uint64(0)
		for _, s := range map[string]*wire.Suspicion{
			"nothing":          {},
			"a short device":   {Device: device[1:], Feed: feed, Sequence: 7},
			"a long feed":      {Device: device, Feed: append(feed[:16:16], 0), Sequence: 7},
			"without sequence": {Device: device, Feed: feed},
			"without a feed":   {Device: device, Sequence: 7},
			"without a device": {Feed: feed, Sequence: 7},
		} {
			raw, err := proto.Marshal(s)
			require.NoError(t, err)
			rooms[0].outbox.push(wire.Kind_KIND_SUSPICION, raw)
			n++
		}
		rooms[0].outbox.push(wire.Kind_KIND_SUSPICION, []byte("\xff"))
		rooms[0].outbox.push(wire.Kind_KIND_BEAT, []byte("of a later version"))
		want := published(t, rooms[0], "u0", "and on", 1)
		require.Equal(t, want, messages(t, rooms[1], 1))
		require.Equal(t, n+1, f.at[1].Stats().RoomViolations)
	})
}
