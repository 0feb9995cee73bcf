package dht

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	record2 "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"

	"github.com/starling-mesh/starling/identity"
)

const (
	// publishLook is how often publish checks whether there are more nodes to keep the record,
	// publishHaste how often while none keeps it. The DHT adds a new peer a few round trips after
	// it has connected, without reporting it.
	publishLook  = 3 * time.Second
	publishHaste = 250 * time.Millisecond
	// publishTimeout bounds the storing of a record, and seekTimeout the walk to the nodes that are
	// to keep it: a few peers that name dead nodes can make the walk as long as they like.
	publishTimeout = 15 * time.Second
	seekTimeout    = 10 * time.Second
	// storeTimeout bounds storing at one node.
	storeTimeout = 3 * time.Second
	// recheckAfter is when a fresh log-in is compared with the directory again: another one may
	// have been stored at the same time.
	recheckAfter = 5 * time.Second
	// publishRetry is the pause after no node accepted the record; it doubles up to a third of the
	// record's life.
	publishRetry = time.Second
	// tombstoneGrace is how long a log-out waits until the directory has it.
	tombstoneGrace = time.Second
)

// publish keeps this node's log-in in the DHT, in the background. It never stores a log-in without
// having first looked for others of the same user: they decide whose log-in stands.
func (k *Instance) publish() {
	moved, unsubscribe := k.movedAddrs()
	defer unsubscribe()
	var (
		p    publication
		look = time.NewTimer(0)
	)
	defer look.Stop()
	for {
		st := k.d.node.Shown()
		if st != nil && p.due(k.d.cfg.Clock.Now(), st, k.nodes()) {
			kept := k.publishOnce(st, p.fresh(st))
			p.done(k.d.cfg.Clock.Now(), st, kept, k.nodes(), k.scope.life()/3)
		} else if st == nil {
			p = publication{}
		}
		pause := publishLook
		if st != nil && p.kept == 0 && len(k.d.cfg.Host.Network().Peers()) > 0 {
			pause = publishHaste
		}
		look.Reset(pause)
		select {
		case <-k.d.ctx.Done():
			return
		case <-look.C:
		case <-k.wake:
		case <-moved:
			p.next = time.Time{}
		case <-k.renew:
			p.next = time.Time{}
		}
	}
}

// publication decides when to store again. It has no clock: the caller passes the time.
type publication struct {
	st    *identity.Statement // the statement stored last
	next  time.Time
	nodes int // in the routing table then
	kept  int
	fails int
	again bool // the log-in was compared a second time
}

func (p *publication) due(now time.Time, st *identity.Statement, nodes int) bool {
	switch {
	case nodes == 0:
		return false
	case p.st == nil, p.st.Sequence != st.Sequence, p.st.LoggedIn != st.LoggedIn:
		return true
	case nodes > p.nodes && p.kept < replicas: // there are more nodes that could keep it
		return true
	}
	// Round strips the monotonic clock: a third of the life must also be over when the computer has
	// slept, during which only the wall clock advances.
	return !now.Round(0).Before(p.next.Round(0))
}

// fresh reports whether this log-in has not been stored yet.
func (p *publication) fresh(st *identity.Statement) bool {
	return p.st == nil || p.st.Sequence != st.Sequence
}

func (p *publication) done(now time.Time, st *identity.Statement, kept, nodes int, every time.Duration) {
	fresh := p.fresh(st)
	p.st, p.kept, p.nodes = st, kept, nodes
	if kept == 0 {
		p.next = now.Add(min(publishRetry<<min(p.fails, 10), every))
		p.fails++
		return
	}
	p.fails = 0
	p.next = now.Add(every)
	switch {
	case fresh:
		p.again, p.next = false, now.Add(recheckAfter)
	case !p.again:
		p.again = true
	}
}

// movedAddrs reports changes of the host's addresses.
func (k *Instance) movedAddrs() (moved <-chan any, stop func()) {
	sub, err := k.d.cfg.Host.EventBus().Subscribe(new(event.EvtLocalAddressesUpdated), eventbus.Name("starling/directory"))
	if err != nil {
		return nil, func() {}
	}
	return sub.Out(), func() { _ = sub.Close() }
}

// found is what the directory has about other devices of our user, while our record is being
// stored.
type found struct {
	mu   sync.Mutex
	best *Record
	seen map[peer.ID]bool
}

// hear adds a record. If our log-in ends the record's, its device is notified at once.
func (f *found) hear(d *DHT, ours *identity.Statement, r *Record) {
	if r.Statement.Peer == d.id { // from us, or from a copy of this node
		d.node.Observe(r.Statement)
		return
	}
	f.mu.Lock()
	again := f.seen[r.Statement.Peer]
	f.seen[r.Statement.Peer] = true
	if f.best == nil || r.newer(f.best) {
		f.best = r
	}
	f.mu.Unlock()
	if !again && ours.Newer(r.Statement) && r.Statement.LoggedInAt(d.cfg.Clock.Now()) {
		d.visit(r)
	}
}

// take returns the newest record, once.
func (f *found) take() *Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.best
	f.best = nil
	return r
}

// publishOnce stores a statement of this node and returns how many nodes have it. It first
// considers the records of other devices that those nodes had. Finding the nearest nodes can take
// seconds, since a dead node costs that long. A fresh log-in does not wait for it: the nearest
// nodes already known get it at once.
func (k *Instance) publishOnce(st *identity.Statement, fresh bool) (kept int) {
	ctx, cancel := context.WithTimeout(k.d.ctx, publishTimeout)
	defer cancel()
	sealed, err := Seal(k.d.cfg.Keys, st, k.told(), k.d.cfg.Clock.Now(), k.scope.life())
	if err != nil {
		k.d.cfg.Log.Error("seal record", "err", err)
		return 0
	}
	var (
		key    = k.Rules.key(st)
		others = found{seen: make(map[peer.ID]bool)}
		hear   = func(_ peer.ID, r *Record) { others.hear(k.d, st, r) }
		early  sync.WaitGroup
		have   []peer.ID // from the early storing
	)
	if fresh {
		early.Go(func() { have = k.putEarly(ctx, st, key, sealed, hear) })
		if !k.Rules.vouched {
			early.Go(func() {
				k.provideTo(ctx, keyOfName(k.d.cfg.App, st.User), k.near(string(keyOfName(k.d.cfg.App, st.User))))
			})
		}
	}
	seeking, enough := context.WithTimeout(ctx, seekTimeout)
	where := k.seek(seeking, key, nil, hear)
	enough()
	early.Wait()
	if best := others.take(); best != nil && !k.d.compare(best, st) {
		return 0
	}
	k.keep(append(slices.Clone(where.nearest), have...))
	now := k.d.stillShown(st)
	if now == nil || len(where.nearest) == 0 {
		return 0
	}
	var provided sync.WaitGroup
	defer provided.Wait()
	if !k.Rules.vouched {
		provided.Go(func() { k.provide(ctx, now.User) })
	}
	keepers := k.put(ctx, key, sealed, where.nearest)
	// A confirmation says little: a node may meanwhile have received a newer record. So look again.
	keepers = k.check(ctx, key, sealed, keepers, hear)
	if best := others.take(); best != nil {
		k.d.compare(best, now)
	}
	k.d.cfg.Log.Debug("log-in stored", "scope", k.scope, "nodes", len(keepers))
	return len(keepers)
}

// stillShown returns the current statement if it is of the same log-in, or nil. The caller has
// called keep before, so that a log-out after this buries what is stored now.
func (d *DHT) stillShown(st *identity.Statement) *identity.Statement {
	if now := d.node.Shown(); now != nil && now.Sequence == st.Sequence {
		return now
	}
	return nil
}

// keep records the nodes that are about to have our record: from here on a log-out has something to
// retract.
func (k *Instance) keep(nodes []peer.ID) {
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keepers = nodes
}

// Keepers returns how many nodes have this node's record, or are about to have it.
func (k *Instance) Keepers() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keepers)
}

// near returns the known nodes nearest to a key, without asking anybody.
func (k *Instance) near(key string) []peer.ID {
	return k.Kad.RoutingTable().NearestPeers(kb.ConvertKey(key), replicas)
}

// putEarly stores at the nearest known nodes. It first asks each for its record, which a newer one
// would replace.
func (k *Instance) putEarly(ctx context.Context, st *identity.Statement, key string, sealed []byte, hear func(peer.ID, *Record)) []peer.ID {
	nodes := k.near(key)
	k.keep(slices.Clone(nodes))
	rec := record2.MakePutRecord(key, sealed)
	return k.each(ctx, nodes, func(ctx context.Context, p peer.ID) bool {
		_, err := k.askOne(ctx, p, askTimeout, k.ask(key, hear))
		return err == nil && k.d.stillShown(st) != nil && k.rpc.PutValue(ctx, p, rec) == nil
	})
}

// told returns the addresses to put in a record.
func (k *Instance) told() []ma.Multiaddr {
	if k.scope == WAN {
		return publicOnly(k.d.cfg.Host.Addrs())
	}
	return k.d.cfg.Host.Addrs()
}

// put stores at the given nodes, and returns those that confirm it.
func (k *Instance) put(ctx context.Context, key string, sealed []byte, nodes []peer.ID) []peer.ID {
	rec := record2.MakePutRecord(key, sealed)
	return k.each(ctx, nodes, func(ctx context.Context, p peer.ID) bool {
		return k.rpc.PutValue(ctx, p, rec) == nil
	})
}

// check asks nodes for their record, and returns those that have exactly this one.
func (k *Instance) check(ctx context.Context, key string, sealed []byte, nodes []peer.ID, hear func(peer.ID, *Record)) []peer.ID {
	return k.each(ctx, nodes, func(ctx context.Context, p peer.ID) bool {
		rec, _, err := k.rpc.GetValue(ctx, p, key)
		if err != nil {
			return false
		}
		if bytes.Equal(rec.GetValue(), sealed) {
			return true
		}
		if r, err := k.Rules.check(key, rec.GetValue(), k.d.cfg.Clock.Now()); err == nil {
			hear(p, r)
		}
		return false
	})
}

// provide announces this device as one of those with the user's name.
func (k *Instance) provide(ctx context.Context, user string) {
	key := keyOfName(k.d.cfg.App, user)
	where := k.walk(ctx, string(key), nil, func(ctx context.Context, p peer.ID) ([]*peer.AddrInfo, error) {
		_, closer, err := k.rpc.GetProviders(ctx, p, key)
		return closer, err
	})
	k.provideTo(ctx, key, where.nearest)
}

func (k *Instance) provideTo(ctx context.Context, key multihash.Multihash, nodes []peer.ID) {
	self := peer.AddrInfo{ID: k.d.id, Addrs: k.told()}
	if len(self.Addrs) == 0 {
		return
	}
	k.each(ctx, nodes, func(ctx context.Context, p peer.ID) bool {
		return k.rpc.PutProviderAddrs(ctx, p, key, self) == nil
	})
}

// each calls do for every node at once, and returns those for which it returns true.
func (k *Instance) each(ctx context.Context, nodes []peer.ID, do func(context.Context, peer.ID) bool) []peer.ID {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ok := make([]bool, len(nodes))
	var wg sync.WaitGroup
	for i, p := range nodes {
		wg.Go(func() { ok[i] = do(ctx, p) })
	}
	wg.Wait()
	var out []peer.ID
	for i, p := range nodes {
		if ok[i] {
			out = append(out, p)
		}
	}
	return out
}

// compare draws the conclusions from what the directory has about our user, and reports whether our
// record should be stored.
func (d *DHT) compare(r *Record, ours *identity.Statement) bool {
	d.node.Observe(r.Statement)
	if r.Statement.Peer == d.id {
		return true
	}
	if !r.Statement.Newer(ours) {
		return true // it has to log out: see visit
	}
	if r.Statement.LoggedInAt(d.cfg.Clock.Now()) {
		return false
	}
	// A later log-in elsewhere has ended. Observe has made ours rank above it; that statement is
	// stored next.
	return false
}

// The device of an earlier log-in is dialled until it has to store its record again, a minute later
// on a LAN. It then learns of ours. For 5 s after a failed dial, libp2p does not dial again.
const (
	visitTries   = 6
	visitPause   = 6 * time.Second
	visitTimeout = 4 * time.Second // for one dial
)

// visit connects to the device of an earlier log-in of our user. From the hello that follows, the
// device learns that it has to log out.
func (d *DHT) visit(r *Record) {
	d.tasks.Go(func() {
		for range visitTries {
			ctx, cancel := context.WithTimeout(d.ctx, visitTimeout)
			err := d.cfg.Host.Connect(ctx, peer.AddrInfo{ID: r.Statement.Peer, Addrs: r.Addrs})
			cancel()
			if err == nil {
				return
			}
			d.cfg.Log.Debug("earlier log-in not told", "peer", r.Statement.Peer, "err", err)
			pause := time.NewTimer(visitPause)
			select {
			case <-pause.C:
			case <-d.ctx.Done():
			}
			pause.Stop()
			if st := d.node.Shown(); st == nil || !st.Newer(r.Statement) {
				return
			}
		}
	})
}

// retract sends the end of the log-in to the nodes that keep its record.
func (k *Instance) retract(ctx context.Context, st *identity.Statement) {
	k.mu.Lock()
	keepers := k.keepers
	k.keepers = nil
	k.mu.Unlock()
	if len(keepers) == 0 {
		return
	}
	sealed, err := Seal(k.d.cfg.Keys, st, nil, k.d.cfg.Clock.Now(), k.scope.life())
	if err != nil {
		k.d.cfg.Log.Error("seal record", "err", err)
		return
	}
	k.put(ctx, k.Rules.key(st), sealed, keepers)
}
