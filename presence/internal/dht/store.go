package dht

import (
	"bytes"
	"context"
	"encoding/base32"
	"strings"
	"sync"
	"time"

	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/walltime"
)

// Bounds on what one node keeps for others. A record usually has about 600 bytes, so the number of
// entries is the bound; of the largest records the node keeps a thousand.
const (
	maxStored      = 8192
	maxStoredBytes = 16 << 20
)

// Store is the datastore of a DHT instance. It stores whatever validates, and anybody can make
// records that validate. When it is full, it first drops entries older than the life of a record,
// and then those farthest from this node, which other nodes are more likely to keep. So to displace
// a record, somebody has to make keys that are nearer to each of the nodes that keep it.
type Store struct {
	self     kb.ID
	life     time.Duration
	clock    walltime.Clock
	MaxCount int // entries
	MaxBytes int

	mu    sync.Mutex
	m     map[ds.Key]stored
	bytes int
}

type stored struct {
	value    []byte
	distance [32]byte
	at       time.Time
}

func newStore(self peer.ID, life time.Duration, clock walltime.Clock) *Store {
	return &Store{
		self: kb.ConvertPeerID(self), life: life, clock: clock, MaxCount: maxStored, MaxBytes: maxStoredBytes, m: make(map[ds.Key]stored),
	}
}

var _ ds.Batching = (*Store)(nil)

// distanceOf returns how far a key of the datastore is from this node. The DHT writes
// /<space>/<base32 of the DHT key>, and for providers /providers/<base32 of the DHT key>/<base32 of
// the peer>.
func (b *Store) distanceOf(key ds.Key) (d [32]byte) {
	parts := strings.Split(strings.TrimPrefix(key.String(), "/"), "/")
	text := parts[0]
	if len(parts) > 1 {
		text = parts[1]
	}
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(text)
	if err != nil {
		raw = []byte(text)
	}
	for i, x := range kb.ConvertKey(string(raw)) {
		d[i] = x ^ b.self[i]
	}
	return d
}

func (b *Store) Put(_ context.Context, key ds.Key, value []byte) error {
	now := b.clock.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	was, again := b.m[key]
	e := stored{value: bytes.Clone(value), at: now, distance: was.distance}
	if !again {
		e.distance = b.distanceOf(key)
	}
	b.m[key] = e
	b.bytes += len(value) - len(was.value)
	if len(b.m) > b.MaxCount || b.bytes > b.MaxBytes {
		b.shrinkLocked(now)
	}
	return nil
}

// shrinkLocked drops entries until the bounds are met.
func (b *Store) shrinkLocked(now time.Time) {
	for k, e := range b.m {
		if now.Sub(e.at) > b.life {
			b.dropLocked(k)
		}
	}
	for len(b.m) > b.MaxCount || b.bytes > b.MaxBytes {
		var worst ds.Key
		var far [32]byte
		first := true
		for k, e := range b.m {
			if first || bytes.Compare(e.distance[:], far[:]) > 0 {
				worst, far, first = k, e.distance, false
			}
		}
		b.dropLocked(worst)
	}
}

func (b *Store) dropLocked(key ds.Key) {
	b.bytes -= len(b.m[key].value)
	delete(b.m, key)
}

func (b *Store) Get(_ context.Context, key ds.Key) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.m[key]; ok {
		return bytes.Clone(e.value), nil
	}
	return nil, ds.ErrNotFound
}

func (b *Store) Has(_ context.Context, key ds.Key) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.m[key]
	return ok, nil
}

func (b *Store) GetSize(_ context.Context, key ds.Key) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.m[key]; ok {
		return len(e.value), nil
	}
	return -1, ds.ErrNotFound
}

func (b *Store) Delete(_ context.Context, key ds.Key) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropLocked(key)
	return nil
}

// Query reads from a snapshot.
func (b *Store) Query(_ context.Context, q dsq.Query) (dsq.Results, error) {
	b.mu.Lock()
	all := make([]dsq.Entry, 0, len(b.m))
	for k, e := range b.m {
		if q.Prefix != "" && !strings.HasPrefix(k.String(), q.Prefix) {
			continue
		}
		entry := dsq.Entry{Key: k.String(), Size: len(e.value)}
		if !q.KeysOnly {
			entry.Value = bytes.Clone(e.value)
		}
		all = append(all, entry)
	}
	b.mu.Unlock()
	return dsq.NaiveQueryApply(q, dsq.ResultsWithEntries(q, all)), nil
}

func (b *Store) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(b), nil }
func (b *Store) Sync(context.Context, ds.Key) error      { return nil }
func (b *Store) Close() error                            { return nil }

// Size returns how many entries and bytes are kept.
func (b *Store) Size() (count, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.m), b.bytes
}
