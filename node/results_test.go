package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// A node sends in all ways that there are while it joins and leaves, while others do and die, and
// is closed at a random moment. Every call that was accepted has an ID, the IDs are 1, 2, 3 and so
// on, and each ends once, at Close at the latest. What others have taken agrees with the results.
func TestEverySendHasExactlyOneResult(t *testing.T) {
	usual := make([]uint64, meshtest.Sized(3, 100))
	for i := range usual {
		usual[i] = uint64(i)
	}
	for _, seed := range meshtest.Seeds(t, usual...) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 19))
			c := &crowdOfSends{t: t, sim: newSim(t, 4, nil), rnd: rnd, sends: make(map[uint64]*resultOf), taken: make(map[int][]taking), rooms: make([]*mesh.Room, 4)}
			c.run(meshtest.Number(t, "STARLING_SENDS", 10_000))
			c.judge(seed)
		})
	}
}

// resultOf is a send that was accepted.
type resultOf struct {
	call int
	how  string // the kind of call
	lane string // calls of one lane arrive in their order; "": in any
	to   string // the user; "": the room
	err  error
}

// taking is a message that a program has been given.
type taking struct {
	call int
	who  string // the process
}

type crowdOfSends struct {
	t   *testing.T
	sim *sim
	rnd *rand.Rand

	rooms   []*mesh.Room
	calls   sync.WaitGroup
	readers sync.WaitGroup
	lives   int // counts processes

	mu    sync.Mutex
	sends map[uint64]*resultOf
	taken map[int][]taking // by call
	order []taking
	waits []func()
}

var crowdUsers = []string{"alice", "bob", "carol", "dave"}

// reads notes what a program is given of alice's messages.
func (c *crowdOfSends) reads(from recver, who string) {
	c.readers.Go(func() {
		for {
			ev, err := from.Recv(context.Background())
			if err != nil {
				return
			}
			var data []byte
			switch ev := ev.(type) {
			case *mesh.DirectMessage:
				data = ev.Data
			case *mesh.Message:
				data = ev.Data
			default:
				continue
			}
			number, _, _ := strings.Cut(string(data), " ")
			call, err := strconv.Atoi(number)
			if err != nil {
				c.t.Errorf("%s was given %q", who, data)
				continue
			}
			c.mu.Lock()
			c.taken[call] = append(c.taken[call], taking{call, who})
			c.order = append(c.order, taking{call, who})
			c.mu.Unlock()
		}
	})
}

func (c *crowdOfSends) login(i int) {
	c.lives++
	c.sim.login(i, crowdUsers[i])
	c.reads(c.sim.nodes[i], fmt.Sprint(crowdUsers[i], " ", c.lives))
}

func (c *crowdOfSends) join(i int) {
	if r, err := c.sim.nodes[i].Join(within(c.t), "ops"); err == nil {
		c.rooms[i] = r
		c.lives++
		c.reads(r, fmt.Sprint(crowdUsers[i], " in the room ", c.lives))
	}
}

// accepted notes a send that was accepted, with what tells its end and its result. done is nil if
// it has ended.
func (c *crowdOfSends) accepted(id uint64, s *resultOf, done <-chan struct{}, result func() (uint64, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 || c.sends[id] != nil {
		c.t.Errorf("%s: ID %d, which is also that of %+v", s.how, id, c.sends[id])
		return
	}
	c.sends[id] = s
	c.waits = append(c.waits, func() {
		if done != nil {
			select {
			case <-done:
			case <-time.After(10 * time.Minute):
				c.t.Errorf("%s %d has no result", s.how, id)
				s.err = mesh.ErrUnconfirmed
				return
			}
		}
		got, err := result()
		if got != id {
			c.t.Errorf("%s %d has a result with ID %d: %v", s.how, id, got, err)
		}
		s.err = err
	})
}

func (c *crowdOfSends) run(calls int) {
	c.sim.Random(2)
	for i := range crowdUsers {
		c.login(i)
	}
	alice := c.sim.nodes[0]
	c.join(0)
	closeAt := c.rnd.IntN(calls)
	names := append(crowdUsers, "nobody", "carol")
	for n := range calls {
		if n == closeAt {
			c.calls.Go(func() {
				if err := alice.Close(); err != nil {
					c.t.Error(err)
				}
			})
		}
		switch {
		case n%20 == 0:
			c.disturb()
			time.Sleep(time.Duration(c.rnd.IntN(200)) * time.Millisecond)
		case c.rnd.IntN(4) == 0:
			time.Sleep(time.Duration(c.rnd.IntN(8)) * time.Millisecond)
		}
		if n%20 == 10 {
			c.disturb() // while messages are under way
		}
		ctx := context.Background()
		switch c.rnd.IntN(10) {
		case 0, 1:
			timed, cancel := context.WithTimeout(ctx, time.Duration(c.rnd.IntN(3000))*time.Millisecond)
			ctx = timed
			c.calls.Go(func() { <-timed.Done(); cancel() })
		case 2:
			given, cancel := context.WithCancel(ctx)
			ctx = given
			time.AfterFunc(time.Duration(c.rnd.IntN(50))*time.Millisecond, cancel)
		}
		c.send(ctx, alice, n, names[c.rnd.IntN(len(names))])
	}
	c.calls.Wait()
	for _, wait := range c.waits {
		wait()
	}
	time.Sleep(time.Minute)
	for _, n := range c.sim.nodes {
		if n != nil {
			_ = n.Close()
		}
	}
	c.readers.Wait()
}

// send makes one of alice's calls.
func (c *crowdOfSends) send(ctx context.Context, alice *node.Node, n int, to string) {
	data := fmt.Appendf(nil, "%d %s", n, strings.Repeat("x", c.rnd.IntN(100)*c.rnd.IntN(20)))
	kind := mesh.Mode(c.rnd.IntN(3))
	mode, room := mesh.WithMode(kind), c.rooms[0]
	if to == "carol" && c.rnd.IntN(4) == 0 {
		if f, ok := alice.Pinned("carol"); ok {
			to = "carol#" + f.Fingerprint()
		}
	}
	s := &resultOf{call: n, to: strings.Split(to, "#")[0]}
	if kind != mesh.UnreliableUnordered {
		s.lane = fmt.Sprint(to, " ", kind)
	}
	now := func(how string, call func() (uint64, error)) {
		s.how, s.lane = how, ""
		c.calls.Go(func() {
			id, err := call()
			if id == 0 && err == nil {
				c.t.Errorf("%s: no ID and no error", how)
			}
			if id != 0 {
				c.accepted(id, s, nil, func() (uint64, error) { return id, err })
			}
		})
	}
	switch c.rnd.IntN(20) {
	case 0:
		now("Send", func() (uint64, error) { r, err := alice.Send(ctx, to, data, mode); return r.ID, err })
	case 1:
		s.to = ""
		now("Publish", func() (uint64, error) { r, err := room.Publish(ctx, data); return r.ID, err })
	case 2:
		now("Room.Send", func() (uint64, error) { r, err := room.Send(ctx, to, data, mode); return r.ID, err })
	case 3, 4, 5, 6, 7:
		if p, err := alice.SendAsync(ctx, to, data, mode); err == nil {
			s.how = "SendAsync"
			c.accepted(p.ID(), s, p.Done(), func() (uint64, error) { r, err := p.Result(); return r.ID, err })
		}
	case 8, 9, 10, 11, 12:
		if p, err := room.SendAsync(ctx, to, data, mode); err == nil {
			s.how, s.lane = "Room.SendAsync", inRoom(s.lane, room)
			c.accepted(p.ID(), s, p.Done(), func() (uint64, error) { r, err := p.Result(); return r.ID, err })
		}
	case 13:
		s.to, s.lane = "", ""
		if p, err := room.PublishConfirmedAsync(ctx, data); err == nil {
			s.how, s.lane = "PublishConfirmedAsync", fmt.Sprintf("%p", room)
			c.accepted(p.ID(), s, p.Done(), func() (uint64, error) { r, err := p.Result(); return r.ID, err })
		}
	default:
		s.to = ""
		if p, err := room.PublishAsync(ctx, data); err == nil {
			s.how, s.lane = "PublishAsync", fmt.Sprintf("%p", room)
			c.accepted(p.ID(), s, p.Done(), func() (uint64, error) { r, err := p.Result(); return r.ID, err })
		}
	}
}

func inRoom(lane string, r *mesh.Room) string {
	if lane == "" {
		return ""
	}
	return fmt.Sprintf("%s in %p", lane, r)
}

// judge compares the results with what was taken.
func (c *crowdOfSends) judge(seed uint64) {
	t := c.t
	kinds := make(map[string]int)
	byCall := make(map[int]*resultOf)
	for id := range uint64(len(c.sends)) {
		s := c.sends[id+1]
		require.NotNil(t, s, "seed %d: no call has ID %d of %d", seed, id+1, len(c.sends))
		byCall[s.call] = s
		kinds[s.how+" "+outcome(s.err)]++
		if s.to == "" {
			continue
		}
		taken := c.taken[s.call]
		require.LessOrEqual(t, len(taken), 1, "seed %d: %s %d: %v", seed, s.how, id+1, taken)
		switch outcome(s.err) {
		case "unknown":
		case "ok":
			if s.to == "bob" { // who does not die before his program has read it
				require.Len(t, taken, 1, "seed %d: %s %d", seed, s.how, id+1)
			}
		default:
			require.Empty(t, taken, "seed %d: %s %d: %v", seed, s.how, id+1, s.err)
		}
	}
	last := make(map[string]int)
	twice := make(map[taking]bool)
	for _, took := range c.order {
		s := byCall[took.call]
		require.NotNil(t, s, "seed %d: %s was given what was refused here: %d", seed, took.who, took.call)
		require.False(t, twice[took], "seed %d: %s was given %d twice", seed, took.who, took.call)
		twice[took] = true
		if s.lane == "" {
			continue
		}
		lane := took.who + " " + s.lane
		before, ok := last[lane]
		require.True(t, !ok || before < took.call, "seed %d: %s: %d after %d", seed, lane, took.call, before)
		last[lane] = took.call
	}
	t.Logf("seed %d: %d accepted, %d taken: %v", seed, len(c.sends), len(c.order), kinds)
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
func (c *crowdOfSends) disturb() {
	s, i := c.sim, c.rnd.IntN(len(c.sim.nodes))
	switch what := c.rnd.IntN(8); {
	case what == 0 && i > 1 && s.nodes[i] != nil:
		s.Kill(i)
		_ = s.nodes[i].Close()
		s.nodes[i], c.rooms[i] = nil, nil
	case what <= 2 && s.nodes[i] == nil:
		s.Restart(i)
		s.run(i)
		c.login(i)
		s.Connect(i, 0)
	case what <= 4 && s.nodes[i] != nil:
		if c.rooms[i] != nil {
			_ = c.rooms[i].Leave(within(c.t))
		}
		c.join(i)
	case what == 5 && i != 0 && s.nodes[i] != nil:
		_ = s.nodes[i].Logout(within(c.t))
	case what == 6 && i != 0 && s.nodes[i] != nil:
		_ = s.nodes[i].Login(within(c.t), crowdUsers[i])
	case what == 7:
		s.Loss(float64(c.rnd.IntN(2) * c.rnd.IntN(10)))
	}
}
