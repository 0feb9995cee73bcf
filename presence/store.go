package presence

import (
	"cmp"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// Store keeps what outlives a process. [*identity.Dir] implements it. Its methods are called
// without locks, may take as long as a disk write, and must be safe for concurrent use. An error is
// logged and otherwise ignored.
type Store interface {
	Remember(identity.Remembered) error
	Remembered() []identity.Remembered
	Sequence() uint64
	SetSequence(uint64) error
}

// maxMemory bounds the peers that a node without a data directory remembers.
const maxMemory = 256

// memory is the Store of a node without a data directory.
type memory struct {
	mu       sync.Mutex
	sequence uint64
	peers    map[peer.ID]identity.Remembered
}

func newMemory() *memory { return &memory{peers: make(map[peer.ID]identity.Remembered)} }

func (m *memory) Remember(r identity.Remembered) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.Addrs = slices.Clone(r.Addrs)
	m.peers[r.Login.Peer] = r
	if len(m.peers) > maxMemory {
		oldest := r
		for _, o := range m.peers {
			if o.Seen.Before(oldest.Seen) {
				oldest = o
			}
		}
		delete(m.peers, oldest.Login.Peer)
	}
	return nil
}

func (m *memory) Remembered() []identity.Remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]identity.Remembered, 0, len(m.peers))
	for _, r := range m.peers {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b identity.Remembered) int {
		return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.Login.Peer, b.Login.Peer))
	})
	return all
}

func (m *memory) Sequence() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sequence
}

func (m *memory) SetSequence(sequence uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sequence = sequence
	return nil
}
