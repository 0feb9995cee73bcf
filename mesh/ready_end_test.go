package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// remaining reads all events until the end of a stay.
func remaining(t *testing.T, r *Room) (got []string, end error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		ev, err := r.Recv(ctx)
		if err != nil {
			return got, err
		}
		got = append(got, line(ev))
	}
}

// The sender has been told that the message is in the app's queue.
func TestADirectThatWasTakenWhileJoiningIsNotLostAtTheEnd(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a := f.join(0, "ops")
		unanswering(f.net.Host(2), t.Context().Done())
		entered, err := f.at[1].Enter(t.Context(), "ops")
		require.NoError(t, err)
		require.NoError(t, a.WaitPeers(t.Context(), 1))
		_, err = a.SendText(t.Context(), "u1", "psst")
		require.NoError(t, err, "delivered")
		require.NoError(t, entered.Leave(t.Context()))
		got, end := remaining(t, entered)
		require.ErrorIs(t, end, ErrLeft)
		require.Contains(t, got, "u0>psst")
	})
}

func TestADirectThatWasTakenWhileJoiningIsNotLostBecauseTheQueueIsFull(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a := f.join(0, "ops")
		unanswering(f.net.Host(2), t.Context().Done())
		entered, err := f.at[1].Enter(t.Context(), "ops")
		require.NoError(t, err)
		require.NoError(t, a.WaitPeers(t.Context(), 1))
		_, err = a.SendText(t.Context(), "u1", "psst")
		require.NoError(t, err, "delivered")
		for i := range 10 {
			_, err = a.PublishText(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
		}
		require.NoError(t, entered.Ready(t.Context()))
		got := during(t, entered, time.Second)
		require.Contains(t, got, "u0>psst", "%q", got)
	}, WithQueue(QueueLimits{Events: 4}))
}

// The same with the default queue: the history of the room fills it.
func TestADirectThatWasTakenWhileJoiningIsNotLostWhenHistoryFillsTheQueue(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a := f.join(0, "ops")
		for i := range 9000 {
			_, err := a.PublishAsync(t.Context(), []byte(fmt.Sprint(i)))
			require.NoError(t, err)
			if i%500 == 0 {
				time.Sleep(50 * time.Millisecond)
			}
		}
		time.Sleep(2 * time.Second)
		unanswering(f.net.Host(2), t.Context().Done())
		entered, err := f.at[1].Enter(t.Context(), "ops", WithHistory(AllHistory))
		require.NoError(t, err)
		require.NoError(t, a.WaitPeers(t.Context(), 1))
		_, err = a.SendText(t.Context(), "u1", "psst")
		require.NoError(t, err, "delivered")
		require.NoError(t, entered.Ready(t.Context()))
		time.Sleep(5 * time.Second)
		got := during(t, entered, time.Second)
		t.Log(len(got), got[:3])
		require.Contains(t, got, "u0>psst")
	})
}

// A token that ends soon is reported after the room is ready.
func TestATokenThatEndsSoonIsToldOfAfterTheRoomIsReady(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		g.join(0, time.Hour)
		unanswering(g.net.Host(2), t.Context().Done())
		r, err := g.flock.at[1].Enter(t.Context(), "ops", WithToken(g.token(1, 20*time.Second, nil)))
		require.NoError(t, err)
		got := during(t, r, 5*time.Second)
		require.Equal(t, "ready first", got[0], "%q", got)
	})
}

// Two members lose the connection between them, and others still reach both.
func TestALostLinkBetweenTwoIsNoSilence(t *testing.T) {
	inBubble(t, 5, func(t *testing.T, f *flock) {
		rooms := f.settled("ops")
		disconnect(t, f, 0, 1)
		for i, r := range rooms {
			require.Empty(t, during(t, r, 20*time.Second), "u%d", i)
		}
	})
}

// A member loses its connections one after the other, and one stays.
func TestLinksThatAreLostOneAfterTheOtherAreNoSilence(t *testing.T) {
	inBubble(t, 5, func(t *testing.T, f *flock) {
		rooms := f.settled("ops")
		for _, i := range []int{0, 1, 2} {
			disconnect(t, f, i, 4)
			time.Sleep(1500 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		start := time.Now()
		for i, r := range rooms {
			got := eventsDuring(t, r, time.Millisecond)
			for _, ev := range got {
				t.Logf("u%d: %s at %v", i, line(ev), ev.Head().Time.Sub(start))
			}
			require.Empty(t, got, "u%d", i)
		}
	})
}

// A room that ends before it is ready leaves nothing behind.
func TestAStayThatEndsBeforeItIsReady(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, f *flock, r *Room){
		"left":    func(t *testing.T, f *flock, r *Room) { require.NoError(t, r.Leave(t.Context())) },
		"closed":  func(t *testing.T, f *flock, r *Room) { require.NoError(t, f.at[1].Close()) },
		"evicted": func(t *testing.T, f *flock, r *Room) { f.at[1].EvictAll(errors.New("out")) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				f.join(0, "ops")
				over := make(chan struct{})
				unanswering(f.net.Host(2), over)
				defer close(over)
				r, err := f.at[1].Enter(t.Context(), "ops")
				require.NoError(t, err)
				time.Sleep(100 * time.Millisecond)
				end(t, f, r)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err = r.Ready(ctx)
				require.Error(t, err)
				require.NotErrorIs(t, err, context.DeadlineExceeded)
				got, why := remaining(t, r)
				t.Log(got, why)
				if name != "closed" {
					again, err := f.at[1].Join(t.Context(), "ops")
					require.NoError(t, err)
					require.Equal(t, []string{"ready first", "+u0"}, during(t, again, time.Second))
				}
			})
		})
	}
}

// Join whose context ends while it waits leaves the room.
func TestJoinWhoseContextEndsLeaves(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a := f.join(0, "ops")
		over := make(chan struct{})
		unanswering(f.net.Host(2), over)
		defer close(over)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := f.at[1].Join(ctx, "ops")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, ok := f.at[1].Room("ops")
		require.False(t, ok)
		require.Equal(t, []string{"ready first", "+u1", "-u1 quit"}, during(t, a, 5*time.Second))
	})
}

// What was missed in a busy room comes after the event that the room is ready again.
func TestWhatABusyRoomMissedComesAfterTheRoomIsReadyAgain(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		rooms := f.settled("ops")
		f.cutOff(2)
		for i := range 6000 {
			_, err := rooms[0].PublishAsync(t.Context(), []byte(fmt.Sprint(i)))
			require.NoError(t, err)
			if i%500 == 0 {
				time.Sleep(50 * time.Millisecond)
			}
		}
		require.NoError(t, rooms[1].Leave(t.Context()))
		time.Sleep(time.Second)
		t.Log(during(t, rooms[2], time.Millisecond))
		f.net.Heal()
		f.net.Connect(0, 2)
		got := during(t, rooms[2], 10*time.Second)
		t.Log(len(got), slices.Index(got, "ready rejoin"), slices.Index(got, "-u1 quit"), slices.Index(got, "u0:0"))
		require.Equal(t, "ready rejoin", got[0])
	})
}

// What comes to a member alone after a cut comes after the event that the room is ready again.
func TestADirectAfterACutComesAfterTheRoomIsReadyAgain(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		during(t, rooms[1], 5*time.Second)
		f.cutOff(1)
		time.Sleep(3 * time.Second)
		f.net.Heal()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		p, err := rooms[0].SendAsync(ctx, "u1", []byte("psst"), WithWaiting())
		require.NoError(t, err)
		for f.net.TryConnect(0, 1) != nil {
			time.Sleep(100 * time.Millisecond)
		}
		got := during(t, rooms[1], 10*time.Second)
		_, err = p.Wait(ctx)
		t.Log(got, err)
		require.Less(t, slices.Index(got, "ready rejoin"), slices.Index(got, "u0>psst"), "%q", got)
	})
}

// What this node has got, and has acknowledged, is handed to the program when it leaves in a hold.
func TestWhatIsHeldUpWhenTheStayEnds(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		rooms := f.settled("ops")
		f.cutOff(2)
		time.Sleep(1500 * time.Millisecond)
		f.net.Heal()
		over := make(chan struct{})
		defer close(over)
		unanswering(f.net.Host(1), over)
		for _, i := range []int{1, 0} {
			for f.net.TryConnect(i, 2) != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
		holding := func() bool {
			rooms[2].mu.Lock()
			defer rooms[2].mu.Unlock()
			return rooms[2].stay.Holding()
		}
		for range 100 {
			if holding() && rooms[2].neighbourCount() > 1 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		require.True(t, holding())
		_, err := rooms[0].PublishText(t.Context(), "news")
		require.NoError(t, err, "a neighbour has acknowledged it")
		_, err = rooms[0].SendText(t.Context(), "u2", "psst")
		require.NoError(t, err, "delivered")
		time.Sleep(500 * time.Millisecond) // it may have to be fetched
		require.True(t, holding())
		require.NoError(t, rooms[2].Leave(t.Context()))
		got, end := remaining(t, rooms[2])
		require.ErrorIs(t, end, ErrLeft)
		require.Subset(t, got, []string{"u0>psst", "u0:news"}, "%q", got)
	})
}

func (r *Room) neighbourCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stay.NeighbourCount()
}

// A device that was cut off comes back, and its user has meanwhile joined from another one: the one
// whose app called later stays, in whatever order they come back.
func TestWhoCalledLaterStaysAfterACut(t *testing.T) {
	for _, cut := range []time.Duration{time.Second, 4 * time.Second, 40 * time.Second} {
		t.Run(cut.String(), func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				f.at[2].who.keys = &identity.Keys{Device: f.at[2].who.keys.Device, User: f.at[0].who.keys.User}
				f.at[2].who.be(t, "u0", true)
				first, witness := f.join(0, "ops"), f.join(1, "ops")
				settle()
				f.cutOff(0)
				time.Sleep(100 * time.Millisecond)
				second := f.join(2, "ops")
				time.Sleep(cut)
				// the later one is cut off as well, and both come back
				f.net.Isolate(2)
				disconnect(t, f, 1, 2)
				time.Sleep(cut)
				f.net.Heal()
				for _, l := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
					for f.net.TryConnect(l[0], l[1]) != nil {
						time.Sleep(50 * time.Millisecond)
					}
				}
				got, err := remaining(t, first)
				require.ErrorIs(t, err, ErrReplaced)
				t.Log(got)
				t.Log("second:", during(t, second, 20*time.Second))
				t.Log("witness:", during(t, witness, time.Second))
				require.Len(t, witness.Members(), 2)
				require.Equal(t, f.at[2].host.ID(), witness.Members()[0].Peer)
			})
		})
	}
}
