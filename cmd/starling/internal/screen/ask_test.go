package screen

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/presence"
)

// asked is a fake of a node that is asked about users.
type asked struct {
	mu    sync.Mutex
	begun time.Time
	when  map[string][]time.Duration
	under int
	most  int
	takes time.Duration
	state map[string]presence.State
}

func (a *asked) status(ctx context.Context, user string) (presence.Status, error) {
	a.mu.Lock()
	a.when[user] = append(a.when[user], time.Since(a.begun))
	a.under++
	a.most = max(a.most, a.under)
	state, known := a.state[user]
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.under--
		a.mu.Unlock()
	}()
	select {
	case <-time.After(a.takes):
	case <-ctx.Done():
		return presence.Status{}, ctx.Err()
	}
	if !known {
		return presence.Status{}, errors.New("no answer at all")
	}
	return presence.Status{User: user, State: state}, nil
}

// times returns when a user was asked about.
func (a *asked) times(user string) []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.when[user])
}

// users returns how many users were asked about.
func (a *asked) users() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.when)
}

// asking runs an asker in a bubble.
func asking(t *testing.T, a *asked) (run *asker, told func() []standing) {
	a.begun, a.when = time.Now(), make(map[string][]time.Duration)
	var mu sync.Mutex
	var all []standing
	run = newAsker(a.status, func(s standing) {
		mu.Lock()
		defer mu.Unlock()
		s.at = time.Time{}
		all = append(all, s)
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run.run(ctx, func(f func()) { f() })
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return run, func() []standing {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// elapse lets time pass, and whatever is due then happen.
func elapse(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func seconds(n ...float64) (out []time.Duration) {
	for _, s := range n {
		out = append(out, time.Duration(s*float64(time.Second)))
	}
	return out
}

func TestWhoIsOnlineIsAskedAfterOftenAndOthersLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asked{state: map[string]presence.State{"bob": presence.Online, "carol": presence.Offline, "dave": presence.Unreachable}}
		run, told := asking(t, a)
		run.look([]string{"bob", "carol", "dave", "erin"})
		elapse(time.Millisecond)
		require.ElementsMatch(t, []standing{
			{user: "bob", Status: presence.Status{User: "bob", State: presence.Online}},
			{user: "carol", Status: presence.Status{User: "carol", State: presence.Offline}},
			{user: "dave", Status: presence.Status{User: "dave", State: presence.Unreachable}},
		}, told(), "who cannot be asked after is not told of")
		elapse(21 * time.Second)
		require.Equal(t, seconds(0, 5, 10, 15, 20), a.times("bob"))
		for _, user := range []string{"carol", "dave", "erin"} {
			require.Equal(t, seconds(0, 5, 15), a.times(user), user)
		}
		elapse(10 * time.Minute)
		last := a.times("carol")
		require.Equal(t, askSeldom, last[len(last)-1]-last[len(last)-2])
	})
}

func TestNewsOfAUserIsLookedIntoAtOnceButNotWithoutBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asked{state: map[string]presence.State{"bob": presence.Online}, takes: 100 * time.Millisecond}
		run, _ := asking(t, a)
		run.look([]string{"bob"})
		elapse(2 * time.Second)
		run.stir("bob")
		elapse(50 * time.Millisecond)
		for range 10 {
			run.stir("bob") // while a question about him is under way
		}
		run.stir("nobody")
		elapse(2 * time.Second)
		require.Equal(t, seconds(0, 2, 2.5), a.times("bob"))
	})
}

func TestFewAreAskedAfterAtOnceAndNobodyWhoHasGoneFromTheScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asked{takes: 5 * time.Second}
		run, _ := asking(t, a)
		var users []string
		for i := range 2 * maxAsked {
			users = append(users, fmt.Sprint("user", i))
		}
		run.look(users)
		elapse(time.Millisecond)
		require.Equal(t, maxAsking, a.users())
		run.look([]string{"bob"})
		elapse(time.Hour)
		a.mu.Lock()
		require.Equal(t, maxAsking, a.most)
		a.mu.Unlock()
		require.Equal(t, maxAsking+1, a.users())
		run.mu.Lock()
		defer run.mu.Unlock()
		require.Len(t, run.core.users, 1)
		require.LessOrEqual(t, run.core.asking, 1)
	})
}
