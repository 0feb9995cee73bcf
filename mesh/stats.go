package mesh

import "sync/atomic"

// Stats is a snapshot of what the mesh has counted since [New].
type Stats struct {
	DirectSent      uint64 // accepted by Send and SendAsync
	DirectDelivered uint64 // confirmed by the receiver
	DirectRefused   uint64 // refused by the receiver
	DirectFailed    uint64 // ended unreachable or unconfirmed
	DirectResent    uint64 // written again after a broken connection

	DirectTaken    uint64 // received and handed to the app's queue
	DirectTurned   uint64 // received and refused
	DirectRepeated uint64 // received again, answered again, not delivered again

	DirectStreamsOpened uint64 // by this node
	DirectStreamsTaken  uint64 // opened by peers and accepted
	DirectViolations    uint64 // streams reset because a peer broke the protocol
}

// counters are what Stats reads.
type counters struct {
	directSent, directDelivered, directRefused, directFailed, directResent atomic.Uint64
	directTaken, directTurned, directRepeated                              atomic.Uint64
	directStreamsOpened, directStreamsTaken, directViolations              atomic.Uint64
}

// Stats gives a snapshot of the counters. Each is read by itself: they need not add up while traffic flows.
func (m *Mesh) Stats() Stats {
	c := &m.stats
	return Stats{
		DirectSent:          c.directSent.Load(),
		DirectDelivered:     c.directDelivered.Load(),
		DirectRefused:       c.directRefused.Load(),
		DirectFailed:        c.directFailed.Load(),
		DirectResent:        c.directResent.Load(),
		DirectTaken:         c.directTaken.Load(),
		DirectTurned:        c.directTurned.Load(),
		DirectRepeated:      c.directRepeated.Load(),
		DirectStreamsOpened: c.directStreamsOpened.Load(),
		DirectStreamsTaken:  c.directStreamsTaken.Load(),
		DirectViolations:    c.directViolations.Load(),
	}
}
