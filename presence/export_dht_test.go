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

// WithoutWhois makes inquiries ask the DHT alone until the test ends.
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

// StoredBound returns what the first instance keeps, and at most.
func (d *Directory) StoredBound() (count, bytes, maxCount, maxBytes int) {
	s := d.kads[0].store
	count, bytes = s.size()
	return count, bytes, s.maxCount, s.maxBytes
}

// SetStoredBound sets the most that the first instance keeps, and lifts the limit on what a peer may store.
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

// Stored returns the record that this node itself keeps under a key, in the first instance; nil: none.
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

// Named returns where a node of the directory says that another is.
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

// Record is what a record says.
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

// Deafen makes the node one of the DHT alone: it gets to know no peers, and so hands no statement on.
func (d *Directory) Deafen() {
	d.host.Network().StopNotify(d.notify)
	for _, p := range protocols {
		d.host.RemoveStreamHandler(p)
	}
}

// Forget drops what is remembered of peers that were connected.
func (d *Directory) Forget() { d.statuses.departed.Purge() }

// ForgetLost drops what is remembered of nodes that were connected.
func (d *Directory) ForgetLost() { d.statuses.lost.Purge() }

// Dial connects the directory's host.
func (d *Directory) Dial(ctx context.Context, to peer.AddrInfo) error { return d.host.Connect(ctx, to) }

// StopHearing keeps what the host tells of connections from the directory, and HearEnd tells it of the end of one.
func (d *Directory) StopHearing()              { d.host.Network().StopNotify(d.notify) }
func (d *Directory) HearEnd(conn network.Conn) { d.disconnected(conn) }

// Hush makes the node take hellos and answer none, and Unhush answer them again.
func (d *Directory) Hush()   { d.host.SetStreamHandler(HelloProtocol, func(network.Stream) {}) }
func (d *Directory) Unhush() { d.host.SetStreamHandler(HelloProtocol, d.handle(d.serveHello)) }
