package mesh

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
)

// linked runs f with n stations that are told by down whether their link is known to be down.
func linked(t *testing.T, n int, f func(t *testing.T, f *flock, down *atomic.Bool)) {
	down := new(atomic.Bool)
	inBubble(t, n, func(t *testing.T, fl *flock) { f(t, fl, down) }, WithLink(down.Load), WithSendTimeout(5*time.Second))
}

func TestAloneIsNoSuccessWhileTheLinkIsDown(t *testing.T) {
	for name, c := range map[string]struct {
		back time.Duration // when the link is back; 0: never
		want []error
	}{
		"it stays down":               {0, []error{ErrUnconfirmed, ErrDisconnected}},
		"it is back, and nobody came": {2 * time.Second, nil},
	} {
		t.Run(name, func(t *testing.T) {
			linked(t, 1, func(t *testing.T, f *flock, down *atomic.Bool) {
				r := f.join(0, "ops")
				_, err := r.Publish(t.Context(), []byte("alone"))
				require.NoError(t, err)
				down.Store(true)
				if c.back > 0 {
					time.AfterFunc(c.back, func() { down.Store(false) })
				}
				begun := time.Now()
				out, err := r.Publish(t.Context(), []byte("cut off"))
				require.Equal(t, 5*time.Second, time.Since(begun))
				if c.want == nil {
					require.NoError(t, err)
					require.Zero(t, out.Acked)
					return
				}
				for _, want := range c.want {
					require.ErrorIs(t, err, want)
				}
			})
		})
	}
}

func TestABroadcastThatNobodyAcknowledgesIsUnconfirmedThoughTheLinkIsBack(t *testing.T) {
	linked(t, 2, func(t *testing.T, f *flock, down *atomic.Bool) {
		f.net.ConnectAll()
		r := f.joinAll("ops")[0]
		settle()
		f.net.Cut(0, 1)
		down.Store(true)
		time.AfterFunc(2*time.Second, func() { down.Store(false) })
		_, err := r.Publish(t.Context(), []byte("members are known"))
		require.ErrorIs(t, err, ErrUnconfirmed)
		require.NotErrorIs(t, err, ErrDisconnected)
	})
}

func TestWaitsThatEndEarlySayThatTheLinkIsDown(t *testing.T) {
	linked(t, 2, func(t *testing.T, f *flock, down *atomic.Bool) {
		f.net.ConnectAll()
		r := f.joinAll("ops")[0]
		settle()
		f.net.Cut(0, 1)
		down.Store(true)
		short := func() context.Context {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			t.Cleanup(cancel)
			return ctx
		}
		cancelled := func() context.Context {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			return ctx
		}
		_, published := r.Publish(short(), []byte("x"))
		_, confirmed := r.PublishConfirmed(cancelled(), []byte("x"))
		p, err := r.PublishConfirmedAsync(context.Background(), []byte("x"))
		require.NoError(t, err)
		_, waited := p.Wait(short())
		for _, err := range []error{published, confirmed, waited} {
			require.ErrorIs(t, err, ErrUnconfirmed)
			require.ErrorIs(t, err, ErrDisconnected)
		}
	})
}

func TestADeviceWithoutAnAddressIsWaitedForWhileTheLinkIsDown(t *testing.T) {
	linked(t, 1, func(t *testing.T, f *flock, down *atomic.Bool) {
		nobody := identity.Login{User: "u9", Key: identity.PublicKey{9}, Peer: madeUp("nobody").Statement.Peer}
		for _, c := range []struct {
			down bool
			took time.Duration
		}{{false, 0}, {true, 5 * time.Second}} {
			down.Store(c.down)
			begun := time.Now()
			_, err := f.at[0].Send(t.Context(), nobody, []byte("x"))
			require.ErrorIs(t, err, ErrUnreachable)
			require.Equal(t, c.took, time.Since(begun))
			if c.down {
				require.ErrorIs(t, err, ErrDisconnected)
			} else {
				require.NotErrorIs(t, err, ErrDisconnected)
			}
		}
	})
}

func TestAUserIsSearchedForAgainWhileTheLinkIsDown(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Connect(0, 1)
		down := new(atomic.Bool)
		p.alice.cfg.linkDown = down.Load
		finder := p.searches(time.Millisecond)
		nobody := errors.New("nobody knows")
		finder.find = func() (identity.Login, error) {
			if down.Load() {
				return identity.Login{}, nobody
			}
			return p.bob.login(), nil
		}
		down.Store(true)
		s := p.sendTo(t, t.Context(), "bob", 1)
		time.Sleep(5 * time.Second)
		down.Store(false)
		begun := time.Now()
		_, err := s.Result()
		require.NoError(t, err)
		require.LessOrEqual(t, finder.searched(), 7, "a search costs traffic")
		require.Less(t, time.Since(begun), cutPause+100*time.Millisecond)

		finder.find = func() (identity.Login, error) { return identity.Login{}, &identity.ConflictError{User: "bob"} }
		down.Store(true)
		begun = time.Now()
		_, err = p.sendTo(t, t.Context(), "bob", 2).Result()
		require.ErrorAs(t, err, new(*identity.ConflictError))
		require.NotErrorIs(t, err, ErrDisconnected)
		require.Less(t, time.Since(begun), cutPause, "what is known here needs no link")
	})
}
