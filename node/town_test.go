package node_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// town is bob, alice, and strangers who take her name. Bob is connected to everyone who has come.
type town struct {
	*sim
	bob *node.Node
	in  map[int]*mesh.Room // who is in the room, by host
}

const (
	bobs = iota
	alices
	strangers
	others
)

// newTown logs bob in, and nobody else.
func newTown(t *testing.T, hosts int, each func(i int) []node.Option) *town {
	t.Helper()
	s := &town{sim: newSim(t, hosts, each), in: make(map[int]*mesh.Room)}
	s.bob = s.login(bobs, "bob")
	return s
}

// comes logs the user of a host in as alice, connects it to bob, and enters the room if bob is in
// it.
func (s *town) comes(i int) *node.Node {
	s.t.Helper()
	n := s.nodes[i]
	if n == nil {
		n = s.run(i)
	}
	s.login(i, "alice")
	if !s.Connected(bobs, i) {
		s.Connect(bobs, i)
	}
	if s.in[bobs] != nil {
		s.enters(i)
	}
	s.settle()
	return n
}

func (s *town) enters(i int) *mesh.Room {
	s.t.Helper()
	s.in[i] = s.join(i, "ops")
	return s.in[i]
}

// goes closes a node, and with it all its connections.
func (s *town) goes(i int) {
	s.t.Helper()
	require.NoError(s.t, s.nodes[i].Close())
	s.nodes[i] = nil
	delete(s.in, i)
	_ = s.Host(i).Network().ClosePeer(s.ID(bobs))
	s.settle()
}

// got returns everything that a host was sent since the last call, in the room and outside it.
func (s *town) got(i int) (texts []string) {
	s.t.Helper()
	from := []recver{s.nodes[i]}
	if s.in[i] != nil {
		from = append(from, s.in[i])
	}
	for _, r := range from {
		for _, ev := range drained(r) {
			if msg, ok := ev.(*mesh.DirectMessage); ok {
				texts = append(texts, string(msg.Data))
			}
		}
	}
	return texts
}

// result returns how a send ended that did not wait.
func result(p mesh.Pending[mesh.Receipt], err error) error {
	if err == nil {
		_, err = p.Result()
	}
	return err
}

// refuses checks that bob's send to the bare name fails, in the room and outside it, and that the
// error names how to write to each of them.
func (s *town) refuses(pinned identity.PublicKey, to ...identity.Login) {
	s.t.Helper()
	sends := map[string]func() error{"outside": func() error {
		_, err := s.bob.SendText(within(s.t), "alice", "secret")
		return err
	}, "outside, pipelined": func() error {
		return result(s.bob.SendAsync(within(s.t), "alice", []byte("secret")))
	}}
	if room := s.in[bobs]; room != nil {
		sends["in the room"] = func() error {
			_, err := room.SendText(within(s.t), "alice", "secret")
			return err
		}
		sends["in the room, pipelined"] = func() error {
			return result(room.SendAsync(within(s.t), "alice", []byte("secret")))
		}
	}
	for where, send := range sends {
		err := send()
		conflict, ok := errors.AsType[*presence.ConflictError](err)
		require.True(s.t, ok, "%s: %v", where, err)
		require.Equal(s.t, "alice", conflict.User, where)
		require.Equal(s.t, pinned, conflict.Pinned, where)
		var keys, want []identity.PublicKey
		for _, l := range conflict.Found {
			keys = append(keys, l.Key)
			require.Contains(s.t, err.Error(), l.Address().String(), where)
		}
		for _, l := range to {
			want = append(want, l.Key)
		}
		require.ElementsMatch(s.t, want, keys, where)
	}
}

func (s *town) says(user, text string) {
	s.t.Helper()
	_, err := s.bob.SendText(within(s.t), user, text)
	require.NoError(s.t, err)
}

// ways are the ways in which bob and alice may write to each other.
var ways = map[string]bool{"outside rooms": false, "in a room": true}

// write sends from one host to a user, in the room or outside it.
func (s *town) write(i int, inRoom bool, user, text string) {
	s.t.Helper()
	var err error
	if inRoom {
		_, err = s.in[i].SendText(within(s.t), user, text)
	} else {
		_, err = s.nodes[i].SendText(within(s.t), user, text)
	}
	require.NoError(s.t, err)
}

// scenes runs a story once with messages outside rooms, and once with messages in a room.
func scenes(t *testing.T, hosts int, play func(t *testing.T, s *town, inRoom bool)) {
	for way, inRoom := range ways {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTown(t, hosts, nil)
				if inRoom {
					s.enters(bobs)
				}
				play(t, s, inRoom)
			})
		})
	}
}
