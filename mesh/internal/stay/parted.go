package stay

import (
	"maps"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// partedFor, the default retention, is how long a member is remembered whose connection has
	// ended. maxParted bounds how many are: the latest.
	partedFor = 10 * time.Minute
	maxParted = 256
)

// parted are members that were neighbours until their connections ended, and have not come back. It
// is a plain state machine: the caller passes the time and holds the lock.
type parted map[peer.ID]absence

type absence struct {
	ended time.Time // when the connection ended
	since time.Time // the same, or when another parted member came back: what kept them away may be over for all
}

// left notes that the connection to a member has ended.
func (ps parted) left(now time.Time, p peer.ID) {
	ps.forget(now)
	if _, known := ps[p]; !known && len(ps) >= maxParted {
		oldest := p
		for other, at := range ps {
			if oldest == p || at.ended.Before(ps[oldest].ended) {
				oldest = other
			}
		}
		delete(ps, oldest)
	}
	ps[p] = absence{now, now}
}

// back notes a new neighbour, and reports whether it had parted.
func (ps parted) back(now time.Time, p peer.ID) bool {
	ps.forget(now)
	if _, ok := ps[p]; !ok {
		return false
	}
	delete(ps, p)
	for other, at := range ps {
		ps[other] = absence{at.ended, now}
	}
	return true
}

func (ps parted) forget(now time.Time) {
	maps.DeleteFunc(ps, func(_ peer.ID, at absence) bool { return now.Sub(at.ended) >= partedFor })
}

// lately calls f for members that parted, or that another one came back after, less than ApartWait
// ago, until f returns true.
func (ps parted) lately(now time.Time, f func(peer.ID) bool) bool {
	for p, at := range ps {
		if now.Sub(at.since) < ApartWait && f(p) {
			return true
		}
	}
	return false
}
