package mesh

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// during returns what a room reports while a time passes, in short.
func during(t *testing.T, r *Room, d time.Duration) (got []string) {
	t.Helper()
	for _, ev := range eventsDuring(t, r, d) {
		got = append(got, line(ev))
	}
	return got
}

func eventsDuring(t *testing.T, r *Room, d time.Duration) (got []Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for {
		ev, err := r.Recv(ctx)
		if err != nil {
			require.Error(t, ctx.Err(), "after %d events: %v", len(got), err)
			return got
		}
		got = append(got, ev)
	}
}

func TestTheFirstEventOfAStayIsThatTheRoomIsReady(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		alone := f.join(0, "ops")
		require.Equal(t, []string{"ready first"}, during(t, alone, time.Second))
		f.join(1, "ops")
		for i := range 3 {
			_, err := alone.PublishText(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
		}
		start := time.Now()
		late := f.join(2, "ops", WithHistory(AllHistory))
		took := time.Since(start)
		got := eventsDuring(t, late, time.Second)
		require.Equal(t, &RoomReady{Header{Type: TypeRoomReady, Seq: 1, Time: got[0].Head().Time, Room: "ops"}, FirstJoin, took}, got[0])
		require.Equal(t, []string{"+u0", "+u1"}, slices.Sorted(slices.Values([]string{line(got[1]), line(got[2])})))
		require.Equal(t, []string{"u0:0", "u0:1", "u0:2"}, []string{line(got[3]), line(got[4]), line(got[5])})
		require.Len(t, got, 6)
	})
}

// What comes to a member alone, while it joins, comes after the event that the room is ready.
func TestAMessageToAMemberThatIsStillJoiningComesAfterTheRoomIsReady(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a := f.join(0, "ops")
		unanswering(f.net.Host(2), t.Context().Done()) // so that joining takes 2 s
		entered, err := f.at[1].Enter(t.Context(), "ops")
		require.NoError(t, err)
		require.NoError(t, a.WaitPeers(t.Context(), 1))
		_, err = a.SendText(t.Context(), "u1", "psst")
		require.NoError(t, err)
		require.Empty(t, during(t, entered, time.Second))
		require.NoError(t, entered.Ready(t.Context()))
		require.Equal(t, []string{"ready first", "+u0", "u0>psst"}, during(t, entered, time.Second))
	})
}

// unanswering makes a host take room streams and answer nothing, until over is closed.
func unanswering(h host.Host, over <-chan struct{}) {
	h.SetStreamHandler(RoomProtocol, func(s network.Stream) {
		<-over
		_ = s.Reset()
	})
}

func TestAMemberThatIsCutOffIsReadyAgainBeforeItLearnsWhatItMissed(t *testing.T) {
	for _, cut := range []time.Duration{10 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second, 9 * time.Second, 30 * time.Second, 9 * time.Minute} {
		t.Run(cut.String(), func(t *testing.T) {
			inBubble(t, 5, func(t *testing.T, f *flock) {
				for i := range 4 {
					for j := range i {
						f.net.Connect(i, j)
					}
				}
				f.net.Connect(4, 0)
				rooms := []*Room{f.join(0, "ops"), f.join(1, "ops"), f.join(2, "ops"), f.join(3, "ops")}
				settle()
				during(t, rooms[3], time.Second)
				f.cutOff(3)
				began := time.Now()
				require.NoError(t, rooms[1].Leave(t.Context()))
				newcomer := f.join(4, "ops")
				_, err := rooms[0].PublishText(t.Context(), "news")
				require.NoError(t, err)
				time.Sleep(max(0, cut-time.Since(began)))
				gone := during(t, rooms[3], time.Second)
				if cut < 5*time.Second {
					require.False(t, slices.ContainsFunc(gone, func(l string) bool { return l[0] == '-' }), "%q: the grace is not over", gone)
				}
				f.net.Heal()
				f.net.Connect(3, 0)
				f.net.Connect(3, 2)
				got := eventsDuring(t, rooms[3], 20*time.Second)
				for _, isReady := got[0].(*RoomReady); !isReady; _, isReady = got[0].(*RoomReady) {
					gone, got = append(gone, line(got[0])), got[1:] // while it was still cut off
				}
				ready := got[0].(*RoomReady)
				require.Equal(t, Rejoin, ready.Join)
				require.InDelta(t, (cut + time.Second).Seconds(), ready.Elapsed.Seconds(), 1)
				rank := 0
				var have []string
				for _, ev := range got[1:] {
					l := line(ev)
					have = append(have, l)
					at := map[byte]int{'-': 1, '+': 2, '?': 3, '!': 3}[l[0]]
					if at == 0 {
						at = 4
					}
					require.GreaterOrEqual(t, at, rank, "%q", have)
					rank = at
				}
				want := []string{"+u4", "u0:news"}
				if !slices.Contains(gone, "-u1 dropped") {
					want = append([]string{"-u1 quit"}, want...)
				}
				require.Subset(t, have, want, "before: %q", gone)
				_ = newcomer
				_, err = rooms[3].PublishText(t.Context(), "back")
				require.NoError(t, err)
				until(t, newcomer, "u3:back")
				require.Len(t, rooms[3].Members(), 4)
			})
		})
	}
}

func TestAMemberIsNotReadyWhileNobodyAnswersAndGoesOnByItself(t *testing.T) {
	for _, c := range []struct {
		answers time.Duration // after Enter; 0: never
		want    []string
		ready   time.Duration
	}{
		{time.Second, []string{"ready first", "+u0"}, time.Second},
		{7 * time.Second, []string{"delayed 1", "ready first", "+u0"}, 7 * time.Second},
		{0, []string{"delayed 1", "ready first", "+u0"}, stay.JoinEnd},
	} {
		t.Run(fmt.Sprint(c.answers), func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				f.join(0, "ops")
				over := make(chan struct{})
				unanswering(f.net.Host(0), over)
				time.Sleep(time.Second)
				m := f.at[0].Mesh
				m.links.mu.Lock()
				for _, s := range m.links.in {
					_ = s.Reset() // which told u0 that u1 is not in the room
				}
				m.links.mu.Unlock()
				time.Sleep(time.Second)
				if c.answers > 0 {
					time.AfterFunc(c.answers, func() {
						f.net.Host(0).SetStreamHandler(RoomProtocol, m.handleRoomStream)
						close(over)
					})
				} else {
					defer close(over)
				}
				start := time.Now()
				r, err := f.at[1].Enter(t.Context(), "ops")
				require.NoError(t, err)
				require.NoError(t, r.Ready(t.Context()))
				require.InDelta(t, c.ready.Seconds(), time.Since(start).Seconds(), 1)
				require.Equal(t, c.want, during(t, r, time.Second))
			})
		})
	}
}

func TestASilentMemberIsShownBeforeItIsDropped(t *testing.T) {
	for name, c := range map[string]struct {
		fail   func(t *testing.T, f *flock)
		within time.Duration
	}{
		"its connections end": {func(t *testing.T, f *flock) {
			f.cutOff(2)
		}, 3 * time.Second},
		"it is frozen": {func(_ *testing.T, f *flock) { f.net.Pause(2) }, 10 * time.Second},
		"it is killed": {func(_ *testing.T, f *flock) { f.net.Kill(2) }, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 4, func(t *testing.T, f *flock) {
				rooms := f.settled("ops")
				start := time.Now()
				c.fail(t, f)
				time.Sleep(30 * time.Second)
				for i, r := range rooms {
					if i == 2 {
						continue
					}
					got := eventsDuring(t, r, time.Millisecond)
					require.Equal(t, []string{"?u2", "-u2 dropped"}, []string{line(got[0]), line(got[1])})
					require.Len(t, got, 2)
					require.LessOrEqual(t, got[0].Head().Time.Sub(start), c.within)
				}
			})
		})
	}
}

func TestASilentMemberIsHeardAgain(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		rooms := f.settled("ops")
		f.net.Pause(2)
		time.Sleep(8500 * time.Millisecond)
		f.net.Resume(2)
		start := time.Now()
		time.Sleep(20 * time.Second)
		for i, r := range rooms {
			got := eventsDuring(t, r, time.Millisecond)
			var shown []string
			for _, ev := range got {
				shown = append(shown, line(ev))
				if strings.HasPrefix(line(ev), "!") {
					require.Less(t, ev.Head().Time.Sub(start), 3*time.Second)
				}
			}
			if i != 2 {
				require.Equal(t, []string{"?u2", "!u2"}, shown, "station %d", i)
				continue
			}
			require.ElementsMatch(t, []string{"?u0", "?u1", "?u3", "!u0", "!u1", "!u3"}, shown)
		}
	})
}
