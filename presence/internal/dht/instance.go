package dht

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	kaddht "github.com/libp2p/go-libp2p-kad-dht"
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

// Instance is one instance of the DHT.
type Instance struct {
	Kad   *kaddht.IpfsDHT // its routing table, its server, and what sends its requests
	Rules *Rules
	Store *Store // what it keeps for others

	d      *DHT
	scope  Scope
	rpc    *pb.ProtocolMessenger
	notify *network.NotifyBundle
	wake   task.Wake // makes publish check what has changed
	renew  task.Wake // makes publish store again
	limits *lru.Cache[peer.ID, *rate.Limiter]
	silent *lru.Cache[peer.ID, time.Time] // spare nodes that did not answer, and when

	mu      sync.Mutex
	keepers []peer.ID // nodes that have our record
}

func newInstance(d *DHT, scope Scope) (*Instance, error) {
	life := scope.life()
	limits, err := lru.New[peer.ID, *rate.Limiter](maxStorers)
	if err != nil {
		return nil, err // only for a size below 1
	}
	silent, err := lru.New[peer.ID, time.Time](maxStorers)
	if err != nil {
		return nil, err
	}
	k := &Instance{
		d: d, scope: scope, silent: silent,
		Rules:  &Rules{app: d.cfg.App, verifier: d.cfg.Verifier, vouched: d.cfg.Vouched, life: life, clock: d.cfg.Clock},
		Store:  newStore(d.id, life, d.cfg.Clock),
		wake:   task.NewWake(),
		renew:  task.NewWake(),
		limits: limits,
	}
	opts := []kaddht.Option{
		kaddht.ProtocolPrefix(k.prefix()),
		kaddht.Validator(record2.NamespacedValidator{recordSpace: k.Rules}),
		kaddht.Datastore(k.Store),
		kaddht.MaxRecordAge(life),
		kaddht.ValueGCInterval(life / 2),
		kaddht.BucketSize(replicas),
		kaddht.ProviderManagerOpts(records.ProvideValidity(life), records.ProviderAddrTTL(life), records.CleanupInterval(life/2)),
		kaddht.RoutingTableRefreshQueryTimeout(refreshTimeout),
		kaddht.OnRequestHook(k.admit),
		kaddht.WithCustomMessageSender(newSender),
	}
	switch scope {
	case LAN:
		opts = append(opts, kaddht.Mode(kaddht.ModeServer))
	case WAN:
		opts = append(opts, kaddht.Mode(kaddht.ModeAutoServer), kaddht.QueryFilter(kaddht.PublicQueryFilter),
			kaddht.RoutingTableFilter(kaddht.PublicRoutingTableFilter), kaddht.AddressFilter(publicOnly))
	}
	h := d.cfg.Host
	if scope == WAN {
		h = publicHost{h}
	}
	if k.Kad, err = kaddht.New(h, opts...); err != nil {
		k.deafen() // kad-dht v0.42.2 does not
		return nil, fmt.Errorf("%s directory: %w", scope, err)
	}
	if k.rpc, err = pb.NewProtocolMessenger(k.Kad.MessageSender()); err != nil {
		return nil, errors.Join(err, k.Kad.Close())
	}
	k.notify = &network.NotifyBundle{DisconnectedF: func(_ network.Network, c network.Conn) { k.lost(c.RemotePeer()) }}
	d.cfg.Host.Network().Notify(k.notify)
	return k, nil
}

// refreshTimeout bounds one look-up with which the DHT refreshes its routing table. The library's
// default of 10 s is meant for the internet.
const refreshTimeout = 5 * time.Second

func (k *Instance) prefix() protocol.ID {
	return protocol.ID("/starling/dht/" + tag(k.d.cfg.App) + "/" + string(k.scope))
}

func (k *Instance) close() error {
	k.d.cfg.Host.Network().StopNotify(k.notify)
	k.deafen()
	return k.Kad.Close()
}

// may reports whether a node that another node has named may be dialled.
func (k *Instance) may(info peer.AddrInfo) bool {
	return k.scope != WAN || kaddht.PublicQueryFilter(k.Kad, info)
}

// lost removes a peer from the routing table when its last connection has ended; otherwise every
// look-up would try it first, and wait. A peer stays if the connection manager closed the
// connection because there were too many.
func (k *Instance) lost(p peer.ID) {
	if k.d.cfg.Host.Network().Connectedness(p) == network.Connected {
		return
	}
	if m, ok := k.d.cfg.Host.ConnManager().(interface{ GetInfo() connmgr.CMInfo }); ok {
		if info := m.GetInfo(); info.LowWater > 0 && info.ConnCount >= info.LowWater {
			return
		}
	}
	k.Kad.RoutingTable().RemovePeer(p)
}

// admit keeps a peer from storing more than its share: it empties the request, which the DHT then
// refuses.
func (k *Instance) admit(_ context.Context, s network.Stream, req *pb.Message) {
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
		k.d.limited.Add(1)
		req.Record, req.ProviderPeers = nil, nil
	}
}

// protocol is what kad-dht makes of the prefix.
func (k *Instance) protocol() protocol.ID { return k.prefix() + "/kad/1.0.0" }

// deafen removes the DHT's handler from the host.
func (k *Instance) deafen() { k.d.cfg.Host.RemoveStreamHandler(k.protocol()) }

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
