package stay

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// ParkedLife is how long an envelope waits for its sender's roster entry, which a neighbour is
	// asked for.
	ParkedLife = 10 * time.Second
	// MaxParked and MaxParkedBytes bound what strangers can make a room keep.
	MaxParked      = 512
	MaxParkedBytes = 8 << 20
)

// parked keeps envelopes whose sender is not in the roster yet: gossip does not wait for
// introductions. The zero value is empty.
type parked struct {
	list  []*Envelope // in the order they came
	bytes int
}

// add keeps e, and returns how many of the oldest ones it dropped for it.
func (p *parked) add(now time.Time, e *Envelope) (dropped int) {
	e.parked = now
	p.list = append(p.list, e)
	p.bytes += e.Size
	for len(p.list) > MaxParked || p.bytes > MaxParkedBytes {
		p.bytes -= p.list[0].Size
		p.list[0] = nil
		p.list = p.list[1:]
		dropped++
	}
	return dropped
}

// claim takes out the envelopes of one feed, by rising sequence.
func (p *parked) claim(device peer.ID, feed FeedID) (mine []*Envelope) {
	p.list = slices.DeleteFunc(p.list, func(e *Envelope) bool {
		if e.Peer != device || e.Feed != feed {
			return false
		}
		mine = append(mine, e)
		p.bytes -= e.Size
		return true
	})
	slices.SortFunc(mine, func(a, b *Envelope) int { return cmp.Compare(a.First, b.First) })
	return mine
}

// due returns when expire has something to do; zero: nothing waits.
func (p *parked) due() time.Time {
	if len(p.list) == 0 {
		return time.Time{}
	}
	return p.list[0].parked.Add(ParkedLife)
}

// expire drops what was not claimed in time, and returns how many envelopes that were.
func (p *parked) expire(now time.Time) (dropped int) {
	for len(p.list) > 0 && !now.Before(p.list[0].parked.Add(ParkedLife)) {
		p.bytes -= p.list[0].Size
		p.list[0] = nil
		p.list = p.list[1:]
		dropped++
	}
	return dropped
}
