package dht

import (
	"bytes"
	"context"
	"slices"
	"time"

	kaddht "github.com/libp2p/go-libp2p-kad-dht"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// replicas is how many of the nearest nodes keep a record: Kademlia's k.
	replicas = 20
	// walkers is how many nodes are asked at once. A dead node occupies one walker for askTimeout.
	walkers = 16
	// askTimeout bounds the dialling and asking of one node.
	askTimeout = 2 * time.Second
	// spareTimeout bounds the asking of a spare one, which is connected. One that was silent is
	// left alone for spareRest.
	spareTimeout = time.Second
	spareRest    = 10 * time.Second
	// maxHeard bounds the nodes that a walk considers, since other nodes name them.
	maxHeard = 256
	// maxCloser is how many nodes are taken from an answer.
	maxCloser = 2 * replicas
)

// walked is the result of a walk.
type walked struct {
	nearest  []peer.ID // those of the nearest replicas nodes that answered; the nearest first
	complete bool      // all of the nearest nodes answered, and there was at least one
	alone    bool      // there was nobody to ask
}

// asker asks one connected node. It returns the nodes that are nearer.
type asker func(ctx context.Context, p peer.ID) ([]*peer.AddrInfo, error)

// step is a node in a walk.
type step struct {
	id       peer.ID
	distance []byte
	state    stepState
	// spare: it is connected, but not in the routing table and named by nobody. It may be a node
	// that did not answer during a cut, or one that is dead, so nothing hangs on its answer.
	spare bool
}

type stepState uint8

const (
	heardOf stepState = iota
	asking
	answered
	failed
)

// path is the state of a walk: the nodes that it knows, the nearest first. It has no clock and no
// goroutine.
type path struct {
	target kb.ID
	steps  []*step
	known  map[peer.ID]*step
	// bare: it began with spare nodes alone. Then one that is silent may have what nobody else has.
	bare bool
}

func newPath(key string) *path {
	return &path{target: kb.ConvertKey(key), known: make(map[peer.ID]*step)}
}

// hear adds a node, and reports whether it is new.
func (w *path) hear(p peer.ID) bool {
	if w.known[p] != nil || len(w.steps) >= maxHeard {
		return false
	}
	id := kb.ConvertPeerID(p)
	s := &step{id: p, distance: make([]byte, len(id))}
	for i := range id {
		s.distance[i] = id[i] ^ w.target[i]
	}
	i, _ := slices.BinarySearchFunc(w.steps, s.distance, func(o *step, d []byte) int { return bytes.Compare(o.distance, d) })
	w.steps = slices.Insert(w.steps, i, s)
	w.known[p] = s
	return true
}

// next returns the node to ask next: the nearest one not asked yet. It returns nil once replicas
// nearer ones have answered or are being asked, or if none is left.
func (w *path) next() *step {
	alive := 0
	var spare *step // last, since it may cost its whole time
	for _, s := range w.steps {
		if s.state == heardOf && !s.spare {
			return s
		}
		if s.state == heardOf && spare == nil {
			spare = s
		}
		if s.state != failed {
			if alive++; alive == replicas {
				return spare
			}
		}
	}
	return spare
}

// end returns the result of the walk when there is nobody left to ask. A node that failed counts
// among the nearest, unless it was spare: it may have what was looked for.
func (w *path) end() walked {
	out := walked{complete: true, alone: true}
	i := 0
	for _, s := range w.steps {
		if s.state != answered && s.spare && !w.bare {
			continue
		}
		out.alone = out.alone && s.state != answered && s.spare
		switch {
		case s.state == answered && len(out.nearest) < replicas:
			out.nearest = append(out.nearest, s.id)
		case s.state != answered && i < replicas:
			out.complete = false
		}
		i++
	}
	out.complete = out.complete && len(out.nearest) > 0
	return out
}

// walk visits the nodes nearest to a key, and asks every node on the way. At the end it also asks
// the nodes in also that nobody has named. It ends when the nearest have answered, or with ctx. DHT
// nodes that do not answer are removed from the routing table.
func (k *Instance) walk(ctx context.Context, key string, also []peer.ID, ask asker) walked {
	type reply struct {
		s      *step
		closer []*peer.AddrInfo
		err    error
	}
	w := newPath(key)
	for _, p := range k.Kad.RoutingTable().NearestPeers(w.target, replicas) {
		w.hear(p)
	}
	w.bare = len(w.steps) == 0
	for _, p := range k.spares() {
		if w.hear(p) {
			w.known[p].spare = true
		}
	}
	replies := make(chan reply)
	under := 0
	for {
		for under < walkers && ctx.Err() == nil {
			s := w.next()
			if s == nil {
				break
			}
			s.state = asking
			under++
			limit := askTimeout
			if s.spare {
				limit = spareTimeout
			}
			go func() { // walk waits for it
				closer, err := k.askOne(ctx, s.id, limit, ask)
				replies <- reply{s, closer, err}
			}()
		}
		if under == 0 {
			if len(also) == 0 || ctx.Err() != nil {
				return w.end()
			}
			for _, p := range also { // last: by now others may have said where they are
				w.hear(p)
			}
			also = nil
			continue
		}
		r := <-replies
		under--
		if r.err != nil {
			r.s.state = failed
			if r.s.spare {
				k.silent.Add(r.s.id, k.d.cfg.Clock.Now())
			}
			if ctx.Err() == nil {
				k.d.cfg.Log.Debug("DHT node does not answer", "peer", r.s.id, "err", r.err)
				k.Kad.RoutingTable().RemovePeer(r.s.id)
			}
			continue
		}
		r.s.state = answered
		if r.s.spare {
			_, _ = k.Kad.RoutingTable().TryAddPeer(r.s.id, true, false) // a full bucket: there are enough
		}
		for i, info := range r.closer {
			if i == maxCloser {
				break
			}
			k.hearOf(w, info)
		}
	}
}

// hearOf adds a node that another node has named.
func (k *Instance) hearOf(w *path, info *peer.AddrInfo) {
	if info.ID == k.d.id || info.ID.Validate() != nil || k.d.node.Foreign(info.ID) || !k.may(*info) {
		return
	}
	if s := w.known[info.ID]; s != nil {
		s.spare = false
	}
	if w.hear(info.ID) && k.d.cfg.Host.Network().Connectedness(info.ID) != network.Connected {
		addrs := info.Addrs[:min(len(info.Addrs), wire.MaxAddrs)]
		k.d.cfg.Host.Peerstore().AddAddrs(info.ID, addrs, peerstore.TempAddrTTL)
	}
}

func (k *Instance) askOne(ctx context.Context, p peer.ID, limit time.Duration, ask asker) ([]*peer.AddrInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if k.d.cfg.Host.Network().Connectedness(p) != network.Connected {
		if err := k.d.cfg.Host.Connect(ctx, peer.AddrInfo{ID: p}); err != nil {
			return nil, err
		}
	}
	return ask(ctx, p)
}

// spares returns connected nodes of the DHT that a routing table with few nodes lacks. During a cut
// nobody answers, so walks empty the table; a connection that outlives the cut would fill it again
// after up to 2 min (kad-dht's periodicBootstrapInterval).
func (k *Instance) spares() (out []peer.ID) {
	table := k.Kad.RoutingTable()
	size := table.Size()
	if size >= replicas {
		return nil // they name the others
	}
	h := k.d.cfg.Host
	for _, p := range h.Network().Peers() {
		if len(out) == replicas-size {
			break
		}
		if h.Network().Connectedness(p) != network.Connected || table.Find(p) != "" || k.d.node.Foreign(p) ||
			k.scope == WAN && !kaddht.PublicRoutingTableFilter(k.Kad, p) {
			continue
		}
		if at, ok := k.silent.Get(p); ok && k.d.cfg.Clock.Since(at) < spareRest {
			continue
		}
		if speaks, err := h.Peerstore().SupportsProtocols(p, k.protocol()); err == nil && len(speaks) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// nodes returns how many nodes of the DHT there are to ask.
func (k *Instance) nodes() int { return k.Kad.RoutingTable().Size() + len(k.spares()) }

// seek walks to a record and calls found for every valid one, from several goroutines.
func (k *Instance) seek(ctx context.Context, key string, also []peer.ID, found func(from peer.ID, r *Record)) walked {
	return k.walk(ctx, key, also, k.ask(key, found))
}

// ask returns an asker that asks for a record and calls found with it if it is valid.
func (k *Instance) ask(key string, found func(from peer.ID, r *Record)) asker {
	return func(ctx context.Context, p peer.ID) ([]*peer.AddrInfo, error) {
		rec, closer, err := k.rpc.GetValue(ctx, p, key)
		if err != nil {
			return nil, err
		}
		if value := rec.GetValue(); value != nil {
			if r, err := k.Rules.check(key, value, k.d.cfg.Clock.Now()); err == nil {
				found(p, r)
			} else {
				k.d.cfg.Log.Debug("DHT record refused", "peer", p, "err", err)
			}
		}
		return closer, nil
	}
}

// seekName walks to the providers of a name and calls found once for each of them, up to
// maxProviders: each costs a dial.
func (k *Instance) seekName(ctx context.Context, user string, also []peer.ID, found func(peer.AddrInfo)) walked {
	key := keyOfName(k.d.cfg.App, user)
	seen := make(chan map[peer.ID]bool, 1)
	seen <- make(map[peer.ID]bool)
	return k.walk(ctx, string(key), also, func(ctx context.Context, p peer.ID) ([]*peer.AddrInfo, error) {
		provs, closer, err := k.rpc.GetProviders(ctx, p, key)
		if err != nil {
			return nil, err
		}
		var fresh []peer.AddrInfo
		known := <-seen
		for _, info := range provs {
			if info.ID != k.d.id && !known[info.ID] && len(known) < maxProviders {
				known[info.ID] = true
				fresh = append(fresh, *info)
			}
		}
		seen <- known
		for _, info := range fresh {
			found(info)
		}
		return closer, nil
	})
}

// maxProviders is how many devices that claim a name are dialled.
const maxProviders = 8
