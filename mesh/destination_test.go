package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
)

// fakeFinder finds everybody where a test says.
type fakeFinder struct {
	mu    sync.Mutex
	find  func() (identity.Login, error)
	takes time.Duration // 0: known at once
	asked int           // searches
	given int           // searches whose context ended
}

// counts returns how many searches there have been, and how many of them were given up.
func (f *fakeFinder) counts() (asked, given int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked, f.given
}

// searched returns how many searches there have been.
func (f *fakeFinder) searched() int {
	asked, _ := f.counts()
	return asked
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
		require.Equal(t, 1, finder.searched())
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
		require.Equal(t, 2, finder.searched())
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
		asked, given := finder.counts()
		require.Equal(t, asked, given, "searches that nobody waits for")

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

func TestAWaitForSpaceEndsWithTheSendTimeout(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.searches(time.Hour)
		long, done := context.WithTimeout(t.Context(), time.Minute)
		defer done()
		for i := range laneMessages {
			p.sendTo(t, long, "bob", i)
		}
		begun := time.Now()
		r, err := p.alice.SendTo(context.Background(), "bob", []byte("x"))
		ended(t, "the wait", err, ErrUnreachable, ErrQueueFull)
		took(t, "the wait", begun, 12*time.Second)
		require.Zero(t, r.ID)
	})
}

func TestOnlySoManyUsersAreSearchedForAtOnce(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		finder := p.searches(2 * time.Second)
		finder.find = func() (identity.Login, error) { return identity.Login{}, errors.New("nobody") }
		var sends []Pending[Receipt]
		for i := range 3 * maxSearches {
			sends = append(sends, p.sendTo(t, t.Context(), fmt.Sprint("user", i), i))
		}
		synctest.Wait()
		require.Equal(t, maxSearches, finder.searched())
		begun := time.Now()
		for _, s := range sends {
			_, err := s.Result()
			require.ErrorContains(t, err, "nobody")
		}
		took(t, "all", begun, 6*time.Second)
	})
}
