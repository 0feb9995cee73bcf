package node

import (
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/presence"
)

const (
	// maxConns bounds all connections. It is above the connection manager's high watermark, so that
	// the manager can choose which connections to close. maxConnsIn leaves a quarter for the
	// connections that this node makes.
	maxConns   = 1024
	maxConnsIn = 768
	// maxStreams is 32 for each connection: a pair of GossipSub streams, three modes each way,
	// hellos, and libp2p's own.
	maxStreams = 32 * maxConns
	// maxPeerConns is TCP and QUIC over IPv4 and IPv6, dialled from both sides at once, twice.
	maxPeerConns = 16
	// maxPeerStreams bounds the streams of one peer over all protocols. With libp2p's defaults it
	// would be 256 and more.
	maxPeerStreams = 128
	// maxSubnetConns is how many connections one IPv4 address or IPv6 /56 may have. libp2p's own 8
	// would refuse the ninth node behind one NAT, and the ninth process on one machine.
	maxSubnetConns = 128
	// subnetRate and subnetBurst bound new connections a second with one address, in both
	// directions and including failed attempts. libp2p's own 0.2 and 16 would refuse our redialling
	// of a lost peer after 16 s.
	subnetRate  = 16
	subnetBurst = 256
)

// streamLimits are the streams of each protocol that one peer may have open to us. A kept stream
// may be replaced while the old one is still closing, so the limits are twice what is needed.
var streamLimits = map[protocol.ID]int{
	mesh.DirectProtocol:     8, // one for each of three modes
	mesh.RoomProtocol:       4, // one
	presence.HelloProtocol:  4,
	presence.NoticeProtocol: 4,
	presence.WhoisProtocol:  8, // one for each question under way
	pubsub.GossipSubID_v13:  4, // one
	pubsub.GossipSubID_v12:  4,
	pubsub.GossipSubID_v11:  4,
	pubsub.GossipSubID_v10:  4,
	pubsub.FloodSubID:       4,
}

// newResourceManager bounds what all peers together, one peer, one protocol and one address can
// use. Memory and file descriptors keep libp2p's limits: shares of what the machine has.
func newResourceManager() (network.ResourceManager, error) {
	scaled := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&scaled)
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: maxConns, ConnsInbound: maxConnsIn, ConnsOutbound: maxConns,
			Streams: maxStreams, StreamsInbound: maxStreams, StreamsOutbound: maxStreams,
		},
		Transient: rcmgr.ResourceLimits{ // connections that have not finished their handshake
			Conns: maxConns / 4, ConnsInbound: maxConnsIn / 4, ConnsOutbound: maxConns / 4,
			Streams: maxConns, StreamsInbound: maxConns, StreamsOutbound: maxConns,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: maxPeerConns, ConnsInbound: maxPeerConns / 2, ConnsOutbound: maxPeerConns,
			Streams: 2 * maxPeerStreams, StreamsInbound: maxPeerStreams, StreamsOutbound: maxPeerStreams,
		},
		Protocol:     make(map[protocol.ID]rcmgr.ResourceLimits),
		ProtocolPeer: make(map[protocol.ID]rcmgr.ResourceLimits),
	}
	for id, n := range streamLimits {
		in := rcmgr.LimitVal(n)
		limits.ProtocolPeer[id] = rcmgr.ResourceLimits{StreamsInbound: in, StreamsOutbound: 2 * in, Streams: 3 * in}
		all := in * maxConns
		limits.Protocol[id] = rcmgr.ResourceLimits{StreamsInbound: all, StreamsOutbound: all, Streams: all}
	}
	subnets := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: maxSubnetConns}}
	subnets6 := []rcmgr.ConnLimitPerSubnet{
		{PrefixLength: 56, ConnCount: maxSubnetConns},
		{PrefixLength: 48, ConnCount: 8 * maxSubnetConns},
	}
	attempts := []rate.SubnetLimit{{PrefixLength: 32, Limit: rate.Limit{RPS: subnetRate, Burst: subnetBurst}}}
	attempts6 := []rate.SubnetLimit{{PrefixLength: 56, Limit: rate.Limit{RPS: subnetRate, Burst: subnetBurst}}}
	return rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(limits.Build(scaled.AutoScale())),
		rcmgr.WithLimitPerSubnet(subnets, subnets6),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{ // no limit on this machine
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
				{Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: attempts, IPv6SubnetLimits: attempts6, GracePeriod: time.Minute,
			},
		}),
		rcmgr.WithMetricsDisabled(),
	)
}
