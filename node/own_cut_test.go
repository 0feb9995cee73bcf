package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// A node that is cut off, for however long, is back by itself as the same user in the same stays.
func TestANodeIsNeverReplacedByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		s.ConnectAll()
		alice := s.login(0, "alice")
		bob := s.login(1, "bob")
		s.login(2, "carol")
		ar, br := s.join(0, "ops"), s.join(1, "ops")
		s.join(2, "ops")
		for _, cut := range []time.Duration{
			10 * time.Millisecond, 100 * time.Millisecond, time.Second, 5 * time.Second, 11 * time.Second,
			20 * time.Second, time.Minute, 10 * time.Minute,
		} {
			s.Isolate(0)
			time.Sleep(cut)
			s.Heal()
			time.Sleep(time.Minute)
			require.True(t, alice.LoggedIn(), "after %v", cut)
			require.NoError(t, ar.Ready(within(t)))
			for _, ev := range drained(alice) {
				if out, ok := ev.(*node.LoggedOut); ok {
					t.Fatalf("after %v: %+v", cut, out)
				}
			}
			_, err := bob.SendText(within(t), "alice", "outside")
			require.NoError(t, err, "after %v", cut)
			_, err = br.SendText(within(t), "alice", "inside")
			require.NoError(t, err, "after %v", cut)
			_, err = ar.PublishText(within(t), "here I am")
			require.NoError(t, err, "after %v", cut)
			await(t, br, func(m *mesh.Message) bool { return m.From.User == "alice" })
		}
		require.NoError(t, ar.Leave(within(t)))
	})
}

// The user logs in and joins on a second device while the first is cut off. When the first is back
// it is out: it was called earlier, whenever it was connected again.
func TestADeviceThatWasCutOffDoesNotPutOutALaterOne(t *testing.T) {
	for _, cut := range []time.Duration{3 * time.Second, 30 * time.Second, 5 * time.Minute} {
		t.Run(cut.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				key := userKey(t)
				s := newSim(t, 3, func(i int) []node.Option {
					if i == 2 {
						return nil
					}
					return []node.Option{node.WithUserKey(key)}
				})
				s.ConnectAll()
				first := s.login(0, "alice")
				s.login(2, "carol")
				fr := s.join(0, "ops")
				s.join(2, "ops")
				s.settle()
				s.Isolate(0)
				time.Sleep(cut / 2)
				second := s.login(1, "alice")
				sr := s.join(1, "ops")
				time.Sleep(cut / 2)
				s.Heal()
				time.Sleep(time.Minute)
				require.False(t, first.LoggedIn())
				require.ErrorIs(t, ends(t, fr), mesh.ErrReplaced)
				require.True(t, second.LoggedIn())
				require.Len(t, sr.Members(), 2)
				none[*node.LoggedOut](t, drained(second))
			})
		})
	}
}
