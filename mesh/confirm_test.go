package mesh

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// crowdIn joins a room with every station, and makes all know each other without the traffic of it; then the test may connect them.
func (f *flock) crowdIn(room string) []*Room {
	f.t.Helper()
	rooms := make([]*Room, len(f.at))
	for i := range f.at {
		rooms[i] = f.join(i, room)
	}
	time.Sleep(2 * time.Minute) // or GossipSub would offer what each has published alone
	now := time.Now()
	for _, r := range rooms {
		r.mu.Lock()
		for _, o := range rooms {
			if o == r {
				continue
			}
			s := r.applyLocked(now, o.own)
			s.feed.begin(o.head.last + 1)
		}
		r.journal.digest = nil
		r.mu.Unlock()
	}
	return rooms
}

// settle waits until the room's members have told each other all that they had to.
func settle() { time.Sleep(5 * time.Second); synctest.Wait() }

// confirmed checks what a confirmation says against what the members have in their queues.
func confirmed(t *testing.T, c Confirmation, rooms []*Room, text string, unknown ...string) {
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
		ev, err := r.Recv(ctx)
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
		confirmed(t, c, rooms, "all of you")
		for _, r := range rooms[1:] {
			require.True(t, has(r, "all of you"))
		}
		require.NotZero(t, c.ID)
		require.NotZero(t, c.Number)
		require.LessOrEqual(t, f.at[0].Stats().ReceiptFramesTaken, uint64(7))
		require.EqualValues(t, 7, f.at[0].Stats().ReceiptsTaken)
	})
}

// large runs f with a crowd whose author, station 0, is connected as a test wants.
func large(t *testing.T, connect func(*flock), run func(*testing.T, *flock, []*Room)) {
	t.Helper()
	inBubble(t, crowd, func(t *testing.T, f *flock) {
		rooms := f.crowdIn("ops")
		f.net.Random(8)
		connect(f)
		settle()
		run(t, f, rooms)
		for _, s := range f.at {
			s.EvictAll(ErrLeft) // a goodbye of each to all would cost more than the test
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
				confirmed(t, conf, rooms, "everybody")
				for i, r := range rooms[1:] {
					require.True(t, has(r, "everybody"), i)
				}
				require.Less(t, time.Since(start), firstAsk, "nobody had to be asked again")
				require.LessOrEqual(t, f.at[0].Stats().ReceiptFramesTaken-before, c.frames)
			})
		})
	}
}
