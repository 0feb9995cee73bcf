package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh"
)

// A node sends in all ways that there are while it joins and leaves, while others do and die, and
// is closed at a random moment. Every call that was accepted has an ID, the IDs are 1, 2, 3 and so
// on, and each ends once, at Close at the latest.
func TestEverySendHasExactlyOneResult(t *testing.T) {
	usual := make([]uint64, meshtest.Sized(3, 100))
	for i := range usual {
		usual[i] = uint64(i)
	}
	for _, seed := range meshtest.Seeds(t, usual...) {
		synctest.Test(t, func(t *testing.T) { sendInAllWays(t, seed) })
	}
}

// outcomes collects what came of the sends of one node.
type outcomes struct {
	mu      sync.Mutex
	ids     map[uint64]string // the kind of each send
	results map[uint64]error
	waits   []func()
}

// accepted notes a send that was accepted, with what waits for its result.
func (o *outcomes) accepted(t *testing.T, kind string, id uint64, result func() error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	require.NotZero(t, id, kind)
	require.Empty(t, o.ids[id], "ID %d: %s", id, kind)
	o.ids[id] = kind
	o.waits = append(o.waits, func() {
		err := result()
		o.mu.Lock()
		defer o.mu.Unlock()
		o.results[id] = err
	})
}

func sendInAllWays(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 19))
	s := newSim(t, 4, nil)
	s.Random(2)
	users := []string{"alice", "bob", "carol", "dave"}
	for i, user := range users {
		s.login(i, user)
	}
	alice := s.nodes[0]
	rooms := make([]*mesh.Room, len(s.nodes))
	rooms[0] = s.join(0, "ops")
	sends := meshtest.Number(t, "STARLING_SENDS", 10_000)
	closeAt := rnd.IntN(sends)
	names := append(users, "nobody", "carol")

	o := &outcomes{ids: make(map[uint64]string), results: make(map[uint64]error)}
	var calls sync.WaitGroup
	sent := 0
	for n := range sends {
		if n == closeAt {
			calls.Go(func() { require.NoError(t, alice.Close()) })
		}
		ctx := context.Background()
		if rnd.IntN(5) == 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(3000))*time.Millisecond)
			calls.Go(func() { <-ctx.Done(); cancel() })
		}
		if n%20 == 0 {
			disturb(t, s, rooms, rnd)
			time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
		}
		to, data := names[rnd.IntN(len(names))], make([]byte, 1+rnd.IntN(100)*rnd.IntN(20))
		mode := mesh.WithMode(mesh.Mode(rnd.IntN(3)))
		room := rooms[0]
		accepted, err := false, error(nil)
		switch rnd.IntN(20) {
		case 0:
			calls.Go(func() {
				r, err := alice.Send(ctx, to, data, mode)
				if r.ID != 0 {
					o.accepted(t, "Send", r.ID, func() error { return err })
				} else if err == nil {
					t.Error("Send: no ID and no error")
				}
			})
		case 1:
			calls.Go(func() {
				r, err := room.Publish(ctx, data)
				if r.ID != 0 {
					o.accepted(t, "Publish", r.ID, func() error { return err })
				} else if err == nil {
					t.Error("Publish: no ID and no error")
				}
			})
		case 2, 3, 4, 5, 6, 7:
			var p mesh.Pending[mesh.Receipt]
			if p, err = alice.SendAsync(ctx, to, data, mode); err == nil {
				accepted = true
				o.accepted(t, "SendAsync", p.ID(), func() error { r, err := p.Result(); return sameID(r.ID, p.ID(), err) })
			}
		case 8, 9, 10, 11, 12:
			var p mesh.Pending[mesh.Receipt]
			if p, err = room.SendAsync(ctx, to, data, mode); err == nil {
				accepted = true
				o.accepted(t, "Room.SendAsync", p.ID(), func() error { r, err := p.Result(); return sameID(r.ID, p.ID(), err) })
			}
		case 13:
			var p mesh.Pending[mesh.Confirmation]
			if p, err = room.PublishConfirmedAsync(ctx, data); err == nil {
				accepted = true
				o.accepted(t, "PublishConfirmedAsync", p.ID(), func() error { r, err := p.Result(); return sameID(r.ID, p.ID(), err) })
			}
		default:
			var p mesh.Pending[mesh.Published]
			if p, err = room.PublishAsync(ctx, data); err == nil {
				accepted = true
				o.accepted(t, "PublishAsync", p.ID(), func() error { r, err := p.Result(); return sameID(r.ID, p.ID(), err) })
			}
		}
		if accepted {
			sent++
		}
	}
	calls.Wait()
	for _, wait := range o.waits {
		wait() // an end that does not come is a deadlock, which the bubble reports
	}
	require.Greater(t, len(o.ids), sent-1)
	kinds := make(map[string]int)
	for id := range uint64(len(o.ids)) {
		kind := o.ids[id+1]
		require.NotEmpty(t, kind, "seed %d: no call has ID %d of %d", seed, id+1, len(o.ids))
		_, ended := o.results[id+1]
		require.True(t, ended, "seed %d: %s %d", seed, kind, id+1)
		kinds[kind+" "+outcome(o.results[id+1])]++
	}
	t.Logf("seed %d: closed after %d of %d calls, %d accepted: %v", seed, closeAt, sends, len(o.ids), kinds)
}

func sameID(got, want uint64, err error) error {
	if got != want {
		return fmt.Errorf("a result with ID %d of send %d: %w", got, want, err)
	}
	return err
}

// outcome is a word for the result of a send.
func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, mesh.ErrUnconfirmed):
		return "unknown"
	case errors.Is(err, mesh.ErrUnreachable):
		return "not sent"
	case errors.Is(err, mesh.ErrRefused):
		return "refused"
	}
	return "no receiver"
}

// disturb lets somebody join, leave, log out, die or come back.
func disturb(t *testing.T, s *sim, rooms []*mesh.Room, rnd *rand.Rand) {
	i := rnd.IntN(len(s.nodes))
	switch what := rnd.IntN(8); {
	case what == 0 && i != 0 && s.nodes[i] != nil:
		s.Kill(i)
		s.nodes[i].Close()
		s.nodes[i], rooms[i] = nil, nil
	case what <= 2 && s.nodes[i] == nil:
		s.Restart(i)
		s.run(i)
		s.login(i, []string{"alice", "bob", "carol", "dave"}[i])
		s.Connect(i, 0)
	case what <= 4 && s.nodes[i] != nil:
		if rooms[i] != nil {
			rooms[i].Leave(within(t))
		}
		if r, err := s.nodes[i].Join(within(t), "ops"); err == nil {
			rooms[i] = r
		}
	case what == 5 && i != 0 && s.nodes[i] != nil:
		s.nodes[i].Logout(within(t))
	case what == 6 && i != 0 && s.nodes[i] != nil:
		s.nodes[i].Login(within(t), s.nodes[i].Self().User)
	case what == 7:
		s.Loss(float64(rnd.IntN(2) * rnd.IntN(10)))
	}
}
