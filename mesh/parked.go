package mesh

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// parkedLife is how long an envelope waits for its sender's roster entry, which a neighbour is
	// asked for.
	parkedLife = 10 * time.Second
	// maxParked and maxParkedBytes bound what strangers can make a room keep.
	maxParked      = 512
	maxParkedBytes = 8 << 20
)

// parked keeps envelopes whose sender is not in the roster yet: gossip does not wait for
// introductions. The zero value is empty.
type parked struct {
	list  []*envelope // in the order they came
	bytes int
}

// add keeps e, and returns how many of the oldest ones it dropped for it.
func (p *parked) add(now time.Time, e *envelope) (dropped int) {
	e.parked = now
	p.list = append(p.list, e)
	p.bytes += e.size
	for len(p.list) > maxParked || p.bytes > maxParkedBytes {
		p.bytes -= p.list[0].size
		p.list[0] = nil
		p.list = p.list[1:]
		dropped++
	}
	return dropped
}

// claim takes out the envelopes of one feed, by rising sequence.
func (p *parked) claim(device peer.ID, feed FeedID) (mine []*envelope) {
	p.list = slices.DeleteFunc(p.list, func(e *envelope) bool {
		if e.peer != device || e.feed != feed {
			return false
		}
		mine = append(mine, e)
		p.bytes -= e.size
		return true
	})
	slices.SortFunc(mine, func(a, b *envelope) int { return cmp.Compare(a.First, b.First) })
	return mine
}

// due returns when expire has something to do; zero: nothing waits.
func (p *parked) due() time.Time {
	if len(p.list) == 0 {
		return time.Time{}
	}
	return p.list[0].parked.Add(parkedLife)
}

// expire drops what was not claimed in time, and returns how many envelopes that were.
func (p *parked) expire(now time.Time) (dropped int) {
	for len(p.list) > 0 && !now.Before(p.list[0].parked.Add(parkedLife)) {
		p.bytes -= p.list[0].size
		p.list[0] = nil
		p.list = p.list[1:]
		dropped++
	}
	return dropped
}
