package presence

import (
	"context"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record2 "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/presence/internal/dht"
	"github.com/starling-mesh/starling/presence/internal/dhttest"
)

// WithoutWhois makes inquiries ask only the DHT until the test ends.
func WithoutWhois(t testing.TB) {
	noWhois = true
	t.Cleanup(func() { noWhois = false })
}

// instance returns the first instance of the DHT.
func (d *Directory) instance() *dht.Instance { return d.dht.Instances()[0] }

// dhtMessenger returns what sends requests of the first instance.
func (d *Directory) dhtMessenger() *pb.ProtocolMessenger {
	rpc, err := pb.NewProtocolMessenger(d.instance().Kad.MessageSender())
	if err != nil {
		panic(err)
	}
	return rpc
}

// DHTSize returns how many nodes are in the routing table of the first instance.
func (d *Directory) DHTSize() int { return d.instance().Kad.RoutingTable().Size() }

// DHTHas reports whether the routing table of the first instance has p.
func (d *Directory) DHTHas(p peer.ID) bool { return d.instance().Kad.RoutingTable().Find(p) != "" }

// Keepers returns how many nodes have this node's record.
func (d *Directory) Keepers() int { return d.instance().Keepers() }

// StoredBound returns how much the first instance keeps, and the most that it keeps.
func (d *Directory) StoredBound() (count, bytes, maxCount, maxBytes int) {
	s := d.instance().Store
	count, bytes = s.Size()
	return count, bytes, s.MaxCount, s.MaxBytes
}

// SetStoredBound sets the most entries that the first instance keeps.
func (d *Directory) SetStoredBound(count int) { d.instance().Store.MaxCount = count }

// Store stores raw bytes at one peer, as a hostile node would.
func (d *Directory) Store(ctx context.Context, p peer.ID, key string, value []byte) error {
	return d.dhtMessenger().PutValue(ctx, p, record2.MakePutRecord(key, value))
}

// StoredBytes returns what this node itself keeps under a key, in the first instance; nil: nothing.
func (d *Directory) StoredBytes(key string) []byte {
	return dhttest.Kept(d.instance().Store, key)
}

// Stored returns the record that this node itself keeps under a key, in the first instance; nil:
// none.
func (d *Directory) Stored(key string) *dht.Record {
	r, err := d.instance().Rules.Open(d.StoredBytes(key), time.Now())
	if err != nil {
		return nil
	}
	return r
}

// Named returns the addresses that a node of the directory gives for another node.
func (d *Directory) Named(ctx context.Context, asked, who peer.ID) (addrs []ma.Multiaddr) {
	closer, err := d.dhtMessenger().GetClosestPeers(ctx, asked, who)
	if err != nil {
		return nil
	}
	for _, info := range closer {
		if info.ID == who {
			addrs = append(addrs, info.Addrs...)
		}
	}
	return addrs
}

// Deafen makes the node use only the DHT: it learns of no peers, and so passes on no statements.
func (d *Directory) Deafen() {
	d.host.Network().StopNotify(d.notify)
	for _, p := range protocols {
		d.host.RemoveStreamHandler(p)
	}
}

// Forget drops what the node remembers of peers that were connected.
func (d *Directory) Forget() { d.finder.statuses.departed.Purge() }

// ForgetLost drops the peers that are remembered as lost.
func (d *Directory) ForgetLost() { d.finder.statuses.lost.Purge() }

// Dial connects the directory's host.
func (d *Directory) Dial(ctx context.Context, to peer.AddrInfo) error { return d.host.Connect(ctx, to) }

// StopHearing keeps the host's reports of connections from the directory. HearEnd reports the end
// of one connection to it.
func (d *Directory) StopHearing()              { d.host.Network().StopNotify(d.notify) }
func (d *Directory) HearEnd(conn network.Conn) { d.hellos.disconnected(conn) }

// Hush makes the node accept hellos without answering. Unhush makes it answer them again.
func (d *Directory) Hush()   { d.host.SetStreamHandler(HelloProtocol, func(network.Stream) {}) }
func (d *Directory) Unhush() { d.host.SetStreamHandler(HelloProtocol, d.handle(d.hellos.serveHello)) }
