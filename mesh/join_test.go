package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

func TestLeavingAndJoiningAgainWorksAtOnce(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a, b := f.join(0, "ops"), f.join(1, "ops")
		f.join(2, "ops")
		read(t, a, 2)
		for i := range 5 {
			require.NoError(t, b.Leave(t.Context()))
			b = f.join(1, "ops")
			_, err := a.PublishText(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
			_, err = b.PublishText(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
			require.Equal(t, []string{"+u0", "+u2"}, sorted(read(t, b, 2)))
			require.Equal(t, []string{fmt.Sprintf("u0:%d", i)}, read(t, b, 1))
			// The new greeting may overtake the goodbye: then b was never away.
			want := fmt.Sprintf("u1:%d", i)
			if got := read(t, a, 1)[0]; got != want {
				require.Equal(t, "-u1 quit", got)
				require.Equal(t, []string{"+u1", want}, read(t, a, 2))
			}
		}
	})
}

// A member joins and leaves, and after each join all publish at once. What is published after Join
// has returned, or after a program has heard of the member, is for everybody. The others read only
// at the end, so greetings overtake the broadcasts before them.
func TestNothingIsLostAcrossAThousandJoins(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		stayers := []*Room{f.join(0, "ops"), f.join(1, "ops")}
		say := func(r *Room, text string) {
			_, err := r.PublishAsync(t.Context(), []byte(text), AsText())
			require.NoError(t, err)
		}
		said := make([][]string, 2) // to each member that stays, by the others
		for i := range manyJoins {
			c := f.join(2, "ops")
			require.NoError(t, c.WaitPeers(t.Context(), 2))
			say(c, fmt.Sprint("here ", i))
			for j, r := range stayers {
				say(r, fmt.Sprintf("welcome %d", i))
				said[j] = append(said[j], fmt.Sprint("u2:here ", i))
				said[1-j] = append(said[1-j], fmt.Sprintf("u%d:welcome %d", j, i))
			}
			got := messages(t, c, 2)
			require.ElementsMatch(t, []string{fmt.Sprint("u0:welcome ", i), fmt.Sprint("u1:welcome ", i)}, got)
			require.NoError(t, c.Leave(t.Context()))
		}
		for j, r := range stayers {
			bySender := func(lines []string) map[string][]string {
				out := make(map[string][]string)
				for _, l := range lines {
					user, _, _ := strings.Cut(l, ":")
					out[user] = append(out[user], l)
				}
				return out
			}
			require.Equal(t, bySender(said[j]), bySender(messages(t, r, len(said[j]))))
		}
	})
}

func TestJoinTakesAFewRoundTripsAndWaitsForNobodyWhoIsNotThere(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		timed := func(i int, room string) time.Duration {
			start := time.Now()
			f.join(i, room)
			return time.Since(start)
		}
		const roundTrip = 10 * time.Millisecond
		require.LessOrEqual(t, timed(0, "ops"), 3*roundTrip, "connected peers say that they are not in it")
		require.LessOrEqual(t, timed(1, "ops"), 6*roundTrip, "one is")

		// A peer that does not know the protocol, and one that never answers.
		bare := f.net.NewHost(nil)
		f.net.Connect(2, bare)
		require.LessOrEqual(t, timed(2, "ops"), 6*roundTrip)
		f.net.Host(bare).SetStreamHandler(RoomProtocol, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
		f.net.Connect(0, bare)
		require.Equal(t, stay.JoinWait, timed(0, "other"))
	})
}

func TestWhatIsPublishedOnSeeingAMemberReachesIt(t *testing.T) {
	for seed := range 20 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				a := f.join(0, "ops")
				// Its greeting comes over another stream than its subscription, and earlier.
				go func() {
					time.Sleep(time.Duration(seed) * time.Millisecond)
					b, err := f.at[1].Join(context.Background(), "ops")
					if err == nil {
						<-b.ctx.Done()
					}
				}()
				require.NoError(t, a.WaitPeers(t.Context(), 1))
				p, err := a.PublishText(t.Context(), "welcome")
				require.NoError(t, err)
				require.Equal(t, 1, p.Neighbours)
				require.NoError(t, a.Leave(t.Context()))
				var b *Room
				for b == nil {
					b, _ = f.at[1].Room("ops")
				}
				require.Equal(t, []string{"+u0", "u0:welcome", "-u0 quit"}, read(t, b, 3))
			})
		})
	}
}

// The member that is seen is two links away, and its Join waits for a peer that never answers.
// Before it returns, the one that has welcomed it has left.
func TestAWelcomeReachesWhoIsStillJoining(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Connect(0, 1)
		f.net.Connect(1, 2)
		a := f.join(0, "ops")
		f.join(1, "ops")
		require.NoError(t, a.WaitPeers(t.Context(), 1))
		silent := f.net.NewHost(nil)
		f.net.Host(silent).SetStreamHandler(RoomProtocol, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
		f.net.Connect(2, silent)
		joined := make(chan *Room)
		go func() {
			b, err := f.at[2].Join(context.Background(), "ops")
			if err != nil {
				t.Error(err)
			}
			joined <- b
		}()
		require.NoError(t, a.WaitPeers(t.Context(), 2))
		_, err := a.PublishText(t.Context(), "welcome")
		require.NoError(t, err)
		require.NoError(t, a.Leave(t.Context()))
		select {
		case <-joined:
			t.Fatal("its Join has returned before")
		default:
		}
		b := <-joined
		require.Equal(t, []string{"+u0", "+u1"}, sorted(read(t, b, 2)))
		require.Equal(t, []string{"u0:welcome", "-u0 quit"}, read(t, b, 2))
	})
}

func TestTheSameUserJoiningElsewhereLaterTakesTheSeat(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		// u2's device becomes a second device of u0.
		f.at[2].who.keys = &identity.Keys{Device: f.at[2].who.keys.Device, User: f.at[0].who.keys.User}
		f.at[2].who.be(t, "u0", true)

		first, witness := f.join(0, "ops"), f.join(1, "ops")
		read(t, witness, 1)
		time.Sleep(time.Second)
		second := f.join(2, "ops")
		for {
			_, err := recv(t, first)
			if err != nil {
				require.ErrorIs(t, err, ErrReplaced)
				break
			}
		}
		_, err := first.PublishText(t.Context(), "still here")
		require.ErrorIs(t, err, ErrReplaced)
		_, err = second.PublishText(t.Context(), "me now")
		require.NoError(t, err)
		require.Equal(t, []string{"u0:me now"}, read(t, witness, 1), "no leave, no second join")
		require.Equal(t, f.at[2].host.ID(), witness.Members()[0].Peer)
		quiet(t, witness, 20*time.Second)
	})
}

func TestTwoDevicesThatJoinAtOnceEndAsOne(t *testing.T) {
	for seed := range 10 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				f.at[2].who.keys = &identity.Keys{Device: f.at[2].who.keys.Device, User: f.at[0].who.keys.User}
				f.at[2].who.be(t, "u0", true)
				witness := f.join(1, "ops")
				ended := make(chan int, 3)
				for _, i := range []int{0, 2} {
					go func() {
						time.Sleep(time.Duration(seed*i) * time.Millisecond)
						r, err := f.at[i].Join(t.Context(), "ops")
						for err == nil {
							_, err = passing(t.Context(), r)
						}
						if errors.Is(err, ErrReplaced) {
							ended <- i
						}
					}()
				}
				var loser int
				select {
				case loser = <-ended:
				case <-time.After(time.Minute):
					t.Fatal("neither stay has ended")
				}
				time.Sleep(30 * time.Second)
				require.Empty(t, ended, "only one has lost")
				require.Len(t, witness.Members(), 2)
				require.NotEqual(t, f.at[loser].host.ID(), witness.Members()[0].Peer)
			})
		})
	}
}
