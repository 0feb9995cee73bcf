package mesh

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
)

// withoutGossip ends GossipSub's streams between the stations, and lets them open no further one.
func (f *flock) withoutGossip() {
	for _, s := range f.at {
		for _, id := range pubsub.GossipSubDefaultProtocols {
			s.host.RemoveStreamHandler(id)
		}
	}
	for _, s := range f.at {
		for _, c := range s.host.Network().Conns() {
			for _, stream := range c.GetStreams() {
				if slices.Contains(pubsub.GossipSubDefaultProtocols, stream.Protocol()) {
					_ = stream.Reset()
				}
			}
		}
	}
}

// GossipSub does not carry every goodbye, for instance if a member leaves a moment after it was
// met. Its neighbours are told how far its feed has got, and ask for the rest.
func TestAGoodbyeArrivesThatGossipDoesNotCarry(t *testing.T) {
	for name, leave := range map[string]func(*Room) error{
		"Leave": func(r *Room) error { return r.Leave(context.Background()) },
		"Close": func(r *Room) error { return r.mesh.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				rooms := f.joinAll("ops")
				require.Equal(t, []string{"+u1"}, read(t, rooms[0], 1))
				f.withoutGossip()
				start := time.Now()
				require.NoError(t, leave(rooms[1]))
				require.Equal(t, []string{"-u1 quit"}, read(t, rooms[0], 1))
				require.Less(t, time.Since(start), goodbyeWait, "and it was known that it has arrived")
			})
		})
	}
}

// Another goroutine may end the stay at the same time, or wait for its end. Once Leave has
// returned, or Join no longer returns ErrJoined, nothing of the stay is in the way of the next one,
// which knows what it handed up.
func TestARoomCanBeJoinedAgainWhateverHasEndedTheStay(t *testing.T) {
	for name, again := range map[string]func(t *testing.T, s *station, r *Room) (*Room, error){
		"left twice at once": func(t *testing.T, s *station, r *Room) (*Room, error) {
			go func() { _ = r.Leave(context.Background()) }()
			require.NoError(t, r.Leave(t.Context()))
			return s.Join(t.Context(), "ops")
		},
		"evicted": func(t *testing.T, s *station, _ *Room) (*Room, error) {
			go s.EvictAll(ErrReplaced)
			for {
				r, err := s.Join(t.Context(), "ops")
				if !errors.Is(err, ErrJoined) {
					return r, err
				}
				runtime.Gosched()
			}
		},
		"its reader is told": func(t *testing.T, s *station, r *Room) (*Room, error) {
			go s.EvictAll(ErrReplaced)
			for {
				if _, err := passing(t.Context(), r); err != nil {
					require.ErrorIs(t, err, ErrReplaced)
					return s.Join(t.Context(), "ops")
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				rooms := []*Room{f.join(0, "ops"), f.join(1, "ops")}
				for i := range meshtest.Sized(100, 1000) {
					published(t, rooms[1], "u1", fmt.Sprint("round ", i), 1)
					time.Sleep(time.Second)
					tag := rooms[1].stay.Own().Tag()
					next, err := again(t, f.at[0], rooms[0])
					require.NoError(t, err, "round %d", i)
					require.NotSame(t, rooms[0], next)
					require.NotZero(t, next.stay.Config.Handed[tag], "round %d", i)
					rooms[0] = next
				}
			})
		})
	}
}

// An eviction may find a room between two steps of Join. Then nothing of the topic is left behind.
func TestARoomThatIsEvictedWhileItIsJoinedCanBeJoinedAgain(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		for i := range meshtest.Sized(20, 200) {
			var evictor sync.WaitGroup
			over := make(chan struct{})
			evictor.Go(func() {
				for {
					select {
					case <-over:
						return
					default:
						f.at[0].EvictAll(ErrReplaced)
						runtime.Gosched()
					}
				}
			})
			var wrong error
			for range 5 {
				if _, err := f.at[0].Join(t.Context(), "ops"); err != nil && !errors.Is(err, ErrJoined) && !errors.Is(err, ErrReplaced) {
					wrong = err
				}
			}
			close(over)
			evictor.Wait()
			require.NoError(t, wrong, "round %d", i)
			f.at[0].EvictAll(ErrReplaced)
			require.NoError(t, f.join(0, "ops").Leave(t.Context()), "round %d", i)
		}
	})
}
