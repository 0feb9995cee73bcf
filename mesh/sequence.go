package mesh

import (
	"sync/atomic"
	"time"

	"github.com/starling-mesh/starling/identity"
)

// entrySequence is the highest sequence of a roster entry that this node has signed, over all its
// rooms and stays. Rooms sign concurrently.
type entrySequence struct{ highest atomic.Uint64 }

// next returns the sequence of a new stay: above all that were signed, as far as others would
// believe it.
func (s *entrySequence) next(now time.Time) uint64 {
	return s.raise(func(highest uint64) uint64 { return identity.NextSequence(highest, now) })
}

// signed notes a sequence that was chosen without next: one above that of the stay's last entry.
func (s *entrySequence) signed(sequence uint64) { s.raise(func(uint64) uint64 { return sequence }) }

// raise sets the highest sequence to choose(highest), if that is higher, and returns
// choose(highest). If another room comes in between, choose is called again.
func (s *entrySequence) raise(choose func(highest uint64) uint64) uint64 {
	for {
		highest := s.highest.Load()
		n := choose(highest)
		if n <= highest || s.highest.CompareAndSwap(highest, n) {
			return n
		}
	}
}
