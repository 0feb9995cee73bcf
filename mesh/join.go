package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/rates"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// JoinOption is a setting of one stay in a room.
type JoinOption func(*joinConfig)

type joinConfig struct {
	info   []byte
	secret string
	token  string
	past   stay.Past
	resume map[cursorKey]place
	kept   []stay.StoredFeed // what the store has of the room
	called time.Time         // when Enter was called
}

// WithInfo sets what the other members see of this one in [Member].Info: at most 200 bytes, copied.
// The default is nothing.
func WithInfo(info []byte) JoinOption {
	return func(c *joinConfig) { c.info = append([]byte(nil), info...) }
}

// WithSecret makes the room a different one from the room of the same name with another secret or
// none. A node that does not know the secret can neither find the room nor derive its topic's name.
// The secret does not encrypt: a node that a member lets in could pass on what it receives. The
// default is none.
func WithSecret(secret string) JoinOption { return func(c *joinConfig) { c.secret = secret } }

// WithToken sets the room token, which app mode ([WithAuthority]) requires. It must name this user,
// this device and the room. In open mode it has no effect.
func WithToken(token string) JoinOption { return func(c *joinConfig) { c.token = token } }

// leaveWait bounds how long Leave waits for its goodbye to be sent.
const leaveWait = time.Second

// Join enters a room. A room need not be created before. Join returns when the room is ready:
// subscribed, and in agreement with every neighbour in the room about who else is there, and how
// far everybody's broadcasts have got. What anybody publishes from then on arrives. With no
// neighbour in the room it returns at once, alone; nodes that come later merge with it. It waits up
// to 2 s for all neighbours that are there, and up to 15 s for the answer of one. If ctx ends
// before, it leaves the room again.
//
// A user who is banned from the room gets a [*PutOutError] that says until when.
//
// It returns [ErrNoIdentity] before the node has a user, [ErrJoined] while the node is in the room,
// an *identity.IDError for a bad name, an *identity.InfoSizeError for too much info,
// and in app mode an *identity.TokenError for a token that does not admit this user on this device
// to the room.
func (m *Mesh) Join(ctx context.Context, room string, opts ...JoinOption) (*Room, error) {
	r, err := m.Enter(ctx, room, opts...)
	if err != nil {
		return nil, err
	}
	if err := r.Ready(ctx); err != nil {
		_ = r.Leave(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("join %s: %w", room, err)
	}
	return r, nil
}

// Enter is [Mesh.Join] for programs that do not wait: it returns the room before it is ready, with
// the same errors. [RoomReady] says when it is, and [JoinDelayed] that this takes long. Enter waits
// only while an earlier stay in the room is just ending, at most until ctx ends.
func (m *Mesh) Enter(ctx context.Context, room string, opts ...JoinOption) (*Room, error) {
	cfg := joinConfig{called: m.clock.Now()}
	for _, o := range opts {
		o(&cfg)
	}
	if err := errors.Join(identity.CheckRoom(room), identity.CheckInfo(cfg.info)); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !m.tasks.Enter() {
		return nil, ErrClosed
	}
	defer m.tasks.Leave()
	if err := m.takeName(ctx, room); err != nil {
		return nil, fmt.Errorf("join %s: %w", room, err)
	}
	kept, done := m.cfg.store.load(ctx, m, m.app.RoomTag(room, cfg.secret))
	defer done()
	cfg.kept = kept
	r, err := m.newRoom(room, cfg)
	if err != nil {
		m.freeName(room)
		return nil, err
	}
	if err := r.start(); err != nil {
		r.end(err)
		return nil, fmt.Errorf("join %s: %w", room, err)
	}
	return r, nil
}

// Ready waits until the room is ready, as it is once [Mesh.Join] has returned. It returns ctx's
// error, or why the stay ended before.
func (r *Room) Ready(ctx context.Context) error {
	select {
	case <-r.begun:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return r.reason()
	}
}

// takeName takes the name of a room for one stay: from before it looks at what earlier stays have
// handed up or stored, until its subscription has ended. If a stay is just ending, it waits for
// that.
func (m *Mesh) takeName(ctx context.Context, name string) error {
	for {
		m.mu.Lock()
		ended, taken := m.names[name]
		if !taken {
			m.names[name] = nil
		}
		m.mu.Unlock()
		switch {
		case !taken:
			return nil
		case ended == nil:
			return ErrJoined
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// freeName lets the room of that name be joined.
func (m *Mesh) freeName(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.names, name)
}

func (m *Mesh) newRoom(name string, cfg joinConfig) (*Room, error) {
	st, now := m.who.Self(), m.clock.Now()
	if st == nil {
		return nil, ErrNoIdentity
	}
	r := &Room{
		mesh: m, name: name, tag: m.app.RoomTag(name, cfg.secret), info: cfg.info, called: cfg.called,
		device:       identity.PublicKey(m.key.Public().(ed25519.PublicKey)),
		outbox:       newOutbox(m.cfg.linkDown),
		number:       m.stays.Add(1),
		rearm:        task.NewWake(),
		acknowledged: task.NewWake(),
		begun:        make(chan struct{}),
		keep:         task.NewWake(),
		ended:        make(chan struct{}),
	}
	r.openEvents()
	r.outbox.pace = pace{clock: m.clock, accepts: &m.broadcast, sealed: m.paces.of(r.tag, m.cfg.rates.Broadcast)}
	r.outbox.pace.all = rates.NewBucket(Rate{}, rates.Burst)
	r.outbox.holdRoom(m.cfg.rates.Room)
	r.door = stay.NewDoor(name, m.app, r.tag, m.log, m.verifier, m.cfg.authority)
	_, _ = rand.Read(r.id[:])
	resume, err := positions(cfg.resume)
	if err != nil {
		return nil, err
	}
	grant, err := r.door.Admit(cfg.token, st, now)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", name, err)
	}
	kept := m.keptOf(now, r.tag, r.door)
	own, err := r.signEntry(st, true, m.entries.next(now), cfg.token, kept.Heeds(now, r.door, st.User))
	if err != nil {
		return nil, err
	}
	own.Grant = grant
	settled := r.config(now, cfg, resume)
	settled.Kept = kept
	r.stay = stay.New(now, settled, (*world)(r))
	if m.cfg.store != nil {
		if bad := r.stay.Restore(now, cfg.kept); bad > 0 {
			m.log.Warn("damaged broadcasts in the history", "room", name, "path", m.cfg.store.path, "envelopes", bad)
		}
	}
	r.stay.Enter(now, own)
	r.ctx, r.stop = context.WithCancel(m.ctx)

	m.mu.Lock()
	defer m.mu.Unlock()
	m.rooms[name], m.tags[r.tag] = r, r
	m.cfg.store.attach(r)
	return r, nil
}

// config returns what the stay is made of.
func (r *Room) config(now time.Time, cfg joinConfig, resume map[stay.FeedTag]uint64) stay.Config {
	m := r.mesh
	c := stay.Config{
		Room: r.name, Tag: r.tag, Self: m.host.ID(), Key: m.key, Feed: stay.FeedID(r.id), Door: r.door, Past: cfg.past, Resume: resume,
		Grace: m.cfg.grace, Large: m.cfg.large, Retention: stay.Retention(m.cfg.retention), Stored: m.cfg.store != nil,
		Defiant: m.defiant, Rate: m.cfg.rates.Broadcast,
		Rand: mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64())), Log: m.log,
	}
	if cfg.past == (stay.Past{}) && cfg.resume == nil {
		c.Handed, c.Latest = m.handed.of(now, r.tag)
	}
	return c
}

// signEntry signs this node's roster entry.
func (r *Room) signEntry(st *identity.Statement, joined bool, sequence uint64, token string, heeded int64) (*stay.Entry, error) {
	r.mesh.entries.signed(sequence)
	var addrs [][]byte
	for _, a := range r.mesh.host.Addrs() {
		addrs = append(addrs, a.Bytes())
	}
	return stay.SignEntry(r.mesh.key, r.tag, stay.Entry{
		Statement: st, Feed: stay.FeedID(r.id), Sequence: sequence, Joined: joined, Info: r.info, Addrs: addrs, Token: token,
		Heeded: heeded,
	})
}

// start subscribes and announces.
func (r *Room) start() error {
	m := r.mesh
	if err := r.subscribe(); err != nil {
		return err
	}
	r.mu.Lock()
	own := r.stay.Own()
	r.mu.Unlock()
	if _, err := r.outbox.add(r.ctx, wire.Kind_KIND_ROSTER, own.Sealed, noID, accept{}); err != nil {
		return err
	}
	for _, loop := range []func(){r.echoLoop, r.peerLoop, r.publishLoop, r.timerLoop, r.keepLoop} {
		if !m.tasks.Go(loop) {
			return ErrClosed
		}
	}
	connected := slices.DeleteFunc(m.host.Network().Peers(), m.isMute)
	r.do(func(st *stay.Stay, _ time.Time) { st.AskAround(connected) })
	if !m.tasks.Go(r.begin) {
		return ErrClosed
	}
	return nil
}

// subscribe takes the room's topic, unless the stay has ended already: then nobody would give the
// topic back.
func (r *Room) subscribe() (err error) {
	r.gossip.Lock()
	defer r.gossip.Unlock()
	if r.ctx.Err() != nil {
		return r.reason()
	}
	name := topicName(r.tag)
	if err = r.mesh.pubsub.RegisterTopicValidator(name, r.forward, pubsub.WithValidatorConcurrency(gossipQueue)); err != nil {
		return err
	}
	if r.topic, err = r.mesh.pubsub.Join(name); err != nil {
		return err
	}
	if r.peers, err = r.topic.EventHandler(); err != nil {
		return err
	}
	r.sub, err = r.topic.Subscribe(pubsub.WithBufferSize(gossipQueue))
	return err
}

// noID is the number function for items that are not sends of the app.
func noID() uint64 { return 0 }

// begin waits until the room is ready, and lets the stay begin.
func (r *Room) begin() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		r.mu.Lock()
		changed := r.changed.Next()
		r.mu.Unlock()
		peers, ready, over, wait := r.topic.ListPeers(), false, false, time.Duration(0)
		r.do(func(st *stay.Stay, now time.Time) {
			var due time.Time
			if over = st.Leaving(); over {
				return
			}
			if ready, due = st.Ready(now, peers); ready {
				st.Begin(now)
				over = st.Leaving() // an order has put it out
			}
			wait = due.Sub(now)
		})
		if over {
			return
		}
		if ready {
			close(r.begun)
			return
		}
		timer.Reset(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-r.ctx.Done():
			return
		}
	}
}
