package mesh

import (
	"maps"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// partedFor is how long a neighbour whose connection has ended is remembered, and maxParted is
	// how many are: as long as members retain broadcasts by default.
	partedFor = 10 * time.Minute
	maxParted = 256
)

// parted are neighbours whose connections have ended and that have not come back, and when that
// was, or when another of them came back since: what kept them away may be over for all. It is a
// plain state machine: the caller passes the time and holds the lock.
type parted map[peer.ID]time.Time

// left notes that the connection to a neighbour has ended.
func (ps parted) left(now time.Time, p peer.ID) {
	maps.DeleteFunc(ps, func(_ peer.ID, at time.Time) bool { return now.Sub(at) >= partedFor })
	if len(ps) < maxParted {
		ps[p] = now
	}
}

// back notes a new neighbour.
func (ps parted) back(now time.Time, p peer.ID) {
	if _, ok := ps[p]; !ok {
		return
	}
	delete(ps, p)
	for other := range ps {
		ps[other] = now
	}
}

// lately calls f for neighbours that parted less than apartWait ago, until it returns true.
func (ps parted) lately(now time.Time, f func(peer.ID) bool) bool {
	for p, at := range ps {
		if now.Sub(at) < apartWait && f(p) {
			return true
		}
	}
	return false
}
