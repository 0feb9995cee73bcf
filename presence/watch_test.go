package presence_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// watched collects what a watch yields.
type watched struct {
	mu  sync.Mutex
	all []presence.Status
}

func (w *watched) states() (out []presence.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.all {
		out = append(out, s.State)
	}
	return out
}

func (n *node) watch(ctx context.Context, user string) *watched {
	w := new(watched)
	go func() {
		for s, err := range n.Watch(ctx, identity.Address{User: user}) {
			if err != nil {
				return
			}
			w.mu.Lock()
			w.all = append(w.all, s)
			w.mu.Unlock()
		}
	}()
	return w
}

func TestAWatchEndsSilentlyWithTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		r.meet(0, 1)
		a.login("alice")
		b.login("bob")
		time.Sleep(time.Second)
		var watches sync.WaitGroup
		for _, user := range []string{"bob", "nobody"} {
			watches.Go(func() {
				for _, err := range a.Watch(t.Context(), identity.Address{User: user}) {
					assert.NoError(t, err, user)
				}
			})
		}
		synctest.Wait()
		require.NoError(t, a.Close())
		watches.Wait()
		for s, err := range a.Watch(t.Context(), identity.Address{User: "bob"}) {
			t.Errorf("a watch yields %v, %v after the end", s, err)
		}
	})
}

func TestAWatchTellsEveryChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3, presence.WithDHT(presence.LAN))
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		r.meet(0, 1)
		r.meet(0, 2)
		r.meet(1, 2)
		a.login("alice")
		b.login("bob")
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		w := a.watch(ctx, "bob")
		want := []presence.State{presence.Online}
		now := func(limit time.Duration, state presence.State) {
			t.Helper()
			want = append(want, state)
			soon(t, limit, state.String(), func() bool { return len(w.states()) == len(want) })
			require.Equal(t, want, w.states())
		}
		time.Sleep(time.Minute)
		require.Equal(t, want, w.states(), "no change, no news")
		require.NoError(t, b.Logout(context.Background()))
		now(3*time.Second, presence.Offline)
		b.login("bob")
		now(3*time.Second, presence.Online)
		r.net.Isolate(1)
		now(12*time.Second, presence.Unreachable)
		r.net.Heal()
		now(90*time.Second, presence.Online)
		cancel()
		time.Sleep(time.Second)
	})
}

func TestADeviceServesOnlySoManyWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		r.meet(0, 1)
		a.login("alice")
		b.login("bob")
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var all []*watched
		for range 10 {
			all = append(all, a.watch(ctx, "bob"))
		}
		time.Sleep(30 * time.Second)
		require.Positive(t, b.Stats().Limited, "the watches over the limit")
		for _, w := range all {
			require.Equal(t, []presence.State{presence.Online}, w.states(), "those over the limit ask instead")
		}
		cancel()
		time.Sleep(time.Second)
	})
}
