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

// fakeFinder finds everybody where a test says.
type fakeFinder struct {
	mu    sync.Mutex
	find  func() (identity.Login, error)
	takes time.Duration // 0: known at once
	asked int           // searches
	given int           // searches whose context ended
}

func (f *fakeFinder) Known(identity.Address) (identity.Login, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.takes > 0 {
		return identity.Login{}, false, nil
	}
	login, err := f.find()
	return login, err == nil, err
}

func (f *fakeFinder) Locate(ctx context.Context, _ identity.Address) (identity.Login, error) {
	f.mu.Lock()
	f.asked++
	takes := f.takes
	f.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		f.given++
		return identity.Login{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find()
}

// searches makes alice find bob by a search that takes so long.
func (p *pair) searches(takes time.Duration) *fakeFinder {
	f := &fakeFinder{takes: takes, find: func() (identity.Login, error) { return p.bob.login(), nil }}
	p.alice.finder = f
	return f
}

// sendTo sends a message to an address, and does not wait.
func (p *pair) sendTo(t *testing.T, ctx context.Context, to string, i int) Pending[Receipt] {
	t.Helper()
	s, err := p.alice.SendToAsync(ctx, to, fmt.Append(nil, i))
	require.NoError(t, err)
	return s
}

func TestASendReturnsAtOnceWhileItsReceiverIsSearchedFor(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Connect(0, 1)
		finder := p.searches(2 * time.Second)
		begun := time.Now()
		var sends []Pending[Receipt]
		for i := range 300 {
			s := p.sendTo(t, t.Context(), "bob", i)
			require.EqualValues(t, i+1, s.ID())
			sends = append(sends, s)
		}
		require.Zero(t, time.Since(begun))
		for i, s := range sends {
			r, err := s.Result()
			require.NoError(t, err)
			require.EqualValues(t, i+1, r.ID)
			require.Equal(t, p.bob.login(), r.To)
		}
		require.Less(t, time.Since(begun), 2100*time.Millisecond)
		p.wantOnceInOrder(t, 300)
		require.Equal(t, 1, finder.asked)
	})
}

func TestAReceiverWhoIsNotFoundIsTheResultOfAllThatWait(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		finder := p.searches(5 * time.Second)
		nobody := errors.New("nobody knows")
		finder.find = func() (identity.Login, error) { return identity.Login{}, nobody }
		begun := time.Now()
		var sends []Pending[Receipt]
		for i := range 10 {
			sends = append(sends, p.sendTo(t, t.Context(), "bob", i))
			time.Sleep(100 * time.Millisecond)
		}
		for _, s := range sends {
			r, err := s.Result()
			require.ErrorIs(t, err, nobody)
			require.EqualError(t, err, "send to bob: nobody knows")
			require.Equal(t, s.ID(), r.ID)
		}
		took(t, "the search", begun, 5*time.Second)
		finder.find = func() (identity.Login, error) { return p.bob.login(), nil }
		_, err := p.alice.SendTo(t.Context(), "bob", []byte("0"))
		require.NoError(t, err)
		require.Equal(t, 2, finder.asked)
		s := p.alice.Stats()
		require.EqualValues(t, 11, s.DirectSent)
		require.EqualValues(t, 10, s.DirectFailed)
	})
}

func TestWhateverEndsASendItEndsDuringTheSearchToo(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		finder := p.searches(time.Hour)
		begun := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		soon, done := context.WithTimeout(t.Context(), 2*time.Second)
		defer done()
		cancelled, due := p.sendTo(t, ctx, "bob", 0), p.sendTo(t, soon, "bob", 1)
		patient := p.sendTo(t, t.Context(), "bob", 2)
		late, err := p.alice.SendToAsync(t.Context(), "bob", []byte("3"), WithMode(UnreliableOrdered))
		require.NoError(t, err)
		_, err = late.Result()
		require.ErrorIs(t, err, ErrUnreachable)
		took(t, "the late one", begun, LateAfter)
		cancel()
		_, err = cancelled.Result()
		ended(t, "cancelled", err, ErrUnreachable, context.Canceled)
		took(t, "the cancelled one", begun, LateAfter)
		_, err = due.Result()
		ended(t, "with a deadline", err, ErrUnreachable, context.DeadlineExceeded)
		took(t, "the one with a deadline", begun, 2*time.Second)
		_, err = patient.Result()
		ended(t, "without one", err, ErrUnreachable, nil)
		took(t, "the patient one", begun, 12*time.Second)
		synctest.Wait()
		require.Equal(t, finder.asked, finder.given, "searches that nobody waits for")

		closing := p.sendTo(t, t.Context(), "bob", 4)
		require.NoError(t, p.alice.Close())
		_, err = closing.Result()
		ended(t, "at Close", err, ErrUnreachable, ErrClosed)
		s := p.alice.Stats()
		require.Equal(t, s.DirectSent, s.DirectFailed)
	})
}

func TestALogOutDuringTheSearchIsTheResult(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.searches(time.Second)
		first := p.sendTo(t, t.Context(), "bob", 0)
		time.Sleep(10 * time.Millisecond)
		p.alice.who.be(t, "alice", false)
		_, err := first.Result()
		require.ErrorIs(t, err, ErrNotLoggedIn)
		_, err = p.alice.SendToAsync(t.Context(), "bob", []byte("x"))
		require.ErrorIs(t, err, ErrNotLoggedIn)
	})
}

func TestADestinationTakesNoMoreThanItsBound(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Connect(0, 1)
		p.searches(time.Second)
		var sends []Pending[Receipt]
		for i := range laneMessages {
			sends = append(sends, p.sendTo(t, t.Context(), "bob", i))
		}
		_, err := p.alice.SendToAsync(t.Context(), "bob", []byte("x"))
		require.ErrorIs(t, err, ErrQueueFull)
		other, err := p.alice.SendToAsync(t.Context(), "bob", []byte("x"), WithMode(UnreliableOrdered))
		require.NoError(t, err, "another mode is another destination")
		soon, done := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer done()
		_, err = p.alice.SendToAsync(soon, "bob", []byte("x"), WithWaiting())
		require.ErrorIs(t, err, ErrQueueFull)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		last, err := p.alice.SendToAsync(t.Context(), "bob", fmt.Append(nil, laneMessages), WithWaiting())
		require.NoError(t, err)
		require.EqualValues(t, laneMessages+2, last.ID(), "what was refused took no ID")
		for _, s := range append(sends, last) {
			_, err := s.Result()
			require.NoError(t, err)
		}
		_, err = other.Result()
		require.ErrorIs(t, err, ErrUnreachable, "it has waited too long")
		p.wantOnceInOrder(t, laneMessages+1)
	})
}

func TestManyMessagesToAMemberThatDoesNotKnowThisOneYetKeepTheirOrder(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Chain() // u0 and u2 are not connected
		rooms := f.joinAll("ops")
		read(t, rooms[2], 2)
		var sends []Pending[Receipt]
		var want []string
		for i := range 200 {
			s, err := rooms[0].SendAsync(t.Context(), "u2", fmt.Append(nil, i))
			require.NoError(t, err)
			sends, want = append(sends, s), append(want, fmt.Sprint("u0>", i))
		}
		for _, s := range sends {
			_, err := s.Result()
			require.NoError(t, err)
		}
		require.Equal(t, want, read(t, rooms[2], 200))
	})
}

// twoDevices are two devices of bob that answer as a test decides: they take or refuse each message.
func twoDevices(t *testing.T, all *hellos, hosts []host.Host, takes func(device int) bool) (logins []identity.Login, taken func() []string) {
	var mu sync.Mutex
	var texts []string
	for i, h := range hosts {
		who := all.identityOf(t, h).be(t, "bob", true)
		logins = append(logins, who.login())
		h.SetStreamHandler(DirectProtocol, func(s network.Stream) {
			defer s.Reset()
			r := newRaw(t, s)
			for {
				m, ok := r.next()
				if !ok {
					return
				}
				if m.Type != wire.DirectFrame_MESSAGE {
					continue
				}
				if !takes(i) {
					r.Write((&wire.Direct{Type: wire.DirectFrame_REFUSE, Sequence: m.Sequence, Reason: wire.DirectFrame_NOT_LOGGED_IN}).AppendFrame(nil))
					continue
				}
				mu.Lock()
				texts = append(texts, string(m.Payload))
				mu.Unlock()
				r.ack(m.Sequence)
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
func moving(t *testing.T, seed uint64, takes func(device int) bool) (alice *station, bobs []identity.Login, taken func() []string) {
	net, all := meshtest.New(t, meshtest.Options{Hosts: 3, Latency: 5 * time.Millisecond, Seed: seed}), newHellos()
	net.ConnectAll()
	alice = all.station(t, net.Host(0), "alice")
	bobs, taken = twoDevices(t, all, []host.Host{net.Host(1), net.Host(2)}, takes)
	return alice, bobs, taken
}

func TestMessagesFollowAUserWhoMovesToAnotherDeviceInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		at := 0
		where := func() int {
			mu.Lock()
			defer mu.Unlock()
			return at
		}
		alice, bobs, taken := moving(t, 1, func(device int) bool { return device == where() })
		alice.finder = &fakeFinder{find: func() (identity.Login, error) { return bobs[where()], nil }}
		var sends []Pending[Receipt]
		var want []string
		for i := range 500 {
			if i == 250 {
				mu.Lock()
				at = 1
				mu.Unlock()
			}
			s, err := alice.SendToAsync(t.Context(), "bob", fmt.Append(nil, i))
			require.NoError(t, err)
			sends, want = append(sends, s), append(want, fmt.Sprint(i))
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		for i, s := range sends {
			_, err := s.Result()
			require.NoError(t, err, i)
		}
		require.Equal(t, want, taken())
	})
}

func TestARefusalBySomebodyWhoHasNotMovedIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bobs, _ := moving(t, 1, func(int) bool { return false })
		alice.finder = &fakeFinder{find: func() (identity.Login, error) { return bobs[0], nil }}
		begun := time.Now()
		r, err := alice.SendTo(t.Context(), "bob", []byte("x"))
		require.ErrorIs(t, err, ErrRefused)
		require.EqualValues(t, 1, r.ID)
		require.Less(t, time.Since(begun), time.Second)
		s := alice.Stats()
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
			alice, bobs, taken := moving(t, seed+1, func(int) bool { return dice(8) > 0 })
			alice.finder = &fakeFinder{find: func() (identity.Login, error) { return bobs[dice(2)], nil }}
			var sends []Pending[Receipt]
			for i := range 300 {
				ctx := t.Context()
				if dice(10) == 0 {
					var done context.CancelFunc
					ctx, done = context.WithTimeout(ctx, time.Duration(dice(50))*time.Millisecond)
					defer done()
				}
				s, err := alice.SendToAsync(ctx, "bob", fmt.Append(nil, i))
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
			sure := slices.DeleteFunc(taken(), func(text string) bool { return slices.Contains(may, text) })
			require.Equal(t, want, sure, "seed %d", seed)
			require.Greater(t, len(want), 100, "seed %d", seed)
			s := alice.Stats()
			require.Equal(t, s.DirectSent, s.DirectDelivered+s.DirectRefused+s.DirectFailed, "seed %d", seed)
			synctest.Wait()
			for _, d := range alice.to.all {
				require.True(t, d.load.idle())
				require.Zero(t, d.load.flying)
				require.Zero(t, d.load.bytes)
			}
		})
	}
}
