package presence

import (
	"bytes"
	"context"
	"sync"
	"time"

	record2 "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
)

const (
	// publishLook is how often publish looks whether there are more nodes to keep the record.
	publishLook = 3 * time.Second
	// publishTimeout bounds the walk to the nodes that shall keep the record.
	publishTimeout = 15 * time.Second
	// storeTimeout bounds the storing at one node.
	storeTimeout = 3 * time.Second
	// recheckAfter is when a fresh log-in is compared with the directory again: another one may have been stored at the same time.
	recheckAfter = 5 * time.Second
	// publishRetry is the pause after nobody took the record; it doubles up to a third of the record life.
	publishRetry = time.Second
	// tombstoneGrace is how long a log-out waits for the directory to hear of it.
	tombstoneGrace = time.Second
)

// publish keeps the log-in of this node in the DHT, behind everybody's back. It never stores a log-in that it has not first looked for: what
// others have stored of the same user decides whose log-in holds.
func (k *kad) publish() {
	moved, unsubscribe := k.movedAddrs()
	defer unsubscribe()
	var (
		p    publication
		tick = time.NewTicker(publishLook)
	)
	defer tick.Stop()
	for {
		if st, in := k.d.shown(); in && p.due(time.Now(), st, k.dht.RoutingTable().Size()) {
			kept := k.publishOnce(st)
			p.done(time.Now(), st, kept, k.dht.RoutingTable().Size(), k.scope.life()/3)
		} else if !in {
			p = publication{}
		}
		select {
		case <-k.d.ctx.Done():
			return
		case <-tick.C:
		case <-k.wake:
		case <-moved:
			p.next = time.Time{}
		}
	}
}

// publication says when to store again. It is plain: the caller brings the time.
type publication struct {
	st    *identity.Statement // stored last
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
	case nodes > p.nodes && p.kept < replicas: // there are more who could keep it
		return true
	}
	// Rounded: a third of a life must also be over when the computer has slept, where only the wall clock goes on.
	return !now.Round(0).Before(p.next.Round(0))
}

func (p *publication) done(now time.Time, st *identity.Statement, kept, nodes int, every time.Duration) {
	fresh := p.st == nil || p.st.Sequence != st.Sequence
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

// shown returns the statement of this node, and whether it is of a log-in.
func (d *Directory) shown() (*identity.Statement, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing || d.self == nil || !d.in || !d.self.LoggedIn {
		return nil, false
	}
	return d.self, true
}

// movedAddrs tells of changes of the host's addresses.
func (k *kad) movedAddrs() (moved <-chan any, stop func()) {
	sub, err := k.d.host.EventBus().Subscribe(new(event.EvtLocalAddressesUpdated), eventbus.Name("starling/directory"))
	if err != nil {
		return nil, func() {}
	}
	return sub.Out(), func() { _ = sub.Close() }
}

// publishOnce stores a statement of this node and returns how many nodes have it. What they had of another device is taken in first.
func (k *kad) publishOnce(st *identity.Statement) (kept int) {
	ctx, cancel := context.WithTimeout(k.d.ctx, publishTimeout)
	defer cancel()
	var (
		key  = k.rules.key(st)
		mu   sync.Mutex
		best *record
	)
	hear := func(_ peer.ID, r *record) {
		mu.Lock()
		defer mu.Unlock()
		if best == nil || r.newer(best) {
			best = r
		}
	}
	where := k.seek(ctx, key, nil, hear)
	if best != nil && !k.d.compare(best, st) {
		return 0
	}
	now, _ := k.d.shown()
	if now == nil || now.Sequence != st.Sequence || len(where.nearest) == 0 {
		return 0
	}
	sealed, err := sealRecord(k.d.keys, now, k.told(), time.Now(), k.scope.life())
	if err != nil {
		k.d.cfg.log.Error("seal record", "err", err)
		return 0
	}
	k.mu.Lock()
	k.keepers = where.nearest // from here on a log-out has something to bury
	k.mu.Unlock()
	var provided sync.WaitGroup
	defer provided.Wait()
	if !k.rules.vouched {
		provided.Go(func() { k.provide(ctx, now.User) })
	}
	keepers := k.put(ctx, key, sealed, where.nearest)
	// Storing says little: a node may have had a newer one by then. So look again.
	best = nil
	keepers = k.check(ctx, key, sealed, keepers, hear)
	if best != nil && !bytes.Equal(best.sealed, sealed) {
		k.d.compare(best, now)
	}
	k.d.cfg.log.Debug("log-in stored", "scope", k.scope, "nodes", len(keepers))
	return len(keepers)
}

// told are the addresses that a record gives.
func (k *kad) told() []ma.Multiaddr {
	if k.scope == WAN {
		return publicOnly(k.d.host.Addrs())
	}
	return k.d.host.Addrs()
}

// put stores at the given nodes, and returns those that say that they have it.
func (k *kad) put(ctx context.Context, key string, sealed []byte, nodes []peer.ID) []peer.ID {
	rec := record2.MakePutRecord(key, sealed)
	return k.each(ctx, nodes, func(ctx context.Context, p peer.ID) bool {
		return k.rpc.PutValue(ctx, p, rec) == nil
	})
}

// check asks nodes for what they have, and returns those that have exactly this.
func (k *kad) check(ctx context.Context, key string, sealed []byte, nodes []peer.ID, hear func(peer.ID, *record)) []peer.ID {
	return k.each(ctx, nodes, func(ctx context.Context, p peer.ID) bool {
		rec, _, err := k.rpc.GetValue(ctx, p, key)
		if err != nil {
			return false
		}
		if bytes.Equal(rec.GetValue(), sealed) {
			return true
		}
		if r, err := k.rules.check(key, rec.GetValue(), time.Now()); err == nil {
			hear(p, r)
		}
		return false
	})
}

// provide says that this device is one of the name's.
func (k *kad) provide(ctx context.Context, user string) {
	key := nameKey(k.d.app, user)
	where := k.walk(ctx, string(key), nil, func(ctx context.Context, p peer.ID) ([]*peer.AddrInfo, error) {
		_, closer, err := k.rpc.GetProviders(ctx, p, key)
		return closer, err
	})
	self := peer.AddrInfo{ID: k.d.id, Addrs: k.told()}
	if len(self.Addrs) == 0 {
		return
	}
	k.each(ctx, where.nearest, func(ctx context.Context, p peer.ID) bool {
		return k.rpc.PutProviderAddrs(ctx, p, key, self) == nil
	})
}

// each calls do for every node at once, and returns those for which it holds.
func (k *kad) each(ctx context.Context, nodes []peer.ID, do func(context.Context, peer.ID) bool) []peer.ID {
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

// compare draws the conclusions from what the directory has of our user, and reports whether ours should be stored.
func (d *Directory) compare(r *record, ours *identity.Statement) bool {
	d.Observe(r.st)
	if r.st.Peer == d.id {
		return true
	}
	if !r.st.Newer(ours) {
		if loggedIn(r.st, time.Now()) {
			d.visit(r) // it has to go, and learns that by our hello
		}
		return true
	}
	if loggedIn(r.st, time.Now()) {
		return false
	}
	// A later log-in elsewhere has ended. Ours goes on, and needs a sequence that ranks above that.
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing || !d.in || d.self == nil || !r.st.Newer(d.self) {
		return false
	}
	d.highest = max(d.highest, r.st.Sequence)
	sequence, err := d.newSelfLocked(true)
	if err != nil {
		d.cfg.log.Error("sign statement", "err", err)
		return false
	}
	d.goLocked(func() { _ = d.keepSequence(sequence, nil) })
	return false
}

// visit connects to the device of a record, for the hello that follows.
func (d *Directory) visit(r *record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.goLocked(func() {
		ctx, cancel := context.WithTimeout(d.ctx, confirmTimeout)
		defer cancel()
		_ = d.host.Connect(ctx, peer.AddrInfo{ID: r.st.Peer, Addrs: r.addrs})
	})
}

// bury tells the nodes that keep the record of the log-in that it is over, best effort, for at most a second.
func (d *Directory) bury(ctx context.Context) {
	d.mu.Lock()
	st := d.self
	d.mu.Unlock()
	if st == nil || st.LoggedIn || len(d.kads) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tombstoneGrace)
	defer cancel()
	var wg sync.WaitGroup
	for _, k := range d.kads {
		wg.Go(func() {
			k.mu.Lock()
			keepers := k.keepers
			k.keepers = nil
			k.mu.Unlock()
			if len(keepers) == 0 {
				return
			}
			sealed, err := sealRecord(d.keys, st, nil, time.Now(), k.scope.life())
			if err != nil {
				d.cfg.log.Error("seal record", "err", err)
				return
			}
			k.put(ctx, k.rules.key(st), sealed, keepers)
		})
	}
	wg.Wait()
}
