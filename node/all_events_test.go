package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// all is the one stream of a node, for await and drained.
type all struct{ *node.Node }

func (a all) Recv(ctx context.Context) (mesh.Event, error) { return a.RecvAny(ctx) }

// first gives the first of the nodes one stream of all events.
func first(opts ...mesh.Setting) func(i int) []node.Option {
	return func(i int) []node.Option {
		if i > 0 {
			return nil
		}
		return []node.Option{node.WithAllEvents(), node.WithMesh(opts...)}
	}
}

// told writes an event as the tests below compare it.
func told(ev mesh.Event) string {
	switch ev := ev.(type) {
	case *node.PeerUp:
		return "up"
	case *mesh.MemberJoined:
		return fmt.Sprintf("%s: %s joined", ev.Room, ev.Member.User)
	case *mesh.MemberLeft:
		return fmt.Sprintf("%s: %s left", ev.Room, ev.Member.User)
	case *mesh.Message:
		return fmt.Sprintf("%s: %s", ev.Room, ev.Data)
	case *mesh.DirectMessage:
		return fmt.Sprintf("%s> %s", ev.Room, ev.Data)
	case *mesh.Lagged:
		return fmt.Sprintf("%s lagged %d", ev.Room, ev.Missed)
	case *mesh.RoomEnded:
		return fmt.Sprintf("%s ended: %s", ev.Room, ev.Reason)
	}
	return ev.Head().Type
}

func TestAllEventsHasEverythingOnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, first())
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		s.settle()
		ops, dev := s.join(0, "ops"), s.join(0, "dev")
		bops, bdev := s.join(1, "ops"), s.join(1, "dev")
		s.settle()
		for i := range 3 {
			_, err := bops.PublishText(within(t), fmt.Sprint("b", i))
			require.NoError(t, err)
			_, err = bob.SendText(within(t), "alice", fmt.Sprint("o", i))
			require.NoError(t, err)
			_, err = bdev.SendText(within(t), "alice", fmt.Sprint("d", i))
			require.NoError(t, err)
		}
		var got []string
		for i, ev := range drained(all{alice}) {
			h := ev.Head()
			require.EqualValues(t, i+1, h.Seq, "one count over all")
			require.Equal(t, map[string]uint64{"": 0, "ops": ops.Stay(), "dev": dev.Stay()}[h.Room], h.Stay, "%+v", ev)
			got = append(got, told(ev))
		}
		require.Equal(t, []string{
			"connection_changed", "connection_changed", "up", "room_ready", "room_ready", "ops: bob joined", "dev: bob joined",
			"ops: b0", "> o0", "dev> d0", "ops: b1", "> o1", "dev> d1", "ops: b2", "> o2", "dev> d2",
		}, got)
		require.NotEqual(t, ops.Stay(), dev.Stay())
	})
}

func TestAStayEndsInAllEventsAfterAllOfItAndTheNextIsToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, first())
		s.Connect(0, 1)
		alice := s.login(0, "alice")
		s.login(1, "bob")
		br := s.join(1, "ops")
		var rooms []*mesh.Room
		for range 2 {
			r := s.join(0, "ops")
			require.NoError(t, br.WaitPeers(within(t), 1))
			_, err := br.SendText(within(t), "alice", "hi")
			require.NoError(t, err)
			require.NoError(t, r.Leave(within(t)))
			_, err = br.SendText(within(t), "alice", "too late")
			require.ErrorIs(t, err, mesh.ErrNotMember)
			rooms = append(rooms, r)
		}
		require.NotEqual(t, rooms[0].Stay(), rooms[1].Stay())
		stays := make(map[uint64][]string)
		for _, ev := range drained(all{alice}) {
			if h := ev.Head(); h.Room != "" {
				stays[h.Stay] = append(stays[h.Stay], told(ev))
			}
		}
		require.Len(t, stays, 2)
		for _, r := range rooms {
			stay := stays[r.Stay()]
			require.ElementsMatch(t, []string{"room_ready", "ops: bob joined", "ops> hi", "ops ended: left"}, stay)
			require.Equal(t, "ops ended: left", stay[len(stay)-1])
		}
	})
}

func TestAllEventsSaysWhyAStayHasEnded(t *testing.T) {
	key := userKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, func(i int) []node.Option { return append(first()(i), node.WithUserKey(key)) })
		s.Connect(0, 1)
		alice := s.login(0, "alice")
		r := s.join(0, "ops")
		s.settle()
		s.login(1, "alice")
		s.join(1, "ops")
		end := await[*mesh.RoomEnded](t, all{alice}, nil)
		require.Equal(t, mesh.EndReplaced, end.Reason)
		require.ErrorIs(t, end.Err, mesh.ErrReplaced)
		require.Equal(t, r.Stay(), end.Stay)
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 1, first())
		alice := s.login(0, "alice")
		s.join(0, "ops")
		require.NoError(t, alice.Close())
		var got []string
		for ev, err := range alice.AllEvents(within(t)) {
			require.NoError(t, err, "it ends silently")
			got = append(got, told(ev))
		}
		require.ElementsMatch(t, []string{"connection_changed", "connection_changed", "room_ready", "ops ended: closed", "logged_out"}, got)
		_, err := alice.RecvAny(within(t))
		require.ErrorIs(t, err, node.ErrClosed)
	})
}

func TestAReaderOfAllEventsAloneMakesNoRoomRefuseMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, first(mesh.WithQueue(mesh.QueueLimits{Events: 4})))
		s.Connect(0, 1)
		alice := s.login(0, "alice")
		s.login(1, "bob")
		s.join(0, "ops")
		br := s.join(1, "ops")
		for i := range 50 {
			text := fmt.Sprint(i)
			_, err := br.SendText(within(t), "alice", text)
			require.NoError(t, err)
			require.Equal(t, text, string(await[*mesh.DirectMessage](t, all{alice}, nil).Data))
		}
	})
}

func TestOneBoundIsForAllThatWaitsInAllEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, first(mesh.WithQueue(mesh.QueueLimits{Events: 4})))
		s.Connect(0, 1)
		alice, bob := s.login(0, "alice"), s.login(1, "bob")
		s.join(0, "ops")
		s.join(0, "dev")
		ops, dev := s.join(1, "ops"), s.join(1, "dev")
		s.settle()
		drained(all{alice})
		for i := range 3 {
			_, err := ops.PublishText(within(t), fmt.Sprint("o", i))
			require.NoError(t, err)
			_, err = dev.PublishText(within(t), fmt.Sprint("d", i))
			require.NoError(t, err)
		}
		s.settle()
		_, err := bob.SendText(within(t), "alice", "direct")
		require.ErrorIs(t, err, mesh.ErrRefused, "only broadcasts make room for others")
		var got []string
		for _, ev := range drained(all{alice}) {
			got = append(got, told(ev))
		}
		require.Equal(t, []string{"ops lagged 1", "dev lagged 1", "ops: o1", "dev: d1", "ops: o2", "dev: d2"}, got)
		for i := range 4 {
			from := []interface {
				SendText(ctx context.Context, user, text string, opts ...mesh.SendOption) (mesh.Receipt, error)
			}{bob, ops, dev}[i%3]
			_, err := from.SendText(within(t), "alice", "direct")
			require.NoError(t, err)
		}
		refused := new(mesh.RefusedError)
		_, err = ops.SendText(within(t), "alice", "one too many")
		require.ErrorAs(t, err, &refused)
		require.Equal(t, mesh.QueueFull, refused.Reason)
	})
}

func TestEventsAreInOneStreamAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, first())
		s.Connect(0, 1)
		for i := range s.nodes {
			s.login(i, fmt.Sprint("user", i))
		}
		rooms := []*mesh.Room{s.join(0, "ops"), s.join(1, "ops")}
		s.settle()
		for i, n := range s.nodes {
			r := rooms[i]
			var node, room, any error
			_, node = n.Recv(within(t))
			_, room = r.Recv(within(t))
			_, any = n.RecvAny(within(t))
			if i == 0 {
				require.Equal(t, []error{mesh.ErrOtherStream, mesh.ErrOtherStream, nil}, []error{node, room, any})
				for _, node = range n.Events(within(t)) {
				}
				for _, room = range r.Events(within(t)) {
				}
				require.Equal(t, []error{mesh.ErrOtherStream, mesh.ErrOtherStream}, []error{node, room})
				continue
			}
			require.Equal(t, []error{nil, nil, mesh.ErrOtherStream}, []error{node, room, any})
			for _, any = range n.AllEvents(within(t)) {
			}
			require.Equal(t, mesh.ErrOtherStream, any)
		}
	})
}

func TestTheStayOfAnEventIsShownWhereStaysMeetAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, first())
		s.Connect(0, 1)
		for i := range s.nodes {
			s.login(i, fmt.Sprint("user", i))
		}
		rooms := []*mesh.Room{s.join(0, "ops"), s.join(1, "ops")}
		for i, n := range s.nodes {
			require.EqualValues(t, 1, rooms[i].Stay())
			var from recver = rooms[i]
			if i == 0 {
				from = all{n}
			}
			raw, err := json.Marshal(await[*mesh.MemberJoined](t, from, nil))
			require.NoError(t, err)
			var has map[string]any
			require.NoError(t, json.Unmarshal(raw, &has))
			if i == 0 {
				require.Equal(t, "1", has["stay"])
			} else {
				require.NotContains(t, has, "stay", "a room's own stream has one stay")
			}
		}
	})
}

// A Join that ctx ends has told members already. Its end tells that this was all.
func TestAStayWhoseJoinFailedEndsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2, first())
		s.Connect(0, 1)
		alice := s.login(0, "alice")
		s.login(1, "bob")
		s.join(1, "ops")
		s.settle()
		s.Drop(func(from, _, _ int) bool { return from == 1 })
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := alice.Join(ctx, "ops")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		end := await[*mesh.RoomEnded](t, all{alice}, nil)
		require.Equal(t, mesh.EndLeft, end.Reason)
	})
}
