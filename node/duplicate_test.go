package node_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// Two dials have crossed, and one of the two connections ends while a hello is under way on it. The
// peer stays connected by the other one, so it is found and online.
func TestAPeerIsThereThoughOneOfTwoConnectionsEndsAmidAHello(t *testing.T) {
	calls := map[string]func(t *testing.T, a *node.Node) error{
		"send": func(t *testing.T, a *node.Node) error {
			_, err := a.SendText(within(t), "bob", "x")
			return err
		},
		"status": func(t *testing.T, a *node.Node) error {
			st, err := a.Status(within(t), "bob")
			if err == nil && st.State != presence.Online {
				err = fmt.Errorf("%v (%v)", st.State, st.Source)
			}
			return err
		},
	}
	tried := 0
	for name, call := range calls {
		for after := range 24 { // milliseconds: a hello takes some 10
			for side := range 2 {
				for which := range 2 {
					synctest.Test(t, func(t *testing.T) {
						s := newSim(t, 2, nil)
						a := s.login(0, "alice")
						s.login(1, "bob")
						both(func(i int) { require.NoError(t, s.TryConnect(i, 1-i)) })
						time.Sleep(time.Duration(after) * time.Millisecond)
						conns := s.Host(side).Network().ConnsToPeer(s.ID(1 - side))
						if len(conns) < 2 {
							return
						}
						tried++
						require.NoError(t, conns[which].Close())
						for range 20 {
							require.NoError(t, call(t, a), "%s; %d closed connection %d after %d ms", name, side, which, after)
							time.Sleep(time.Millisecond)
						}
					})
				}
			}
		}
	}
	require.Greater(t, tried, 100, "schedules with two connections")
}
