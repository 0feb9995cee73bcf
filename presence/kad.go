package presence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	record2 "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/internal/task"
)

// Scope is how far an instance of the DHT reaches.
type Scope string

// The scopes.
const (
	LAN Scope = "lan" // every node is a server, at every address that it has
	// Only nodes with public addresses are servers, and only those addresses are passed on.
	WAN Scope = "wan"
)

// Life of a record by scope: how long a log-in that ended without a good-bye is still claimed.
// Records are stored again after a third of it.
const (
	lanLife = 3 * time.Minute
	wanLife = 30 * time.Minute
)

func (s Scope) life() time.Duration {
	if s == WAN {
		return wanLife
	}
	return lanLife
}

// Limits on what one peer may store here. An honest peer stores two records a minute, and sometimes
// repairs those of others.
const (
	storeRate  = 2
	storeBurst = 64
	maxStorers = 1024
)

// kad is one instance of the DHT.
type kad struct {
	d      *Directory
	scope  Scope
	dht    *dht.IpfsDHT
	rpc    *pb.ProtocolMessenger
	rules  *recordRules
	store  *bounded
	notify *network.NotifyBundle
	wake   task.Wake // makes publish check what has changed
	renew  task.Wake // makes publish store again
	limits *lru.Cache[peer.ID, *rate.Limiter]

	mu      sync.Mutex
	keepers []peer.ID // nodes that have our record
}

func newKad(d *Directory, scope Scope) (*kad, error) {
	life := scope.life()
	k := &kad{
		d: d, scope: scope,
		rules:  &recordRules{app: d.app, verifier: d.verifier, vouched: d.cfg.authority != nil, life: life},
		store:  newBounded(d.id, life),
		wake:   task.NewWake(),
		renew:  task.NewWake(),
		limits: newLRU[peer.ID, *rate.Limiter](maxStorers),
	}
	opts := []dht.Option{
		dht.ProtocolPrefix(k.prefix()),
		dht.Validator(record2.NamespacedValidator{recordSpace: k.rules}),
		dht.Datastore(k.store),
		dht.MaxRecordAge(life),
		dht.ValueGCInterval(life / 2),
		dht.BucketSize(replicas),
		dht.ProviderManagerOpts(records.ProvideValidity(life), records.ProviderAddrTTL(life), records.CleanupInterval(life/2)),
		dht.RoutingTableRefreshQueryTimeout(refreshTimeout),
		dht.OnRequestHook(k.admit),
		dht.WithCustomMessageSender(newSender),
	}
	switch scope {
	case LAN:
		opts = append(opts, dht.Mode(dht.ModeServer))
	case WAN:
		opts = append(opts, dht.Mode(dht.ModeAutoServer), dht.QueryFilter(dht.PublicQueryFilter),
			dht.RoutingTableFilter(dht.PublicRoutingTableFilter), dht.AddressFilter(publicOnly))
	}
	h := d.host
	if scope == WAN {
		h = publicHost{h}
	}
	var err error
	if k.dht, err = dht.New(h, opts...); err != nil {
		k.deafen() // kad-dht v0.42.2 does not
		return nil, fmt.Errorf("presence: %s directory: %w", scope, err)
	}
	if k.rpc, err = pb.NewProtocolMessenger(k.dht.MessageSender()); err != nil {
		return nil, errors.Join(err, k.dht.Close())
	}
	k.notify = &network.NotifyBundle{DisconnectedF: func(_ network.Network, c network.Conn) { k.lost(c.RemotePeer()) }}
	d.host.Network().Notify(k.notify)
	return k, nil
}

// refreshTimeout bounds one look-up with which the DHT refreshes its routing table. The library's
// default of 10 s is meant for the internet.
const refreshTimeout = 5 * time.Second

func (k *kad) prefix() protocol.ID {
	return protocol.ID("/starling/dht/" + dhtTag(k.d.app) + "/" + string(k.scope))
}

func (k *kad) close() error {
	k.d.host.Network().StopNotify(k.notify)
	k.deafen()
	return k.dht.Close()
}

// may reports whether a node that another node has named may be dialled.
func (k *kad) may(info peer.AddrInfo) bool {
	return k.scope != WAN || dht.PublicQueryFilter(k.dht, info)
}

// lost removes a peer from the routing table when its last connection has ended; otherwise every
// look-up would try it first, and wait. A peer stays if the connection manager closed the
// connection because there were too many.
func (k *kad) lost(p peer.ID) {
	if k.d.host.Network().Connectedness(p) == network.Connected {
		return
	}
	if m, ok := k.d.host.ConnManager().(interface{ GetInfo() connmgr.CMInfo }); ok {
		if info := m.GetInfo(); info.LowWater > 0 && info.ConnCount >= info.LowWater {
			return
		}
	}
	k.dht.RoutingTable().RemovePeer(p)
}

// admit keeps a peer from storing more than its share: it empties the request, which the DHT then
// refuses.
func (k *kad) admit(_ context.Context, s network.Stream, req *pb.Message) {
	switch req.GetType() {
	case pb.Message_PUT_VALUE, pb.Message_ADD_PROVIDER:
	default:
		return
	}
	p := s.Conn().RemotePeer()
	l, ok := k.limits.Get(p)
	if !ok {
		l = rate.NewLimiter(storeRate, storeBurst)
		k.limits.Add(p, l)
	}
	if !l.Allow() {
		k.d.stats.limited.Add(1)
		req.Record, req.ProviderPeers = nil, nil
	}
}

// deafen removes the DHT's handler from the host.
func (k *kad) deafen() { k.d.host.RemoveStreamHandler(k.prefix() + "/kad/1.0.0") }

func (k *kad) kick() {
	k.wake.Set()
}

// publicHost is the host as the DHT of the internet sees it. In spite of its filter, the DHT passes
// on every address of a node that is in the peerstore, and the peerstore also has those on the LAN.
type publicHost struct{ host.Host }

func (h publicHost) Peerstore() peerstore.Peerstore { return publicBook{h.Host.Peerstore()} }

type publicBook struct{ peerstore.Peerstore }

func (b publicBook) Addrs(p peer.ID) []ma.Multiaddr { return publicOnly(b.Peerstore.Addrs(p)) }

func (b publicBook) PeerInfo(p peer.ID) peer.AddrInfo { return peer.AddrInfo{ID: p, Addrs: b.Addrs(p)} }

func publicOnly(addrs []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		if manet.IsPublicAddr(a) {
			out = append(out, a)
		}
	}
	return out
}
