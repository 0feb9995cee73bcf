package mesh

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// published makes a member publish n numbered texts, and returns the lines that others must read.
func published(t *testing.T, r *Room, user, name string, n int) (want []string) {
	t.Helper()
	for i := range n {
		text := fmt.Sprintf("%s %d", name, i)
		_, err := r.PublishAsync(t.Context(), []byte(text), AsText())
		require.NoError(t, err)
		want = append(want, user+":"+text)
	}
	return want
}

// messages reads n messages, and only messages.
func messages(t *testing.T, r *Room, n int) (got []string) {
	t.Helper()
	for len(got) < n {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		ev, err := passing(ctx, r)
		cancel()
		require.NoError(t, err, "got %d of %d: %v", len(got), n, got)
		switch ev := ev.(type) {
		case *Message:
			got = append(got, line(ev))
		case *GapLost, *Lagged:
			t.Fatal(line(ev))
		}
	}
	return got
}

func TestWhatAMemberMissedWhileCutOffArrivesWhenItIsBack(t *testing.T) {
	for _, away := range []time.Duration{2 * time.Second, 10 * time.Second, time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				rooms := f.joinAll("ops")
				for i := range rooms {
					read(t, rooms[i], 2)
				}
				f.net.Isolate(2)
				want := published(t, rooms[0], "u0", "missed", 10)
				time.Sleep(away)
				mine := published(t, rooms[2], "u2", "alone", 5)
				time.Sleep(time.Second)
				f.net.Heal()
				healed := time.Now()
				for i := range 2 {
					if !f.net.Connected(i, 2) {
						f.net.Connect(i, 2)
					}
				}
				require.Equal(t, want, messages(t, rooms[2], len(want)))
				require.Less(t, time.Since(healed), 2*time.Second)
				require.Equal(t, mine, messages(t, rooms[0], len(mine)))
				require.ElementsMatch(t, append(want, mine...), messages(t, rooms[1], len(want)+len(mine)))
				require.Less(t, time.Since(healed), 2*time.Second)
			})
		})
	}
}

func TestAPublisherThatIsCutOffSaysSoAndItsMessageArrivesLater(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		p, err := rooms[0].PublishText(t.Context(), "heard")
		require.NoError(t, err)
		require.Positive(t, p.Acked)
		f.net.Isolate(0)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err = rooms[0].PublishText(ctx, "unheard")
		require.ErrorIs(t, err, ErrUnconfirmed)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		start := time.Now()
		_, err = rooms[0].PublishText(t.Context(), "nor this")
		require.ErrorIs(t, err, ErrUnconfirmed)
		require.Equal(t, f.at[0].cfg.sendTimeout, time.Since(start))
		f.net.Heal()
		for i := 1; i < 3; i++ {
			f.net.Connect(0, i)
		}
		for i := 1; i < 3; i++ {
			require.Equal(t, []string{"u0:heard", "u0:unheard", "u0:nor this"}, messages(t, rooms[i], 3))
		}
	})
}

func TestTheLossOfALastMessageIsNoticed(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		read(t, rooms[1], 1)
		r := rooms[0]
		sealed := captured(t, r, "never sent") // sealed and kept, and the node fails before it is sent
		r.mu.Lock()
		r.stay.Published(time.Now(), r.stay.Inspect().Head, 1, sealed, time.Now().Add(time.Minute), nil)
		r.rearm.Set()
		r.mu.Unlock()
		start := time.Now()
		require.Equal(t, []string{"u0:never sent"}, messages(t, rooms[1], 1))
		require.Less(t, time.Since(start), time.Second)
	})
}

func TestTwoWhoWereAloneMergeAndNothingIsLost(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		a := f.join(0, "ops")
		time.Sleep(30 * time.Second)
		old := published(t, a, "u0", "before", 3)
		time.Sleep(10 * time.Second)
		b := f.join(1, "ops")
		theirs := published(t, b, "u1", "alone", 3)
		mine := published(t, a, "u0", "since", 3)
		_ = old // from before u1 joined
		time.Sleep(20 * time.Second)
		f.net.ConnectAll()
		require.Equal(t, theirs, messages(t, a, 3))
		require.Equal(t, mine, messages(t, b, 3))
		quiet(t, b, 20*time.Second)
	})
}

func TestAHistoryPolicySaysWhatANewcomerGets(t *testing.T) {
	for _, c := range []struct {
		history History
		want    int // of the last of 30
	}{
		{SinceJoined, 0}, {LastMessages(7), 7}, {LastFor(14500 * time.Millisecond), 15}, {AllHistory, 30}, {LastMessages(100), 30},
	} {
		t.Run(c.history.String(), func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.Connect(0, 1)
				a, b := f.join(0, "ops"), f.join(1, "ops")
				var all []string
				for i := range 15 {
					all = append(all, published(t, a, "u0", fmt.Sprint("first ", i), 1)...)
					time.Sleep(time.Second)
					all = append(all, published(t, b, "u1", fmt.Sprint("then ", i), 1)...)
					time.Sleep(time.Second)
				}
				f.net.Connect(1, 2) // it meets one of them only
				c2 := f.join(2, "ops", WithHistory(c.history))
				after := published(t, a, "u0", "after", 2)
				want := all[len(all)-c.want:]
				if c.want == 15 {
					want = all[len(all)-c.want+1:] // one each second, and the last was one second ago
				}
				require.ElementsMatch(t, append(want, after...), messages(t, c2, len(want)+2))
				quiet(t, c2, 20*time.Second)
			})
		})
	}
}

func TestWhatNobodyRetainsIsReportedLostAndTheRestArrives(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		read(t, rooms[1], 1)
		first := published(t, rooms[0], "u0", "before", 1)
		require.Equal(t, first, messages(t, rooms[1], 1))
		f.net.Isolate(1)
		var want []string
		for i := range 20 {
			want = append(want, published(t, rooms[0], "u0", fmt.Sprint("m", i), 1)...)
			time.Sleep(10 * time.Second)
		}
		f.net.Heal()
		f.net.Connect(0, 1)
		var lost *GapLost
		var got []string
		for lost == nil || len(got) < int(20-(lost.Last-lost.First+1)) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			ev, err := passing(ctx, rooms[1])
			cancel()
			require.NoError(t, err)
			switch ev := ev.(type) {
			case *GapLost:
				require.Nil(t, lost)
				require.Empty(t, got, "the gap comes before what follows it")
				lost = ev
			case *Message:
				got = append(got, line(ev))
			}
		}
		require.EqualValues(t, 3, lost.First)
		require.Equal(t, want[lost.Last-lost.First+1:], got)
		require.InDelta(t, 6, len(got), 1, "a minute is retained")
	}, WithRetention(Retention{Age: time.Minute}))
}
