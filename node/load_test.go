package node_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// inbox reads a room's messages until it has as many as it wants, and says what is wrong with them.
type inbox struct {
	from map[string][]string // payloads by sender, in the order they came
}

func (in *inbox) read(ctx context.Context, r *mesh.Room, want int) error {
	in.from = make(map[string][]string)
	for got := 0; got < want; {
		ev, err := r.Recv(ctx)
		if err != nil {
			return fmt.Errorf("%d of %d messages: %w", got, want, err)
		}
		switch ev := ev.(type) {
		case *mesh.Message:
			in.from[ev.From.User] = append(in.from[ev.From.User], string(ev.Data))
			got++
		case *mesh.Lagged, *mesh.GapLost, *mesh.MemberLeft:
			return fmt.Errorf("%d of %d messages: %+v", got, want, ev)
		}
	}
	return nil
}

func TestThirtyMembersHearEachOtherOnceAndInOrder(t *testing.T) {
	const members, each = 30, 20
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, members, nil)
		s.Random(6)
		rooms := make([]*mesh.Room, members)
		for i := range members {
			require.NoError(t, s.nodes[i].SetUser(fmt.Sprintf("user%02d", i)))
		}
		s.settle()
		var wg sync.WaitGroup
		for i := range members {
			wg.Go(func() {
				var err error
				if rooms[i], err = s.nodes[i].Join(within(t), "ops"); err == nil {
					err = rooms[i].WaitPeers(within(t), members-1)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		start := time.Now()
		boxes := make([]inbox, members)
		for i := range members {
			wg.Go(func() {
				if err := boxes[i].read(within(t), rooms[i], (members-1)*each); err != nil {
					t.Errorf("user%02d: %v", i, err)
				}
			})
			wg.Go(func() {
				for k := range each {
					if _, err := rooms[i].PublishAsync(within(t), fmt.Appendf(nil, "%02d/%02d", i, k), mesh.WithWaiting()); err != nil {
						t.Error(err)
					}
					if k%5 == 4 { // a few signatures each: they are expensive under -race
						time.Sleep(50 * time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("all arrived after %v", time.Since(start))
		for i := range members {
			for j := range members {
				got := boxes[i].from[fmt.Sprintf("user%02d", j)]
				var want []string
				if i != j {
					for k := range each {
						want = append(want, fmt.Sprintf("%02d/%02d", j, k))
					}
				}
				require.Equal(t, want, got, "at user%02d from user%02d", i, j)
			}
		}
		time.Sleep(20 * time.Second)
		for i := range members {
			none[*mesh.Message](t, drained(rooms[i])) // nothing comes twice
		}
	})
}

func TestABurstPassesThroughAChain(t *testing.T) {
	const burst, size = 1000, 200
	synctest.Test(t, func(t *testing.T) {
		// A DHT would connect them all.
		s := newSim(t, 3, func(int) []node.Option { return []node.Option{node.WithoutDHT()} })
		s.Chain()
		rooms := make([]*mesh.Room, 3)
		for i, user := range []string{"alice", "bob", "carol"} {
			require.NoError(t, s.nodes[i].SetUser(user))
			rooms[i] = s.join(i, "ops")
		}
		for _, r := range rooms {
			require.NoError(t, r.WaitPeers(within(t), 2))
		}
		s.settle()
		require.False(t, s.Connected(0, 2), "a chain")
		var wg sync.WaitGroup
		boxes := make([]inbox, 3)
		for i := 1; i < 3; i++ {
			wg.Go(func() {
				if err := boxes[i].read(within(t), rooms[i], burst); err != nil {
					t.Errorf("node %d: %v", i, err)
				}
			})
		}
		var want []string
		for k := range burst {
			text := fmt.Sprintf("%0*d", size, k)
			want = append(want, text)
			_, err := rooms[0].PublishAsync(within(t), []byte(text), mesh.WithWaiting())
			require.NoError(t, err)
		}
		wg.Wait()
		for i := 1; i < 3; i++ {
			require.Equal(t, want, boxes[i].from["alice"], "at node %d", i)
		}
	})
}
