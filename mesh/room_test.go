package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/wire"
)

// flock is simulated hosts with a mesh each, whose users are u0, u1 and so on.
type flock struct {
	t   *testing.T
	net *meshtest.Net
	all *hellos
	at  []*station
}

// inBubble runs f with n stations on a simulated network. f connects them.
func inBubble(t *testing.T, n int, f func(*testing.T, *flock), opts ...Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fl := &flock{t: t, net: meshtest.New(t, meshtest.Options{Hosts: n, Latency: 5 * time.Millisecond}), all: newHellos()}
		for i := range n {
			fl.at = append(fl.at, fl.all.station(t, fl.net.Host(i), fmt.Sprintf("u%d", i), opts...))
		}
		f(t, fl)
	})
}

// join enters the room with station i.
func (f *flock) join(i int, room string, opts ...JoinOption) *Room {
	f.t.Helper()
	r, err := f.at[i].Join(f.t.Context(), room, opts...)
	require.NoError(f.t, err)
	return r
}

// joinAll enters the room with every station at once, and waits until each knows all.
func (f *flock) joinAll(room string) []*Room {
	f.t.Helper()
	rooms := make([]*Room, len(f.at))
	errs := make(chan error, len(f.at))
	for i, s := range f.at {
		go func() {
			var err error
			rooms[i], err = s.Join(f.t.Context(), room)
			errs <- err
		}()
	}
	for range f.at {
		require.NoError(f.t, <-errs)
	}
	for i, r := range rooms {
		ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
		require.NoError(f.t, r.WaitPeers(ctx, len(f.at)-1), "station %d", i)
		cancel()
	}
	return rooms
}

// line is an event in short: "u1:hello", "u1>hello" for one to this member alone, "+u1", "-u1
// quit", "lagged 3", "lost u1 2-3".
func line(ev Event) string {
	switch ev := ev.(type) {
	case *Message:
		return ev.From.User + ":" + string(ev.Data)
	case *DirectMessage:
		return ev.From.User + ">" + string(ev.Data)
	case *MemberJoined:
		return "+" + ev.Member.User
	case *MemberLeft:
		return "-" + ev.Member.User + " " + string(ev.Reason)
	case *RoomSize:
		if ev.Large {
			return fmt.Sprintf("large %d", ev.Members)
		}
		return fmt.Sprintf("small %d", ev.Members)
	case *Lagged:
		return fmt.Sprintf("lagged %d", ev.Missed)
	case *GapLost:
		return fmt.Sprintf("lost %s %d-%d", ev.From.User, ev.First, ev.Last)
	}
	return fmt.Sprintf("%T", ev)
}

// read reads n events.
func read(t *testing.T, r *Room, n int) (got []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range n {
		ev, err := r.Recv(ctx)
		require.NoError(t, err, "after %q", got)
		got = append(got, line(ev))
	}
	return got
}

// quiet checks that nothing more comes within d.
func quiet(t *testing.T, r *Room, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	ev, err := r.Recv(ctx)
	if err == nil {
		t.Fatalf("an event nobody sent: %s", line(ev))
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestFirstMemberMakesTheRoomAndPublishesAlone(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		r := f.join(0, "ops")
		p, err := r.Publish(t.Context(), []byte("anybody?"))
		require.NoError(t, err)
		require.Zero(t, p.Neighbours)
		require.EqualValues(t, 1, p.ID)
		require.EqualValues(t, 2, p.Number, "the feed begins with the roster entry")
		require.Equal(t, []string{"u0"}, users(r))
		quiet(t, r, time.Second)
	})
}

func users(r *Room) (names []string) {
	for _, m := range r.Members() {
		names = append(names, m.User)
	}
	return names
}

func TestWhatIsPublishedAfterJoinReturnedArrivesBothWays(t *testing.T) {
	for seed := range 20 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				old := []*Room{f.join(0, "ops"), f.join(1, "ops")}
				time.Sleep(time.Duration(seed) * 37 * time.Millisecond)
				newcomer := f.join(2, "ops")
				for i, r := range append(old, newcomer) {
					_, err := r.PublishText(t.Context(), fmt.Sprintf("first of %d", i))
					require.NoError(t, err)
				}
				got := read(t, newcomer, 4)
				slices.Sort(got)
				require.Equal(t, []string{"+u0", "+u1", "u0:first of 0", "u1:first of 1"}, got)
				for i, r := range old {
					got := read(t, r, 4)
					require.Contains(t, got, "u2:first of 2", "member %d", i)
					require.Contains(t, got, "+u2")
				}
			})
		})
	}
}

func TestEveryMemberOfARandomGraphGetsEverythingOnceInOrder(t *testing.T) {
	const members, each = 30, 20
	inBubble(t, members, func(t *testing.T, f *flock) {
		f.net.Random(5)
		rooms := f.joinAll("ops")
		time.Sleep(3 * time.Second) // the topic mesh forms on heartbeats
		var publishers sync.WaitGroup
		defer publishers.Wait()
		for _, r := range rooms {
			publishers.Go(func() {
				for i := range each {
					if _, err := r.PublishText(t.Context(), fmt.Sprint(i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for i, r := range rooms {
			got := make(map[string][]string)
			for n := 0; n < (members-1)*each; {
				ev, err := r.Recv(t.Context())
				require.NoError(t, err)
				switch ev := ev.(type) {
				case *Message:
					got[ev.From.User] = append(got[ev.From.User], string(ev.Data))
					n++
				case *MemberJoined:
				default:
					t.Fatalf("member %d: %s", i, line(ev))
				}
			}
			require.Len(t, got, members-1)
			for user, texts := range got {
				for n, text := range texts {
					require.Equal(t, fmt.Sprint(n), text, "member %d, from %s", i, user)
				}
			}
			quiet(t, r, time.Millisecond)
		}
	})
}

func TestABurstThroughAChainArrivesWhole(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		time.Sleep(3 * time.Second)
		const burst = 1000
		for i := range burst {
			data := make([]byte, 200)
			copy(data, fmt.Sprint(i))
			_, err := rooms[0].PublishAsync(t.Context(), data)
			require.NoError(t, err)
		}
		for _, r := range rooms[1:] {
			next := 0
			for next < burst {
				ev, err := r.Recv(t.Context())
				require.NoError(t, err)
				if m, ok := ev.(*Message); ok {
					require.Equal(t, fmt.Sprint(next), strings.TrimRight(string(m.Data), "\x00"))
					next++
				}
			}
		}
	})
}

func TestMembersSeeEachOtherComeAndGoWithTheirInfo(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a := f.join(0, "ops", WithInfo([]byte("on call")))
		b := f.join(1, "ops", WithInfo(make([]byte, 200)))
		ev, err := a.Recv(t.Context())
		require.NoError(t, err)
		require.Len(t, ev.(*MemberJoined).Member.Info, 200)
		ev, err = b.Recv(t.Context())
		require.NoError(t, err)
		joined := ev.(*MemberJoined)
		require.Equal(t, "on call", string(joined.Member.Info))
		require.Equal(t, f.at[0].login(), joined.Member.Login)
		require.Equal(t, Header{Type: "member_joined", Seq: 1, Time: joined.Time, Room: "ops"}, joined.Header)

		_, err = b.PublishText(t.Context(), "bye")
		require.NoError(t, err)
		start := time.Now()
		require.NoError(t, b.Leave(t.Context()))
		require.Equal(t, []string{"u1:bye", "-u1 quit"}, read(t, a, 2), "what was sent before comes before")
		require.Less(t, time.Since(start), time.Second)
		require.NoError(t, b.Leave(t.Context()), "leaving twice is harmless")
		_, err = b.PublishText(t.Context(), "x")
		require.ErrorIs(t, err, ErrLeft)
		_, err = b.Send(t.Context(), "u0", []byte("x"))
		require.ErrorIs(t, err, ErrLeft)
		require.ErrorIs(t, b.WaitPeers(t.Context(), 9), ErrLeft)
		for _, err := range b.Events(t.Context()) {
			require.NoError(t, err, "a room that was left ends silently")
		}
		_, err = b.Recv(t.Context())
		require.ErrorIs(t, err, ErrLeft)
		require.Equal(t, []string{"u0"}, users(a))
	})
}

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

func sorted(s []string) []string {
	slices.Sort(s)
	return s
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
		require.Equal(t, joinWait, timed(0, "other"))
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

func TestRoomsDoNotMix(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		open, secret := f.join(0, "ops"), f.join(0, "ops2", WithSecret("s"))
		theirs, outside := f.join(1, "ops"), f.join(1, "ops2")
		_, err := secret.PublishText(t.Context(), "hidden")
		require.NoError(t, err)
		_, err = open.PublishText(t.Context(), "open")
		require.NoError(t, err)
		require.Equal(t, []string{"+u0", "u0:open"}, read(t, theirs, 2))
		quiet(t, outside, 3*time.Second)
		require.Equal(t, []string{"u1"}, users(outside))
		require.Len(t, f.at[0].Rooms(), 2)
		got, ok := f.at[0].Room("ops")
		require.True(t, ok)
		require.Same(t, open, got)
	})
}

func TestSendReachesOneMemberAndNobodyElse(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Chain() // u0 and u2 are not connected
		rooms := f.joinAll("ops")
		for _, r := range rooms {
			read(t, r, 2)
		}
		receipt, err := rooms[0].SendText(t.Context(), "u1", "psst")
		require.NoError(t, err)
		require.Positive(t, receipt.RTT)
		require.Equal(t, []string{"u0>psst"}, read(t, rooms[1], 1))

		// A member that is not connected is dialled at the addresses in its roster entry.
		receipt, err = rooms[0].Send(t.Context(), f.at[2].login().Address().String(), []byte("far"))
		require.NoError(t, err)
		require.EqualValues(t, 2, receipt.ID, "introductions take no further ID")
		require.Equal(t, []string{"u0>far"}, read(t, rooms[2], 1))
		for _, r := range rooms {
			quiet(t, r, time.Second)
		}
		require.Zero(t, f.at[1].inbox.len(), "messages of rooms stay in rooms")
	})
}

func TestWrongInputIsRefusedAtOnceWithItsReason(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		ctx := t.Context()
		nobody := f.all.station(t, f.net.Host(f.net.NewHost(nil)), "")
		_, err := nobody.Join(ctx, "ops")
		require.ErrorIs(t, err, ErrNoIdentity)

		for _, name := range []string{"", "a b", "ä", strings.Repeat("x", 129)} {
			_, err = f.at[0].Join(ctx, name)
			require.Error(t, err)
		}
		_, err = f.at[0].Join(ctx, "ops", WithInfo(make([]byte, 201)))
		require.Error(t, err)
		r := f.join(0, "ops")
		_, err = f.at[0].Join(ctx, "ops")
		require.ErrorIs(t, err, ErrJoined)

		_, err = r.Publish(ctx, nil)
		require.ErrorIs(t, err, ErrEmpty)
		_, err = r.Publish(ctx, make([]byte, MaxMessage+1))
		require.EqualError(t, err, "mesh: message of 65537 bytes is over the limit of 65536")
		_, err = r.PublishText(ctx, "\xff")
		require.ErrorIs(t, err, ErrNotText)
		_, err = r.Send(ctx, "u0", []byte("x"))
		require.ErrorIs(t, err, ErrSelf)
		_, err = r.Send(ctx, "u1", []byte("x"))
		require.EqualError(t, err, "mesh: no such member in the room ops: u1")
		require.ErrorIs(t, err, ErrNotMember)
		_, err = r.Send(ctx, "u1", nil)
		require.ErrorIs(t, err, ErrEmpty)
		_, err = r.Send(ctx, "no user", []byte("x"))
		var id *identity.IDError
		require.ErrorAs(t, err, &id)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		_, err = f.at[0].Join(ended, "other")
		require.ErrorIs(t, err, context.Canceled)

		// None of it took an ID.
		p, err := r.Publish(ctx, make([]byte, MaxMessage))
		require.NoError(t, err)
		require.EqualValues(t, 1, p.ID)

		require.NoError(t, f.at[0].Close())
		_, err = r.Publish(ctx, []byte("x"))
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = f.at[0].Join(ctx, "ops")
		require.ErrorIs(t, err, ErrClosed)
		_, err = r.Recv(ctx)
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestASlowReaderIsToldWhatItMissedAndStallsNobody(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		for i := range 40 {
			_, err := rooms[0].PublishText(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
			if i%8 == 7 {
				read(t, rooms[1], 8) // it reads in time
			}
		}
		synctest.Wait()
		got := read(t, rooms[2], 2+1+8)
		require.Equal(t, "lagged 32", got[2])
		require.Equal(t, "u0:39", got[10])
		require.EqualValues(t, 32, f.at[2].Stats().MessagesMissed)
	}, WithQueue(QueueLimits{Events: 8, Bytes: 1 << 20}))
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
			_, err := first.Recv(t.Context())
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
							_, err = r.Recv(t.Context())
						}
						if errors.Is(err, ErrReplaced) {
							ended <- i
						}
					}()
				}
				loser := <-ended
				time.Sleep(30 * time.Second)
				require.Empty(t, ended, "only one has lost")
				require.Len(t, witness.Members(), 2)
				require.NotEqual(t, f.at[loser].host.ID(), witness.Members()[0].Peer)
			})
		})
	}
}

func TestAMemberThatFallsSilentIsDroppedAfterTheGraceAndOneThatReturnsIsNot(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a, b := f.join(0, "ops"), f.join(1, "ops")
		read(t, a, 1)
		read(t, b, 1)

		// Within the grace: nothing is said, and messages flow again.
		disconnect(t, f, 0, 1)
		time.Sleep(9 * time.Second)
		f.net.Connect(0, 1)
		time.Sleep(20 * time.Second)
		_, err := b.PublishText(t.Context(), "back")
		require.NoError(t, err)
		require.Equal(t, []string{"u1:back"}, read(t, a, 1))

		// Beyond: dropped when it is over, and joined again on return.
		disconnect(t, f, 0, 1)
		start := time.Now()
		require.Equal(t, []string{"-u1 dropped"}, read(t, a, 1))
		require.Equal(t, 10*time.Second, time.Since(start).Round(time.Second))
		f.net.Connect(0, 1)
		require.Equal(t, []string{"+u1"}, read(t, a, 1))
		_, err = b.PublishText(t.Context(), "again")
		require.NoError(t, err)
		require.Equal(t, []string{"u1:again"}, read(t, a, 1))
	})
}

func disconnect(t *testing.T, f *flock, i, j int) {
	t.Helper()
	require.NoError(t, f.net.Host(i).Network().ClosePeer(f.net.ID(j)))
	require.NoError(t, f.net.Host(j).Network().ClosePeer(f.net.ID(i)))
	synctest.Wait()
}

func TestSendTextLeavesTheOptionsOfItsCallerAlone(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		all := []SendOption{WithMode(Reliable), WithMode(UnreliableOrdered)}
		_, err := f.join(0, "ops").SendText(t.Context(), "nobody", "psst", all[:1]...)
		require.ErrorIs(t, err, ErrNotMember)
		require.Equal(t, WithMode(UnreliableOrdered), all[1], "behind what was passed")
	})
}

func TestWhatALaterVersionSealedIsLostOnlyAsFarAsItIsMissed(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		read(t, rooms[0], 1)
		r := rooms[0]
		sealed := func(floor, first uint64, count uint32) {
			r.mu.Lock()
			defer r.mu.Unlock()
			of := &feed{entry: rooms[1].own, next: floor, floor: floor}
			r.deliverLocked(time.Now(), of, []*envelope{{Envelope: &wire.Envelope{Scheme: 9, First: first, Count: count}}})
		}
		sealed(1, 1, 1) // where the author's entry is, which is known
		sealed(6, 4, 2) // from before this node's time
		quiet(t, r, time.Second)
		sealed(1, 1, 3)
		sealed(6, 5, 3)
		require.Equal(t, []string{"lost u1 2-3", "lost u1 6-7"}, read(t, r, 2))
		require.EqualValues(t, 4, f.at[0].Stats().MessagesLost)
	})
}
