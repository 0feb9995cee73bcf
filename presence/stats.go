package presence

import "sync/atomic"

// Stats counts the faults of peers, and what was refused because of them, since New.
type Stats struct {
	HelloFailed uint64 // hellos that did not complete
	Refused     uint64 // peers with which no hello is possible
	// Streams, and requests to store in the DHT, that were refused, usually because of too many.
	Limited   uint64
	BadNotice uint64 // notices, whois answers and statements in a watch that did not verify
	BadList   uint64 // lists of revocations that did not verify, or were older than the peer said
}

type counters struct {
	helloFailed, refused, limited, badNotice, badList atomic.Uint64
}

// Stats returns the counters.
func (d *Directory) Stats() Stats {
	return Stats{
		HelloFailed: d.stats.helloFailed.Load(),
		Refused:     d.stats.refused.Load(),
		Limited:     d.stats.limited.Load() + d.dht.Limited(),
		BadNotice:   d.stats.badNotice.Load(),
		BadList:     d.stats.badList.Load(),
	}
}
