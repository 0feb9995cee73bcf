package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/wire"
)

// answer is what a device of a test does with a message.
type answer uint8

const (
	takes answer = iota
	moved        // refuses it: not logged in
	full         // refuses it for good: its queue is full
	mute         // says nothing
)

// takesIf is takes, or else moved.
func takesIf(ok bool) answer {
	if ok {
		return takes
	}
	return moved
}

// twoDevices are two devices of bob that answer each message as a test decides. They acknowledge
// what comes together with one frame, as the mesh does, after what they refuse.
func twoDevices(t *testing.T, all *hellos, hosts []host.Host, answers func(device int, text string) answer) (logins []identity.Login, taken func() []string) {
	var mu sync.Mutex
	var texts []string
	for i, h := range hosts {
		who := all.identityOf(t, h).be(t, "bob", true)
		logins = append(logins, who.login())
		h.SetStreamHandler(DirectProtocol, func(s network.Stream) {
			defer s.Reset()
			r := newRaw(t, s)
			refuse := func(sequence uint64, why wire.DirectFrame_Reason) {
				_, _ = r.Write((&wire.Direct{Type: wire.DirectFrame_REFUSE, Sequence: sequence, Reason: why}).AppendFrame(nil))
			}
			for owed := uint64(0); ; {
				if owed > 0 && !r.r.Ready() {
					r.ack(owed)
					owed = 0
				}
				m, ok := r.next()
				if !ok {
					return
				}
				if m.Type != wire.DirectFrame_MESSAGE {
					continue
				}
				switch answers(i, string(m.Payload)) {
				case takes:
					mu.Lock()
					texts = append(texts, string(m.Payload))
					mu.Unlock()
					owed = m.Sequence
				case moved:
					refuse(m.Sequence, wire.DirectFrame_NOT_LOGGED_IN)
				case full:
					refuse(m.Sequence, wire.DirectFrame_QUEUE_FULL)
					owed = m.Sequence
				}
			}
		})
	}
	return logins, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return texts
	}
}

// moving is alice on host 0, and bob on the devices 1 and 2 of a simulated network.
func moving(t *testing.T, seed uint64, answers func(device int, text string) answer) *mover {
	net, all := meshtest.New(t, meshtest.Options{Hosts: 3, Latency: 5 * time.Millisecond, Seed: seed}), newHellos()
	net.ConnectAll()
	b := &mover{net: net, alice: all.station(t, net.Host(0), "alice")}
	b.bobs, b.taken = twoDevices(t, all, []host.Host{net.Host(1), net.Host(2)}, answers)
	b.alice.finder = &fakeFinder{find: func() (identity.Login, error) { return b.bobs[b.where()], nil }}
	return b
}

// mover is bob, where alice finds him, and what has reached him.
type mover struct {
	net   *meshtest.Net
	alice *station
	bobs  []identity.Login
	taken func() []string

	mu sync.Mutex
	at int
}

func (b *mover) where() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *mover) move(to int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = to
}

func (b *mover) send(t *testing.T, ctx context.Context, i int) Pending[Receipt] {
	t.Helper()
	s, err := b.alice.SendToAsync(ctx, "bob", fmt.Append(nil, i))
	require.NoError(t, err)
	return s
}

// idle requires that nothing is under way any more.
func (b *mover) idle(t *testing.T) {
	t.Helper()
	synctest.Wait()
	s := b.alice.Stats()
	require.Equal(t, s.DirectSent, s.DirectDelivered+s.DirectRefused+s.DirectFailed)
	for _, d := range b.alice.to.all {
		require.True(t, d.load.idle())
		require.Zero(t, d.load.flying)
		require.Zero(t, d.load.bytes)
	}
}

func TestMessagesFollowAUserWhoMovesToAnotherDeviceInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *mover
		b = moving(t, 1, func(device int, _ string) answer { return takesIf(device == b.where()) })
		var sends []Pending[Receipt]
		var want []string
		for i := range 500 {
			if i == 250 {
				b.move(1)
			}
			sends, want = append(sends, b.send(t, t.Context(), i)), append(want, fmt.Sprint(i))
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		for i, s := range sends {
			_, err := s.Result()
			require.NoError(t, err, i)
		}
		require.Equal(t, want, b.taken())
		b.idle(t)
	})
}

// A message that came back is written again, and is not answered yet. A refusal of a later one and
// the acknowledgement of both come in the order in which the mesh writes them.
func TestAMessageThatCameBackIsAnsweredAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *mover
		b = moving(t, 1, func(device int, text string) answer {
			switch {
			case device == 0:
				b.move(1)
				return moved
			case text == "2":
				return full
			}
			return takes
		})
		sends := []Pending[Receipt]{b.send(t, t.Context(), 0), b.send(t, t.Context(), 1)}
		time.Sleep(12 * time.Millisecond) // both are on their way back
		sends = append(sends, b.send(t, t.Context(), 2))
		time.Sleep(time.Minute)
		for i, s := range sends {
			select {
			case <-s.Done():
			default:
				require.Fail(t, "no result", i)
			}
			_, err := s.Result()
			require.Equal(t, i == 2, errors.Is(err, ErrRefused), "%d: %v", i, err)
		}
		b.idle(t)
	})
}

// The device that bob has left is gone, and will not answer.
func TestAMessageToTheFormerDeviceHoldsUpOthersForAMomentOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := moving(t, 1, func(device int, _ string) answer {
			if device == 0 {
				return mute
			}
			return takes
		})
		long, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		former := b.send(t, long, 0)
		time.Sleep(time.Second)
		b.move(1)
		b.net.Kill(1)
		begun := time.Now()
		for i := range 3 {
			_, err := b.send(t, t.Context(), i+1).Result()
			require.NoError(t, err)
		}
		require.InDelta(t, moveWait, time.Since(begun), float64(100*time.Millisecond))
		require.Equal(t, []string{"1", "2", "3"}, b.taken())
		_, err := former.Result()
		ended(t, "the former one", err, ErrUnconfirmed, nil)
		b.idle(t)
	})
}

// All attempts are used up, and the former device leaves a message without an answer: in virtual
// time, a loop that goes round would never end.
func TestAMoveWhenNoAttemptIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *mover
		b = moving(t, 1, func(device int, text string) answer {
			switch {
			case text == "0":
				b.move(1 - device)
				return moved
			case device == 0 || text == "2":
				return takes
			}
			return mute
		})
		_, err := b.send(t, t.Context(), 0).Result()
		require.ErrorIs(t, err, ErrRefused)
		b.move(1)
		one := b.send(t, t.Context(), 1) // device 1 does not answer it
		time.Sleep(time.Second)
		b.move(0)
		_, err = b.send(t, t.Context(), 2).Result()
		require.NoError(t, err)
		_, err = one.Result()
		ended(t, "the one without an answer", err, ErrUnconfirmed, nil)
		b.idle(t)
	})
}

func TestARefusalBySomebodyWhoHasNotMovedIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := moving(t, 1, func(int, string) answer { return moved })
		begun := time.Now()
		r, err := b.alice.SendTo(t.Context(), "bob", []byte("x"))
		require.ErrorIs(t, err, ErrRefused)
		require.EqualValues(t, 1, r.ID)
		require.Less(t, time.Since(begun), time.Second)
		s := b.alice.Stats()
		require.EqualValues(t, 1, s.DirectSent)
		require.EqualValues(t, 1, s.DirectRefused)
	})
}

// Whatever two devices of a user take and refuse, in turns at random: what is taken is in order and
// has no other result, what is refused has that result, and each message has exactly one.
func TestOrderAndResultsHoldWhateverIsRefused(t *testing.T) {
	for seed := range uint64(runs(t, 20)) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 5))
			var mu sync.Mutex
			dice := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return rnd.IntN(n)
			}
			fulls := dice(20)
			b := moving(t, seed+1, func(int, string) answer {
				if fulls > 0 && dice(fulls+1) == 0 {
					return full
				}
				return takesIf(dice(8) > 0)
			})
			b.alice.finder = &fakeFinder{find: func() (identity.Login, error) { return b.bobs[dice(2)], nil }}
			var sends []Pending[Receipt]
			for i := range 300 {
				ctx := t.Context()
				if dice(10) == 0 {
					var done context.CancelFunc
					ctx, done = context.WithTimeout(ctx, time.Duration(dice(50))*time.Millisecond)
					defer done()
				}
				s, err := b.alice.SendToAsync(ctx, "bob", fmt.Append(nil, i))
				if err != nil {
					require.Error(t, ctx.Err())
					s = Pending[Receipt]{}
				}
				sends = append(sends, s)
				if dice(4) == 0 {
					time.Sleep(time.Duration(dice(5000)) * time.Microsecond)
				}
			}
			var want, may []string
			for i, s := range sends {
				if s == (Pending[Receipt]{}) {
					continue
				}
				_, err := s.Result()
				switch {
				case err == nil:
					want = append(want, fmt.Sprint(i))
				case errors.Is(err, ErrUnconfirmed):
					may = append(may, fmt.Sprint(i))
				}
			}
			time.Sleep(time.Second)
			sure := slices.DeleteFunc(b.taken(), func(text string) bool { return slices.Contains(may, text) })
			require.Equal(t, want, sure, "seed %d", seed)
			require.NotEmpty(t, want, "seed %d", seed)
			b.idle(t)
		})
	}
}

// Both devices that bob has left leave a message without an answer.
func TestAUserWhoMovesAgainAndAgainIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := moving(t, 1, func(device int, text string) answer {
			if device == 1 || text == "0" {
				return mute
			}
			return takes
		})
		long, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		b.send(t, long, 0) // a later acknowledgement of device 0 includes it
		time.Sleep(time.Second)
		b.move(1)
		former := b.send(t, long, 1) // it goes to device 1 after moveWait
		time.Sleep(5 * time.Second)
		b.move(0)
		begun := time.Now()
		_, err := b.send(t, t.Context(), 2).Result()
		require.NoError(t, err)
		require.Less(t, time.Since(begun), moveWait+100*time.Millisecond)
		begun = time.Now()
		_, err = b.send(t, t.Context(), 3).Result()
		require.NoError(t, err)
		require.Less(t, time.Since(begun), 100*time.Millisecond)
		require.Equal(t, []string{"2", "3"}, b.taken())
		_, err = former.Result()
		ended(t, "the former one", err, ErrUnconfirmed, nil)
		b.idle(t)
	})
}

// Device 0 leaves a message without an answer and ends its mesh: what is queued behind comes back.
func TestWhatComesBackFollowsAlthoughAnEarlierMessageHasNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := moving(t, 1, func(device int, _ string) answer {
			if device == 0 {
				return mute
			}
			return takes
		})
		long, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		former := b.send(t, long, 0)
		time.Sleep(100 * time.Millisecond)
		b.net.Host(1).RemoveStreamHandler(DirectProtocol)
		for _, c := range b.net.Host(1).Network().Conns() {
			require.NoError(t, c.Close())
		}
		time.Sleep(10 * time.Millisecond)
		next := b.send(t, t.Context(), 1)
		b.move(1)
		_, err := next.Result()
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, b.taken())
		_, err = former.Result()
		ended(t, "the former one", err, ErrUnconfirmed, nil)
		b.idle(t)
	})
}

// The lane to the former device is full, and nothing on it is answered.
func TestAFullLaneToTheFormerDeviceHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := moving(t, 1, func(device int, _ string) answer {
			if device == 0 {
				return mute
			}
			return takes
		})
		long, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for range laneMessages {
			_, err := b.alice.SendAsync(long, b.bobs[0], []byte("x"))
			require.NoError(t, err)
		}
		first := b.send(t, long, 0)
		time.Sleep(time.Second)
		b.move(1)
		begun := time.Now()
		for _, s := range []Pending[Receipt]{first, b.send(t, t.Context(), 1)} {
			_, err := s.Result()
			require.NoError(t, err)
		}
		require.Less(t, time.Since(begun), 2*moveWait)
		require.Equal(t, []string{"0", "1"}, b.taken())
	})
}
