package mesh

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// crowdIn joins a room with every station, and makes all know each other without the traffic for
// that; then the test may connect them.
func (f *flock) crowdIn(room string) []*Room {
	f.t.Helper()
	rooms := make([]*Room, len(f.at))
	for i := range f.at {
		rooms[i] = f.join(i, room)
	}
	time.Sleep(2 * time.Minute) // otherwise GossipSub would offer what each has published alone
	now := time.Now()
	for _, r := range rooms {
		r.mu.Lock()
		for _, o := range rooms {
			if o == r {
				continue
			}
			r.stay.Meet(now, o.stay.Own(), o.inside().Head.Last)
		}
		r.mu.Unlock()
	}
	return rooms
}

// settle waits until the room's members have exchanged everything that they had to.
func settle() { time.Sleep(5 * time.Second); synctest.Wait() }

// confirmed checks that a confirmation reports all members but some as delivered.
func confirmed(t *testing.T, c Confirmation, rooms []*Room, unknown ...string) {
	t.Helper()
	want := make(map[string]bool)
	for _, name := range unknown {
		want[name] = true
	}
	require.Len(t, c.Members, len(rooms)-1)
	for _, m := range c.Members {
		require.Equal(t, !want[m.Member.User], m.Delivered, m.Member.User)
		require.Equal(t, m.Delivered, m.After > 0, m.Member.User)
	}
	require.Len(t, c.Unknown(), len(unknown))
}

// has reports whether a member's queue holds a text, which it empties.
func has(r *Room, text string) (found bool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		ev, err := passing(ctx, r)
		if err != nil {
			return found
		}
		m, ok := ev.(*Message)
		found = found || ok && string(m.Data) == text
	}
}

func TestABroadcastIsConfirmedByEightMembers(t *testing.T) {
	inBubble(t, 8, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		start := time.Now()
		c, err := rooms[0].PublishConfirmed(t.Context(), []byte("all of you"), AsText())
		require.NoError(t, err)
		require.Less(t, time.Since(start), 50*time.Millisecond)
		confirmed(t, c, rooms)
		for _, r := range rooms[1:] {
			require.True(t, has(r, "all of you"))
		}
		require.NotZero(t, c.ID)
		require.NotZero(t, c.Number)
		require.LessOrEqual(t, f.at[0].Stats().ReceiptFramesTaken, uint64(7))
		require.EqualValues(t, 7, f.at[0].Stats().ReceiptsTaken)
	})
}

// large runs f with a crowd whose author, station 0, is connected as a test needs.
func large(t *testing.T, connect func(*flock), run func(*testing.T, *flock, []*Room)) {
	t.Helper()
	inBubble(t, crowd, func(t *testing.T, f *flock) {
		rooms := f.crowdIn("ops")
		f.net.Random(8)
		connect(f)
		settle()
		run(t, f, rooms)
		for _, s := range f.at {
			s.EvictAll(ErrLeft) // a goodbye from each to all would cost more than the test
		}
	})
}

func randomGraph(*flock) {}

// hub connects the author to everybody.
func hub(f *flock) {
	for i := 1; i < f.net.Len(); i++ {
		if !f.net.Connected(0, i) {
			f.net.Connect(0, i)
		}
	}
}

func TestACrowdConfirmsInFewFrames(t *testing.T) {
	for name, c := range map[string]struct {
		connect func(*flock)
		frames  uint64
	}{"random graph": {randomGraph, 40}, "author connected to all": {hub, 80}} {
		t.Run(name, func(t *testing.T) {
			large(t, c.connect, func(t *testing.T, f *flock, rooms []*Room) {
				before := f.at[0].Stats().ReceiptFramesTaken
				start := time.Now()
				conf, err := rooms[0].PublishConfirmed(t.Context(), []byte("everybody"), AsText())
				require.NoError(t, err)
				t.Log(len(f.at), "members confirmed in", time.Since(start), "by", f.at[0].Stats().ReceiptFramesTaken-before, "frames")
				confirmed(t, conf, rooms)
				for i, r := range rooms[1:] {
					require.True(t, has(r, "everybody"), i)
				}
				require.Less(t, time.Since(start), stay.SecondAsk)
				require.LessOrEqual(t, f.at[0].Stats().ReceiptFramesTaken-before, c.frames)
			})
		})
	}
}

// deadline is a context for a confirmed broadcast.
func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestAMemberThatIsCutOffIsUnknownAndHasTheMessageLater(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		f.net.Isolate(3)
		start := time.Now()
		c, err := rooms[0].PublishConfirmed(deadline(t, 4*time.Second), []byte("hello?"), AsText())
		require.NoError(t, err)
		require.Equal(t, 4*time.Second, time.Since(start), "it may yet come back")
		confirmed(t, c, rooms, "u3")
		require.False(t, has(rooms[3], "hello?"))
		require.True(t, has(rooms[1], "hello?"))
		f.net.Heal()
		for i := range 3 {
			if !f.net.Connected(i, 3) {
				f.net.Connect(i, 3)
			}
		}
		settle()
		require.True(t, has(rooms[3], "hello?"))
		require.False(t, c.Members[2].Delivered, "a result does not change")
	})
}

func TestWhatHadToBeRepairedIsConfirmed(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		f.net.Isolate(3)
		back := make(chan struct{})
		go func() {
			defer close(back)
			time.Sleep(time.Minute) // the connections have ended, and with them what was under way
			f.net.Heal()
			for i := range 3 {
				f.net.Connect(i, 3)
			}
		}()
		start := time.Now()
		c, err := rooms[0].PublishConfirmed(deadline(t, 2*time.Minute), []byte("wait for me"), AsText())
		require.NoError(t, err)
		confirmed(t, c, rooms)
		require.True(t, has(rooms[3], "wait for me"))
		require.Greater(t, time.Since(start), time.Minute)
		require.Less(t, time.Since(start), time.Minute+2*time.Second)
		require.NotZero(t, f.at[3].Stats().EnvelopesPulled)
		<-back
	}, WithGrace(5*time.Minute))
}

func TestNobodyIsWaitedForWhoHasLeft(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		gone := make(chan error)
		go func() { gone <- rooms[2].Leave(t.Context()) }()
		synctest.Wait() // its goodbye is under way, and it takes nothing any more
		start := time.Now()
		c, err := rooms[0].PublishConfirmed(t.Context(), []byte("too late"), AsText())
		require.NoError(t, err)
		confirmed(t, c, rooms, "u2")
		require.False(t, has(rooms[2], "too late"))
		require.InDelta(t, stay.LateReceipts, time.Since(start), float64(50*time.Millisecond))
		require.NoError(t, <-gone)
	})
}

func TestABroadcastThatFoundNoRoomIsNotConfirmed(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		for range 2 { // only broadcasts are dropped for a broadcast
			_, err := rooms[0].SendText(t.Context(), "u1", "psst")
			require.NoError(t, err)
		}
		c, err := rooms[0].PublishConfirmed(deadline(t, 5*time.Second), []byte("heard?"), AsText())
		require.NoError(t, err)
		confirmed(t, c, rooms, "u1")
		require.False(t, has(rooms[1], "heard?"))
		require.True(t, has(rooms[2], "heard?"))
	}, WithQueue(QueueLimits{Events: 2, Bytes: 1 << 20}))
}

func TestConfirmedBroadcastsShareAnEnvelope(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		var all []Pending[Confirmation]
		for range 500 {
			p, err := rooms[0].PublishConfirmedAsync(t.Context(), []byte("one of many"), AsText())
			require.NoError(t, err)
			all = append(all, p)
		}
		var last uint64
		for _, p := range all {
			c, err := p.Result()
			require.NoError(t, err)
			confirmed(t, c, rooms)
			require.Greater(t, c.Number, last)
			require.Equal(t, p.ID(), c.ID)
			last = c.Number
		}
		require.Less(t, f.at[0].Stats().ReceiptFramesTaken, uint64(500))
		synctest.Wait()
		in := rooms[0].inside()
		require.Zero(t, in.Polls)
		require.Empty(t, in.Awaited)
	})
}

func TestAConfirmationEndsWithItsContextOrTheStay(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		f.net.Isolate(1)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		c, err := rooms[0].PublishConfirmed(ctx, []byte("never mind"), AsText())
		require.ErrorIs(t, err, ErrUnconfirmed)
		require.ErrorIs(t, err, context.Canceled)
		require.Len(t, c.Unknown(), 1)
		p, err := rooms[0].PublishConfirmedAsync(t.Context(), []byte("good"), AsText())
		require.NoError(t, err)
		c, err = p.Wait(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.Len(t, c.Unknown(), 1)
		go rooms[0].Leave(t.Context())
		c, err = p.Result()
		require.ErrorIs(t, err, ErrUnconfirmed)
		require.ErrorIs(t, err, ErrLeft)
		require.Len(t, c.Unknown(), 1)
		_, err = rooms[0].PublishConfirmed(t.Context(), []byte("bye"), AsText())
		require.ErrorIs(t, err, ErrLeft)
	})
}

func TestWhoIsAloneHasNobodyToWaitFor(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		c, err := f.join(0, "ops").PublishConfirmed(t.Context(), []byte("anybody?"))
		require.NoError(t, err)
		require.Empty(t, c.Members)
		require.NotZero(t, c.Number)
	})
}

// madeUp is a roster entry of a user that nobody is.
func madeUp(user string) *stay.Entry {
	key := identity.PublicKey(sha256.Sum256([]byte(user)))
	return &stay.Entry{
		Statement: &identity.Statement{User: user, UserKey: key, Device: key, Peer: peer.ID("device of " + user)}, Feed: stay.FeedID{1}, Sequence: 1, Joined: true,
	}
}

func TestALargerRoomIsRefused(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		r := f.join(0, "ops")
		for i := range MaxConfirmed {
			r.mu.Lock()
			r.stay.Meet(time.Now(), madeUp(fmt.Sprint("x", i)), 0)
			r.mu.Unlock()
		}
		settle()
		sent := f.at[0].Stats().MessagesPublished
		_, err := r.PublishConfirmed(t.Context(), []byte("all of you"))
		var crowded *CrowdError
		require.ErrorAs(t, err, &crowded)
		require.Equal(t, &CrowdError{Members: 257, Limit: 256}, crowded)
		synctest.Wait()
		require.Equal(t, sent, f.at[0].Stats().MessagesPublished)
	})
}

// swallow makes a station discard what it receives over the room protocol. It goes on taking
// envelopes and passing them on.
func (f *flock) swallow(i int) {
	s := f.at[i]
	s.host.SetStreamHandler(RoomProtocol, func(s network.Stream) { _, _ = io.Copy(io.Discard, s); _ = s.Reset() })
	s.links.mu.Lock()
	defer s.links.mu.Unlock()
	for _, in := range s.links.in {
		_ = in.Reset()
	}
}

func TestReceiptsFindAWayAroundAMemberThatSwallowsThem(t *testing.T) {
	inBubble(t, 5, func(t *testing.T, f *flock) {
		for _, p := range [][2]int{{0, 1}, {1, 3}, {0, 2}, {2, 4}, {4, 3}} {
			f.net.Connect(p[0], p[1])
		}
		rooms := f.joinAll("ops")
		f.swallow(1)
		settle()
		start := time.Now()
		c, err := rooms[0].PublishConfirmed(t.Context(), []byte("this way"), AsText())
		require.NoError(t, err)
		confirmed(t, c, rooms)
		require.Greater(t, time.Since(start), stay.FirstAsk, "the shortest way is by the one that swallows")
		require.Less(t, time.Since(start), stay.FirstAsk+time.Second)
	})
}

func TestCollectorsThatSwallowReceiptsAreGoneAround(t *testing.T) {
	inBubble(t, 24, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		for i := 1; i <= 12; i++ {
			f.swallow(i)
		}
		settle()
		start := time.Now()
		c, err := rooms[0].PublishConfirmed(t.Context(), []byte("this way"), AsText())
		require.NoError(t, err)
		t.Log(time.Since(start), f.at[0].Stats().ReceiptFramesTaken)
		confirmed(t, c, rooms)
		require.Less(t, time.Since(start), stay.SecondAsk+time.Second)
		for _, s := range f.at {
			s.EvictAll(ErrLeft)
		}
	})
}

// Any member that the author names swallows the receipts of others. The last question names nobody.
func TestIfNobodyPassesReceiptsOnAllAreConfirmedAllTheSame(t *testing.T) {
	inBubble(t, 32, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		for i := 1; i < 32; i++ {
			f.swallow(i)
		}
		settle()
		start := time.Now()
		c, err := rooms[0].PublishConfirmed(t.Context(), []byte("this way"), AsText())
		require.NoError(t, err)
		confirmed(t, c, rooms)
		require.Less(t, time.Since(start), stay.SecondAsk+time.Second)
		for _, s := range f.at {
			s.EvictAll(ErrLeft)
		}
	})
}

func TestMembersThatDieAreUnknownAndKeepNobodyElseUnknown(t *testing.T) {
	inBubble(t, 24, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		unknown := []string{}
		for i := 1; i <= 6; i++ { // usually some of them are collectors
			f.net.Pause(i)
			unknown = append(unknown, f.at[i].login().User)
		}
		start := time.Now()
		c, err := rooms[0].PublishConfirmed(deadline(t, 6*time.Second), []byte("who is left?"), AsText())
		require.NoError(t, err)
		require.Equal(t, 6*time.Second, time.Since(start))
		confirmed(t, c, rooms, unknown...)
		for i := 1; i < 24; i++ {
			require.Equal(t, i > 6, has(rooms[i], "who is left?"), i)
		}
		for _, s := range f.at {
			s.EvictAll(ErrLeft)
		}
	})
}

func TestReceiptsComeThroughLoss(t *testing.T) {
	for name, connect := range map[string]func(*meshtest.Net){
		"all":    (*meshtest.Net).ConnectAll,
		"random": func(n *meshtest.Net) { n.Random(4) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 12, func(t *testing.T, f *flock) {
				rooms := f.crowdIn("ops")
				connect(f.net)
				settle()
				f.net.Loss(5)
				for range 20 {
					c, err := rooms[0].PublishConfirmed(t.Context(), []byte("through"), AsText())
					require.NoError(t, err)
					confirmed(t, c, rooms)
				}
				f.net.Loss(0)
			})
		})
	}
}
