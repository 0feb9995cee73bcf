package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/events"
	"github.com/starling-mesh/starling/internal/wire"
)

var (
	// ErrReplaced ends a room that the same user joined later from another device.
	ErrReplaced = errors.New("mesh: the same user joined this room from another device")
	// ErrAmbiguous reports a user name that several members with different keys have.
	ErrAmbiguous = errors.New("mesh: several members have this name")
)

// Room is one stay in a room, from [Mesh.Join] to [Room.Leave]. Its methods are safe for concurrent use,
// but for Recv and Events, of which one goroutine at a time may read.
type Room struct {
	mesh   *Mesh
	name   string
	tag    [32]byte
	device identity.PublicKey
	feed   FeedID // of this node's own broadcasts

	topic *pubsub.Topic
	sub   *pubsub.Subscription
	peers *pubsub.TopicEventHandler

	outbox *outbox
	queue  *events.Queue
	ctx    context.Context // ends with the stay
	stop   context.CancelFunc
	rearm  chan struct{} // holds a token when the timer loop must look again
	finish sync.Once

	mu         sync.Mutex
	own        *rosterEntry // this node's
	info       []byte
	head       head // of the own feed
	roster     *roster
	neighbours map[peer.ID]*neighbour
	asking     map[peer.ID]struct{} // greeted us before GossipSub told of their subscription
	waiting    map[peer.ID]struct{} // asked whether they are in the room, and silent so far
	parked     parked
	rumour     bool      // the roster has changed since neighbours were last told its digest
	widen      bool      // and at nextDigest several are to be told
	nextDigest time.Time // when to compare rosters with neighbours
	echoed     uint64    // last sequence of the own feed that GossipSub's loop has taken
	leaving    bool
	why        error         // the stay ended; nil: it has not
	changed    chan struct{} // closed and renewed when members or neighbours change
}

// JoinOption is a setting of one stay in a room.
type JoinOption func(*joinConfig)

type joinConfig struct {
	info   []byte
	secret string
}

// WithInfo sets what the other members see of this one in [Member].Info: at most 200 bytes, copied. The
// default is nothing.
func WithInfo(info []byte) JoinOption {
	return func(c *joinConfig) { c.info = append([]byte(nil), info...) }
}

// WithSecret makes the room another one than the room of the same name with another secret or none. Who does
// not know the secret can neither find the room nor read its topic's name. It does not encrypt: whoever is let
// in by a member's node could pass on what it hears. The default is none.
func WithSecret(secret string) JoinOption { return func(c *joinConfig) { c.secret = secret } }

const (
	// joinWait bounds how long Join waits for neighbours that are there and do not answer.
	joinWait = 2 * time.Second
	// leaveWait bounds how long Leave waits for its goodbye to be sent.
	leaveWait = time.Second
)

// Join enters a room, which needs no earlier creation. It returns when the room is ready: subscribed, and in
// agreement with every neighbour that is in the room about who else is. What neighbours publish from then on
// arrives. With no neighbour in the room it returns at once, alone; whoever comes later merges. It waits 2 s at
// the longest for neighbours that do not answer.
//
// It gives [ErrNoIdentity] before the node has a user, [ErrJoined] while the node is in the room, an
// *identity.IDError for a bad name, and *identity.InfoSizeError for too much user information.
func (m *Mesh) Join(ctx context.Context, room string, opts ...JoinOption) (*Room, error) {
	var cfg joinConfig
	for _, o := range opts {
		o(&cfg)
	}
	if err := errors.Join(identity.CheckRoom(room), identity.CheckInfo(cfg.info)); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !m.enter() {
		return nil, ErrClosed
	}
	defer m.leave()
	r, err := m.newRoom(room, cfg)
	if err != nil {
		return nil, err
	}
	if err := r.start(); err != nil {
		r.end(err)
		return nil, fmt.Errorf("mesh: join %s: %w", room, err)
	}
	if err := r.awaitReady(ctx); err != nil {
		_ = r.Leave(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("mesh: join %s: %w", room, err)
	}
	return r, nil
}

func (m *Mesh) newRoom(name string, cfg joinConfig) (*Room, error) {
	st := m.who.Self()
	if st == nil {
		return nil, ErrNoIdentity
	}
	r := &Room{
		mesh: m, name: name, tag: m.app.RoomTag(name, cfg.secret), info: cfg.info,
		device:     identity.PublicKey(m.key.Public().(ed25519.PublicKey)),
		outbox:     newOutbox(),
		queue:      events.NewQueue(name, m.cfg.queue),
		rearm:      make(chan struct{}, 1),
		roster:     newRoster(m.host.ID(), m.cfg.grace),
		neighbours: make(map[peer.ID]*neighbour),
		asking:     make(map[peer.ID]struct{}),
		waiting:    make(map[peer.ID]struct{}),
		changed:    make(chan struct{}),
	}
	_, _ = rand.Read(r.feed[:])
	r.ctx, r.stop = context.WithCancel(m.ctx)
	own, err := r.signEntry(st, true, identity.NextSequence(m.lastEntry.Load(), time.Now()))
	if err != nil {
		return nil, err
	}
	r.own = own
	r.nextDigest = time.Now().Add(digestEvery)
	r.roster.apply(time.Now(), own)

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rooms[name] != nil {
		r.stop()
		return nil, ErrJoined
	}
	m.rooms[name], m.tags[r.tag] = r, r
	return r, nil
}

// signEntry signs this node's roster entry.
func (r *Room) signEntry(st *identity.Statement, joined bool, sequence uint64) (*rosterEntry, error) {
	r.mesh.lastEntry.Store(max(r.mesh.lastEntry.Load(), sequence))
	state := wire.RosterEntry_LEFT
	if joined {
		state = wire.RosterEntry_JOINED
	}
	var addrs [][]byte
	for _, a := range r.mesh.host.Addrs() {
		addrs = append(addrs, a.Bytes())
	}
	addrs = checkAddrs(addrs)
	body, err := proto.Marshal(&wire.RosterEntry{
		Statement: st.Sealed(), Room: r.tag[:], Feed: r.feed[:], Sequence: sequence, State: state, Info: r.info, Addrs: addrs,
	})
	if err != nil {
		return nil, err
	}
	return &rosterEntry{
		sealed:    wire.Seal(wire.DomainRoster, r.mesh.key, body),
		statement: st, feed: r.feed, sequence: sequence, joined: joined, info: r.info, addrs: addrs,
	}, nil
}

// start subscribes and announces.
func (r *Room) start() error {
	m := r.mesh
	name := topicName(r.tag)
	if err := m.pubsub.RegisterTopicValidator(name, r.validate, pubsub.WithValidatorInline(true)); err != nil {
		return err
	}
	var err error
	if r.topic, err = m.pubsub.Join(name); err != nil {
		return err
	}
	if r.peers, err = r.topic.EventHandler(); err != nil {
		return err
	}
	if r.sub, err = r.topic.Subscribe(pubsub.WithBufferSize(gossipQueue)); err != nil {
		return err
	}
	if _, err := r.outbox.add(r.ctx, wire.Kind_KIND_ROSTER, r.own.sealed, noID); err != nil {
		return err
	}
	for _, loop := range []func(){r.readLoop, r.peerLoop, r.publishLoop, r.timerLoop} {
		if !m.goTask(loop) {
			return ErrClosed
		}
	}
	r.askAround()
	return nil
}

// noID is for items that are no send of the app's.
func noID() uint64 { return 0 }

// awaitReady waits until every neighbour that is in the room has told what it knows.
func (r *Room) awaitReady(ctx context.Context) error {
	deadline := time.NewTimer(joinWait)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if r.agreed() {
			return nil
		}
		select {
		case <-changed:
		case <-deadline.C:
			r.mesh.log.Info("joined before all neighbours answered", "room", r.name)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ctx.Done():
			return r.reason()
		}
	}
}

// agreed reports whether every connected peer has either sent its roster or said that it is not in the room.
func (r *Room) agreed() bool {
	peers := r.topic.ListPeers()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range peers {
		if n := r.neighbours[p]; n == nil || !n.agreed {
			return false
		}
	}
	return len(r.waiting) == 0
}

// Name is what Join was given.
func (r *Room) Name() string { return r.name }

// Members are those in the room as far as this node knows, itself included, ordered by user. The result is
// the caller's own.
func (r *Room) Members() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	seats := r.roster.members()
	out := make([]Member, len(seats))
	for i, s := range seats {
		out[i] = s.public()
	}
	return out
}

// public is a copy of the member that the app may keep.
func (s *seat) public() Member {
	m := s.Member
	m.Info = append([]byte(nil), m.Info...)
	return m
}

// WaitPeers waits until at least n other members are in the room. It gives ctx's error, or why the room ended.
func (r *Room) WaitPeers(ctx context.Context, n int) error {
	for {
		r.mu.Lock()
		others, changed := r.roster.present-1, r.changed
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

// Recv returns the room's next event, and waits for one until ctx ends. Events are queued since Join. After
// the last one it gives [ErrLeft], [ErrReplaced] or [ErrClosed].
func (r *Room) Recv(ctx context.Context) (Event, error) { return r.queue.Recv(ctx) }

// Events ranges over [Room.Recv]. It ends silently when this node has left the room or closed, and otherwise
// yields one error, last. Breaking out of the loop leaves the stream open.
func (r *Room) Events(ctx context.Context) iter.Seq2[Event, error] {
	return r.queue.All(ctx, func(err error) bool { return errors.Is(err, ErrLeft) || errors.Is(err, ErrClosed) })
}

// Send sends a message to one member, given by name or as name#fingerprint, and returns when the member's
// node has it in its app's queue. See [Mesh.Send] for how it can fail; [ErrNotMember], at once, says that
// nobody of that name is in the room, and [ErrAmbiguous] that several are.
func (r *Room) Send(ctx context.Context, user string, data []byte, opts ...SendOption) (Receipt, error) {
	for attempt := 0; ; attempt++ {
		p, err := r.send(ctx, user, data, opts, waits)
		if err != nil {
			return Receipt{}, err
		}
		receipt, err := p.await(ctx)
		// A member that has not heard of us yet says so; our greeting is on its way to it.
		var refused *RefusedError
		if attempt >= introductions || !errors.As(err, &refused) || refused.Reason != NotMember {
			return receipt, err
		}
		select {
		case <-time.After(introductionWait << attempt):
		case <-ctx.Done():
			return receipt, err
		}
	}
}

const (
	// introductions and introductionWait are how often and how long Send gives a member that it has just met
	// to take in its greeting: 50, 100, 200 and 400 ms.
	introductions    = 4
	introductionWait = 50 * time.Millisecond
)

// SendText is [Room.Send] of a text.
func (r *Room) SendText(ctx context.Context, user, text string, opts ...SendOption) (Receipt, error) {
	return r.Send(ctx, user, []byte(text), append(opts, AsText())...)
}

// SendAsync is [Room.Send] for callers that pipeline: it returns when the message has been queued. See
// [Mesh.SendAsync].
func (r *Room) SendAsync(ctx context.Context, user string, data []byte, opts ...SendOption) (*Pending, error) {
	return r.send(ctx, user, data, opts, watched)
}

func (r *Room) send(ctx context.Context, user string, data []byte, opts []SendOption, w watching) (*Pending, error) {
	var cfg sendConfig
	for _, o := range opts {
		o.applySend(&cfg)
	}
	if err := checkPayload(cfg.kind, data, r.mesh.cfg.maxMessage); err != nil {
		return nil, err
	}
	to, err := r.member(user)
	if err != nil {
		return nil, err
	}
	r.introduce(to.Peer)
	return r.mesh.sendDirect(ctx, to.Peer, outgoing{
		room: &r.tag, to: to.User, kind: cfg.kind, payload: data, mode: cfg.mode, watching: w,
	})
}

// member resolves an address to the one member it means.
func (r *Room) member(address string) (identity.Login, error) {
	addr, err := identity.ParseAddress(address)
	if err != nil {
		return identity.Login{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaving {
		return identity.Login{}, r.reasonLocked()
	}
	var found []identity.Login
	for _, s := range r.roster.seats {
		if s.present && s.User == addr.User && (addr.Fingerprint == "" || s.Key.Fingerprint() == addr.Fingerprint) {
			found = append(found, s.Login)
		}
	}
	switch {
	case len(found) == 0:
		return identity.Login{}, fmt.Errorf("%w %s: %s", ErrNotMember, r.name, addr)
	case len(found) > 1:
		return identity.Login{}, fmt.Errorf("%w: %s: name one of them as %s or %s", ErrAmbiguous, addr.User, found[0].Address(), found[1].Address())
	case found[0].Peer == r.mesh.host.ID():
		return identity.Login{}, ErrSelf
	}
	return found[0], nil
}

// takeDirect queues a message that a member has sent to this one alone, or says why not.
func (r *Room) takeDirect(from identity.Login, msg *DirectMessage, size int) wire.DirectFrame_Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.roster.devices[from.Peer]
	if r.leaving || s == nil || s.User != from.User || s.Key != from.Key {
		return wire.DirectFrame_NOT_MEMBER
	}
	r.noteLocked(r.roster.alive(time.Now(), from.Peer))
	if !s.present {
		return wire.DirectFrame_NOT_MEMBER
	}
	if !r.queue.PushDirect(msg, size) {
		return wire.DirectFrame_QUEUE_FULL
	}
	return wire.DirectFrame_REASON_UNSPECIFIED
}

// Leave says goodbye to the others and ends the stay: whatever is queued is sent first, within 1 s or until
// ctx ends, whichever is sooner. The room's events end with [ErrLeft]. Leaving twice is harmless.
func (r *Room) Leave(ctx context.Context) error { return r.depart(ctx, ErrLeft) }

func (r *Room) depart(ctx context.Context, reason error) error {
	r.mu.Lock()
	again := r.leaving
	r.leaving = true
	own := r.own
	r.mu.Unlock()
	if again {
		<-r.ctx.Done()
		return nil
	}
	if entry, err := r.signEntry(own.statement, false, own.sequence+1); err == nil {
		r.sayGoodbye(ctx, entry, reason)
	}
	r.end(reason)
	return nil
}

func (r *Room) sayGoodbye(ctx context.Context, entry *rosterEntry, reason error) {
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	b := r.outbox.last(wire.Kind_KIND_ROSTER, entry.sealed, reason)
	select {
	case <-b.done:
	case <-ctx.Done():
		return
	case <-r.ctx.Done():
		return
	}
	if r.awaitEcho(ctx, b.first) {
		r.awaitFlow(ctx, 0)
	}
}

// awaitEcho waits until GossipSub's loop has taken the own envelope that starts at first, and queued it to the
// neighbours: Publish returns before that.
func (r *Room) awaitEcho(ctx context.Context, first uint64) bool {
	for {
		r.mu.Lock()
		echoed, changed := r.echoed, r.changed
		r.mu.Unlock()
		if echoed >= first {
			r.topic.ListPeers() // passes through the loop, so the round of the loop that echoed has ended
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-r.ctx.Done():
			return false
		}
	}
}

// end ends the stay, once, with what the readers are to see.
func (r *Room) end(reason error) {
	r.finish.Do(func() {
		m := r.mesh
		r.mu.Lock()
		r.leaving, r.why = true, reason
		neighbours := slices.Collect(maps.Keys(r.neighbours))
		r.mu.Unlock()
		m.mu.Lock()
		delete(m.rooms, r.name)
		delete(m.tags, r.tag)
		m.mu.Unlock()

		r.queue.End(reason)
		for _, b := range r.outbox.end(reason) {
			b.end(&sendError{outcome: ErrUnreachable, cause: reason})
		}
		r.stop()
		r.unsubscribe()
		for _, p := range neighbours {
			m.host.ConnManager().Unprotect(p, r.protection())
		}
	})
}

// unsubscribe is safe after any part of start.
func (r *Room) unsubscribe() {
	if r.sub != nil {
		r.sub.Cancel()
	}
	if r.peers != nil {
		r.peers.Cancel()
	}
	if r.mesh.ctx.Err() != nil {
		return // pubsub ends as a whole
	}
	_ = r.mesh.pubsub.UnregisterTopicValidator(topicName(r.tag))
	if r.topic != nil {
		if err := r.topic.Close(); err != nil {
			r.mesh.log.Debug("topic not closed", "room", r.name, "err", err)
		}
	}
}

// reason is why the stay ended, or is about to.
func (r *Room) reason() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reasonLocked()
}

func (r *Room) reasonLocked() error {
	switch {
	case r.why != nil:
		return r.why
	case r.mesh.ctx.Err() != nil:
		return ErrClosed
	}
	return ErrLeft
}

// replacedLocked ends the stay because the same user has joined from elsewhere.
func (r *Room) replacedLocked(by identity.Login) {
	r.why = ErrReplaced
	r.mesh.log.Info("replaced in a room", "room", r.name, "peer", by.Peer)
	r.mesh.goTask(func() { r.end(ErrReplaced) })
}

// Room returns the room of that name if this node is in it.
func (m *Mesh) Room(name string) (*Room, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rooms[name]
	return r, ok
}

// Rooms are those that this node is in, in no order.
func (m *Mesh) Rooms() []*Room {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Room, 0, len(m.rooms))
	for _, r := range m.rooms {
		out = append(out, r)
	}
	return out
}

// stopRooms leaves all rooms at once.
func (m *Mesh) stopRooms(rooms []*Room) {
	var wg sync.WaitGroup
	for _, r := range rooms {
		wg.Go(func() { _ = r.depart(context.Background(), ErrClosed) })
	}
	wg.Wait()
	m.stopLinks()
}

// EvictAll ends all rooms with reason and says no goodbye: for a user who is now elsewhere.
func (m *Mesh) EvictAll(reason error) {
	for _, r := range m.Rooms() {
		r.end(reason)
	}
}
