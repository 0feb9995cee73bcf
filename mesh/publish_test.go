package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

func TestOutboxPacksWhatWaitsAndBlocksWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(up)
		var id uint64
		number := func() uint64 { id++; return id }
		big := make([]byte, MaxMessage)
		perBatch := wire.MaxContent / wire.ItemSize(wire.Kind_KIND_BINARY, MaxMessage)
		require.Equal(t, 3, perBatch)
		for i := range maxWaiting * perBatch {
			p, err := o.add(t.Context(), wire.Kind_KIND_BINARY, big, number, accept{wait: true})
			require.NoError(t, err)
			require.EqualValues(t, i+1, p.id)
			require.EqualValues(t, i%perBatch, p.index)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := o.add(ctx, wire.Kind_KIND_BINARY, big, number, accept{wait: true})
		require.ErrorIs(t, err, ErrUnreachable, "certainly not sent")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = o.add(t.Context(), wire.Kind_KIND_BINARY, big, number, accept{})
		require.ErrorIs(t, err, ErrQueueFull)
		require.EqualValues(t, maxWaiting*perBatch, id, "it took no ID")

		added := make(chan error)
		go func() {
			_, err := o.add(t.Context(), wire.Kind_KIND_BINARY, big, number, accept{wait: true})
			added <- err
		}()
		synctest.Wait()
		b, _ := o.take()
		require.EqualValues(t, perBatch, b.count)
		require.NoError(t, <-added)

		reason := errors.New("over")
		go func() {
			for err == nil || !errors.Is(err, reason) {
				_, err = o.add(t.Context(), wire.Kind_KIND_BINARY, big, number, accept{wait: true})
			}
			added <- err
		}()
		synctest.Wait()
		rest, _ := o.end(reason)
		require.Len(t, rest, maxWaiting)
		require.ErrorIs(t, <-added, reason, "ending wakes those who wait")
	})
}

func TestFlowWaitsForPeersThatTakeBytesAndNotForTheFrozen(t *testing.T) {
	var f flow
	f.init()
	base := time.Now()
	blocked := func(limit int, d time.Duration) bool {
		is, _, _ := f.blocked(limit, base.Add(d))
		return is
	}
	require.False(t, blocked(0, 0))
	f.queued("a", 100)
	f.queued("b", 10)
	require.True(t, blocked(99, 0))
	require.False(t, blocked(100, 0))
	require.False(t, blocked(99, flowStall+time.Second), "it has taken nothing for too long")
	_, moved, wait := f.blocked(50, base)
	require.LessOrEqual(t, wait, flowStall+time.Second)
	f.done("a", 60)
	<-moved
	require.False(t, blocked(50, 0))
	f.done("a", 40)
	f.done("a", 5) // of a stream that ended before
	require.Len(t, f.peers, 1)
	f.forget("b")
	require.Empty(t, f.peers)
	f.done(peer.ID("gone"), 7)
	require.Empty(t, f.peers)
}

func TestEveryPublishHasOneResultWhateverEndsIt(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		var mu sync.Mutex
		results := make(map[uint64]error)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					p, err := rooms[0].PublishAsync(t.Context(), make([]byte, 10_000), WithWaiting())
					if err != nil {
						require.ErrorIs(t, err, ErrLeft)
						return
					}
					wg.Go(func() {
						_, err := p.Result()
						mu.Lock()
						defer mu.Unlock()
						_, again := results[p.ID()]
						require.False(t, again)
						results[p.ID()] = err
					})
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, rooms[0].Leave(t.Context()))
		wg.Wait()
		require.NotEmpty(t, results)
		for id := range uint64(len(results)) {
			err, ok := results[id+1]
			require.True(t, ok, "ID %d", id+1)
			if err != nil {
				require.ErrorIs(t, err, ErrUnreachable)
			}
		}
	})
}

// A loop that goes round although its room has ended shows in virtual time: the bubble stands
// still.
func TestARoomThatEndsEndsTheWaitsOfItsPublisher(t *testing.T) {
	for name, hold := range map[string]func(*Room){
		"for a newcomer": func(r *Room) {
			r.stay.TakeEntry(time.Now(), "", madeUp("p"))
			require.Positive(t, r.stay.AwaitNewcomers(time.Now()))
		},
		"for acknowledgements": func(r *Room) {
			r.stay.Subscribed(time.Now(), "p")
			h, tag := r.stay.Inspect().Head, r.stay.Own().Tag()
			for i := range 7 {
				h.Last++
				r.stay.Published(time.Now(), h, 1, make([]byte, 1), time.Now().Add(time.Minute), nil)
				if i == 0 { // "p" confirms the first
					require.NoError(t, r.stay.HearHeads(time.Now(), "p", &wire.RoomFrame_Heads{Feeds: []*wire.Position{{Feed: tag[:], Last: h.Last}}}))
				}
			}
			require.Positive(t, r.stay.AwaitWindow(time.Now()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1, func(t *testing.T, f *flock) {
				r := f.join(0, "ops")
				synctest.Wait() // its entry is published
				r.mu.Lock()
				hold(r)
				r.mu.Unlock()
				p, err := r.PublishAsync(t.Context(), []byte("held"), WithWaiting())
				require.NoError(t, err)
				synctest.Wait()
				r.end(ErrReplaced)
				_, err = p.Wait(t.Context())
				require.ErrorIs(t, err, ErrReplaced)
			})
		})
	}
}

// The publisher has taken a batch out and is signing it when the stay ends.
func TestABatchThatIsSealedAfterTheEndOfTheStayEnds(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		r := f.joinAll("ops")[0]
		settle()
		f.at[0].EvictAll(ErrReplaced)
		synctest.Wait()
		b := newOutbox(up).newBatch()
		b.content, b.count = wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte("late")), 1
		r.seal(b)
		synctest.Wait()
		select {
		case <-b.done:
		default:
			t.Fatal("nothing ends it")
		}
		require.ErrorIs(t, b.err, ErrUnconfirmed)
		require.ErrorIs(t, b.err, ErrReplaced)
	})
}

func TestAPausedMemberDoesNotHoldUpTheOthers(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		time.Sleep(2 * time.Second)
		f.net.Pause(2)
		start := time.Now()
		const messages = 200
		go func() {
			for range messages {
				_, _ = rooms[0].PublishAsync(t.Context(), make([]byte, MaxMessage), WithWaiting())
			}
		}()
		for n := 0; n < messages; {
			switch ev := next(t, rooms[1]).(type) {
			case *Message:
				n++
			case *Lagged, *GapLost:
				t.Fatal(line(ev))
			}
		}
		require.Less(t, time.Since(start), 5*time.Second)
	})
}

func TestBatchesAdaptToTheLoad(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		before := f.at[0].Stats().EnvelopesPublished
		for i := range 3 { // at rest: each at once, by itself
			start := time.Now()
			_, err := rooms[0].PublishText(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
			for line := ""; line != fmt.Sprintf("u0:%d", i); {
				line = read(t, rooms[1], 1)[0]
			}
			require.LessOrEqual(t, time.Since(start), 20*time.Millisecond, "one way is 5 ms, and back again")
		}
		require.EqualValues(t, 3, f.at[0].Stats().EnvelopesPublished-before)
		var last Pending[Published]
		for range 2000 {
			var err error
			last, err = rooms[0].PublishAsync(t.Context(), make([]byte, 200), WithWaiting())
			require.NoError(t, err)
		}
		_, err := last.Result()
		require.NoError(t, err)
		require.Less(t, f.at[0].Stats().EnvelopesPublished-before, uint64(200), "2000 messages travel packed")
	})
}

// up is the link of a node that is not known to be down.
func up() bool { return false }
