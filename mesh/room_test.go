package mesh

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

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
				switch ev := next(t, r).(type) {
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
			_, err := rooms[0].PublishAsync(t.Context(), data, WithWaiting())
			require.NoError(t, err)
		}
		for _, r := range rooms[1:] {
			for n := 0; n < burst; {
				if m, ok := next(t, r).(*Message); ok {
					require.Equal(t, fmt.Sprint(n), strings.TrimRight(string(m.Data), "\x00"))
					n++
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
		require.Len(t, next(t, a).(*MemberJoined).Member.Info, 200)
		joined := next(t, b).(*MemberJoined)
		require.Equal(t, "on call", string(joined.Member.Info))
		require.Equal(t, f.at[0].login(), joined.Member.Login)
		require.Equal(t, Header{Type: "member_joined", Seq: 2, Time: joined.Time, Room: "ops"}, joined.Header)

		_, err := b.PublishText(t.Context(), "bye")
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
		_, err = recv(t, b)
		require.ErrorIs(t, err, ErrLeft)
		require.Equal(t, []string{"u0"}, users(a))
	})
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
		require.EqualError(t, err, "message of 65537 bytes is over the limit of 65536")
		_, err = r.PublishText(ctx, "\xff")
		require.ErrorIs(t, err, ErrNotText)
		_, err = r.Send(ctx, "u0", []byte("x"))
		require.ErrorIs(t, err, ErrSelf)
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

		// That nobody of that name is there is a result.
		receipt, err := r.Send(ctx, "u1", []byte("x"))
		require.EqualError(t, err, "no such member in the room ops: u1")
		require.ErrorIs(t, err, ErrNotMember)
		require.EqualValues(t, 2, receipt.ID)

		require.NoError(t, f.at[0].Close())
		_, err = r.Publish(ctx, []byte("x"))
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = f.at[0].Join(ctx, "ops")
		require.ErrorIs(t, err, ErrClosed)
		_, err = passing(ctx, r)
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

func TestSendTextLeavesTheOptionsOfItsCallerAlone(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		all := []SendOption{WithMode(Reliable), WithMode(UnreliableOrdered)}
		_, err := f.join(0, "ops").SendText(t.Context(), "nobody", "psst", all[:1]...)
		require.ErrorIs(t, err, ErrNotMember)
		require.Equal(t, WithMode(UnreliableOrdered), all[1], "behind what was passed")
	})
}
