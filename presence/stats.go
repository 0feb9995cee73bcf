package presence

import "sync/atomic"

// Stats counts what peers did wrong, and what was done against it, since New.
type Stats struct {
	HelloFailed uint64 // hellos that did not complete
	Refused     uint64 // peers with which no hello is possible
	Limited     uint64 // streams that were refused because the peer opened too many
	BadNotice   uint64 // notices and whois answers that did not verify
	BadList     uint64 // lists of revocations that did not verify, or were older than the peer had said
}

type counters struct {
	helloFailed, refused, limited, badNotice, badList atomic.Uint64
}

// Stats returns the counters.
func (d *Directory) Stats() Stats {
	return Stats{
		HelloFailed: d.stats.helloFailed.Load(),
		Refused:     d.stats.refused.Load(),
		Limited:     d.stats.limited.Load(),
		BadNotice:   d.stats.badNotice.Load(),
		BadList:     d.stats.badList.Load(),
	}
}
