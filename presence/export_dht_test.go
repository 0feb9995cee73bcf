package presence

import (
	"context"
	"testing"
	"time"

	record2 "github.com/libp2p/go-libp2p-record"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
)

// WithoutWhois makes inquiries ask only the DHT until the test ends.
func WithoutWhois(t testing.TB) {
	noWhois = true
	t.Cleanup(func() { noWhois = false })
}

// DHTSize returns how many nodes are in the routing table of the first instance.
func (d *Directory) DHTSize() int { return d.kads[0].dht.RoutingTable().Size() }

// DHTHas reports whether the routing table of the first instance has p.
func (d *Directory) DHTHas(p peer.ID) bool { return d.kads[0].dht.RoutingTable().Find(p) != "" }

// Keepers returns how many nodes have this node's record.
func (d *Directory) Keepers() int {
	k := d.kads[0]
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keepers)
}

// StoredBound returns how much the first instance keeps, and the most that it keeps.
func (d *Directory) StoredBound() (count, bytes, maxCount, maxBytes int) {
	s := d.kads[0].store
	count, bytes = s.size()
	return count, bytes, s.maxCount, s.maxBytes
}

// SetStoredBound sets the most entries that the first instance keeps.
func (d *Directory) SetStoredBound(count int) {
	d.kads[0].store.maxCount = count
}

// Store stores raw bytes at one peer, as a hostile node would.
func (d *Directory) Store(ctx context.Context, p peer.ID, key string, value []byte) error {
	return d.kads[0].rpc.PutValue(ctx, p, record2.MakePutRecord(key, value))
}

// StoredBytes returns what this node itself keeps under a key, in the first instance; nil: nothing.
func (d *Directory) StoredBytes(key string) []byte {
	k := d.kads[0]
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	for _, e := range k.store.m {
		rec := new(recpb.Record)
		if proto.Unmarshal(e.value, rec) == nil && string(rec.Key) == key {
			return rec.Value
		}
	}
	return nil
}

// Stored returns the record that this node itself keeps under a key, in the first instance; nil:
// none.
func (d *Directory) Stored(key string) *Record {
	r, err := d.kads[0].rules.open(d.StoredBytes(key), time.Now())
	if err != nil {
		return nil
	}
	return &Record{Statement: r.st, Addrs: r.addrs, Issued: r.issued}
}

// CheckRecord judges a record as the first instance does.
func (d *Directory) CheckRecord(key string, sealed []byte) error {
	return d.kads[0].rules.Validate(key, sealed)
}

// Named returns the addresses that a node of the directory gives for another node.
func (d *Directory) Named(ctx context.Context, asked, who peer.ID) (addrs []ma.Multiaddr) {
	closer, err := d.kads[0].rpc.GetClosestPeers(ctx, asked, who)
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

// Record is the contents of a record.
type Record struct {
	Statement *identity.Statement
	Addrs     []ma.Multiaddr
	Issued    time.Time
}

var (
	SealRecord   = sealRecord
	KeyRecordKey = keyRecordKey

	UserRecordKey = userRecordKey

	ErrRecordSize = errRecordSize
	ErrRecordKey  = errRecordKey
	ErrRecordTime = errRecordTime
	ErrRecordForm = errRecordForm
	ErrRecordMark = errRecordMark
)

// Deafen makes the node use only the DHT: it learns of no peers, and so passes on no statements.
func (d *Directory) Deafen() {
	d.host.Network().StopNotify(d.notify)
	for _, p := range protocols {
		d.host.RemoveStreamHandler(p)
	}
}

// Forget drops what the node remembers of peers that were connected.
func (d *Directory) Forget() { d.statuses.departed.Purge() }

// ForgetLost drops the peers that are remembered as lost.
func (d *Directory) ForgetLost() { d.statuses.lost.Purge() }

// Dial connects the directory's host.
func (d *Directory) Dial(ctx context.Context, to peer.AddrInfo) error { return d.host.Connect(ctx, to) }

// StopHearing keeps the host's reports of connections from the directory. HearEnd reports the end
// of one connection to it.
func (d *Directory) StopHearing()              { d.host.Network().StopNotify(d.notify) }
func (d *Directory) HearEnd(conn network.Conn) { d.disconnected(conn) }

// Hush makes the node accept hellos without answering. Unhush makes it answer them again.
func (d *Directory) Hush()   { d.host.SetStreamHandler(HelloProtocol, func(network.Stream) {}) }
func (d *Directory) Unhush() { d.host.SetStreamHandler(HelloProtocol, d.handle(d.serveHello)) }
