package mesh

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/events"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

var (
	// ErrReplaced ends the stay in a room that the same user has joined later from another device.
	ErrReplaced = errors.New("the same user joined this room from another device")
	// ErrAmbiguous reports a user name that several users with different keys have.
	ErrAmbiguous = errors.New("several users have this name")
	// ErrOtherStream reports that the events are in another stream than the one that was asked for:
	// see node.WithAllEvents.
	ErrOtherStream = errors.New("the events are in another stream")
)

// Room is one stay in a room, from [Mesh.Join] to [Room.Leave]. Its methods are safe for concurrent
// use, except Recv and Events: only one goroutine at a time may read.
type Room struct {
	mesh   *Mesh
	name   string
	tag    [32]byte
	device identity.PublicKey
	id     FeedID // of this node's own broadcasts
	number uint64 // of this stay, among all of the mesh

	gossip sync.Mutex // held while the three that follow are taken, or given back
	topic  *pubsub.Topic
	sub    *pubsub.Subscription
	peers  *pubsub.TopicEventHandler

	outbox       *outbox
	queue        *events.Source[Event] // where its events go
	stream       *events.Queue[Event]  // the room's own; nil: they go to the mesh's one stream
	shown        uint64                // the number of the stay, if its events show it
	ctx          context.Context       // ends with the stay
	stop         context.CancelFunc
	door         *stay.Door
	rearm        task.Wake // the timer loop must look again
	acknowledged task.Wake // the window may have opened
	keep         task.Wake // what is kept of orders has changed
	finish       sync.Once
	begun        chan struct{} // closed once the room is ready
	ended        chan struct{} // closed once nothing is left of the stay

	mu      sync.Mutex
	stay    *stay.Stay
	info    []byte
	early   early
	called  time.Time    // when Enter was called
	unacked []*batch     // sealed, and no neighbour has acknowledged them
	echoed  uint64       // the last item of this node's own feed that GossipSub's loop has taken
	why     error        // the stay ended, or ends soon; nil: neither
	over    bool         // it has ended: nobody looks at unacked any more
	changed task.Changes // members or neighbours have changed
}

// Name is the name passed to Join.
func (r *Room) Name() string { return r.name }

// Members returns the members of the room as far as this node knows, itself included, ordered by
// user. The caller owns the result.
func (r *Room) Members() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return members(r.stay.Members())
}

// Missing returns the members that were dropped in the last 10 min and may come back: they fell
// silent and said no goodbye. They are in no order. The caller owns the result.
func (r *Room) Missing() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return members(r.stay.Missing())
}

func members(list []stay.Member) []Member {
	out := make([]Member, len(list))
	for i, m := range list {
		out[i] = Member(m)
	}
	return out
}

// WaitPeers waits until at least n other members are in the room. It returns ctx's error, or why
// the stay ended.
func (r *Room) WaitPeers(ctx context.Context, n int) error {
	for {
		r.mu.Lock()
		others, changed := r.stay.Present()-1, r.changed.Next()
		r.mu.Unlock()
		if others >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("room %s: %d of %d other members: %w", r.name, others, n, ctx.Err())
		case <-r.ctx.Done():
			return r.reason()
		}
	}
}

// Stay is the number of this stay. It rises from 1 over all stays of the node, in any room. In the
// stream of all events it is [Header].Stay.
func (r *Room) Stay() uint64 { return r.number }

// Recv returns the room's next event, and waits for one until ctx ends. Events are queued from Join
// on. After the last one it returns why the stay ended: [ErrLeft], [ErrReplaced], [ErrClosed], the
// reason given to [Mesh.EvictAll], why the room token no longer counts, or a [*PutOutError]. If the
// node has one stream of all events, Recv returns [ErrOtherStream] at once.
func (r *Room) Recv(ctx context.Context) (Event, error) {
	if r.stream == nil {
		return nil, ErrOtherStream
	}
	return r.stream.Recv(ctx)
}

// Events ranges over [Room.Recv]. It ends without an error when this node has left the room or
// closed; otherwise it yields one error, last. Breaking out of the loop leaves the stream open.
func (r *Room) Events(ctx context.Context) iter.Seq2[Event, error] {
	if r.stream == nil {
		return func(yield func(Event, error) bool) { yield(nil, ErrOtherStream) }
	}
	return r.stream.All(ctx, func(err error) bool { return errors.Is(err, ErrLeft) || errors.Is(err, ErrClosed) })
}

// Room returns the room of that name if this node is in it.
func (m *Mesh) Room(name string) (*Room, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rooms[name]
	return r, ok
}

// Rooms returns the rooms that this node is in, in no order.
func (m *Mesh) Rooms() []*Room {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Room, 0, len(m.rooms))
	for _, r := range m.rooms {
		out = append(out, r)
	}
	return out
}
