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

	MessagesPublished  uint64 // broadcasts of this node handed to GossipSub
	MessagesTaken      uint64 // broadcasts of others put into the event queues
	MessagesMissed     uint64 // of those, dropped because the program read too slowly; it gets Lagged
	MessagesLost       uint64 // items of feeds that were never received, reported by GapLost: messages at most
	EnvelopesPublished uint64 // by this node; each carries what queued while the one before was under way
	EnvelopesTaken     uint64 // of others, verified and new
	EnvelopeCopies     uint64 // written to peers, forwarded ones included
	EnvelopeDuplicates uint64 // received again
	EnvelopesRejected  uint64 // forged, altered, malformed, or of another app or room
	EnvelopesStale     uint64 // replays, and what was sent before this node joined
	EnvelopesLapsed    uint64 // of members whose token has ended or was revoked
	EnvelopesSetBack   uint64 // too far ahead of what is missing to be kept: fetched again later
	ReceiptsTaken      uint64 // receipts of this node's confirmed broadcasts: verified, wanted, and new
	ReceiptFramesTaken uint64 // frames of receipts that reached this node: its own and those that it passes on
	ReceiptFramesSent  uint64 // frames of receipts, its own and others'
	EnvelopesPulled    uint64 // fetched from neighbours because they were missing
	EnvelopesServed    uint64 // sent to neighbours that asked
	BytesServed        uint64 // of those, and of the roster entries that go with them
	Pulls              uint64 // questions to neighbours
	PullsFailed        uint64 // of those, not answered or answered with garbage
	PullsRefused       uint64 // questions of neighbours that had one under way, or came when too many others had
	EnvelopesUnclaimed uint64 // of senders whose roster entry never came
	EnvelopesDropped   uint64 // lost at a full queue of GossipSub: 0 unless a peer takes nothing
	RoomFrames         uint64 // sent to neighbours about rooms
	RoomBytes          uint64 // of those, and of the beats, which are not counted as frames
	NeighboursSilent   uint64 // neighbours whose connections were closed because they had stopped beating
	RoomFramesDropped  uint64 // to a neighbour that takes nothing, or asks for too much
	RoomViolations     uint64 // room streams reset and entries refused because a peer broke the protocol
	Forks              uint64 // members evicted because their feeds forked
	RatesIgnored       uint64 // members put out of a room because they ignored the rate of broadcasts
	EnvelopesBarred    uint64 // of those, received later and neither taken nor passed on
	Suspicions         uint64 // accusations published against members that fell silent
	Refutations        uint64 // of accusations against this node
	MembersPutOut      uint64 // other members put out here by an order
}

// counters are what Stats reads.
type counters struct {
	directSent, directDelivered, directRefused, directFailed, directResent atomic.Uint64
	directTaken, directTurned, directRepeated                              atomic.Uint64
	directStreamsOpened, directStreamsTaken, directViolations              atomic.Uint64

	messagesPublished, messagesTaken, messagesMissed, messagesLost atomic.Uint64
	envelopesPublished, envelopesTaken                             atomic.Uint64
	envelopeCopies, envelopeDuplicates, envelopesRejected          atomic.Uint64
	envelopesStale, envelopesUnclaimed, envelopesDropped           atomic.Uint64
	envelopesSetBack, envelopesPulled, envelopesServed             atomic.Uint64
	pulls, pullsFailed, pullsRefused                               atomic.Uint64
	receiptsTaken, receiptFramesTaken, receiptFramesSent           atomic.Uint64
	neighboursSilent                                               atomic.Uint64
	envelopesLapsed, roomFramesDropped, roomViolations, forks      atomic.Uint64
	ratesIgnored, envelopesBarred                                  atomic.Uint64
	membersPutOut                                                  atomic.Uint64
	suspicions, refutations, roomFrames, roomBytes, bytesServed    atomic.Uint64
}

// Stats returns a snapshot of the counters. Each is read by itself: they need not add up while
// traffic flows.
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
		MessagesPublished:   c.messagesPublished.Load(),
		MessagesTaken:       c.messagesTaken.Load(),
		MessagesMissed:      c.messagesMissed.Load(),
		MessagesLost:        c.messagesLost.Load(),
		EnvelopesPublished:  c.envelopesPublished.Load(),
		EnvelopesTaken:      c.envelopesTaken.Load(),
		EnvelopeCopies:      c.envelopeCopies.Load(),
		EnvelopeDuplicates:  c.envelopeDuplicates.Load(),
		EnvelopesRejected:   c.envelopesRejected.Load(),
		EnvelopesStale:      c.envelopesStale.Load(),
		EnvelopesLapsed:     c.envelopesLapsed.Load(),
		EnvelopesSetBack:    c.envelopesSetBack.Load(),
		ReceiptsTaken:       c.receiptsTaken.Load(),
		ReceiptFramesTaken:  c.receiptFramesTaken.Load(),
		ReceiptFramesSent:   c.receiptFramesSent.Load(),
		EnvelopesPulled:     c.envelopesPulled.Load(),
		EnvelopesServed:     c.envelopesServed.Load(),
		BytesServed:         c.bytesServed.Load(),
		Pulls:               c.pulls.Load(),
		PullsFailed:         c.pullsFailed.Load(),
		PullsRefused:        c.pullsRefused.Load(),
		EnvelopesUnclaimed:  c.envelopesUnclaimed.Load(),
		EnvelopesDropped:    c.envelopesDropped.Load(),
		RoomFrames:          c.roomFrames.Load(),
		RoomBytes:           c.roomBytes.Load(),
		NeighboursSilent:    c.neighboursSilent.Load(),
		RoomFramesDropped:   c.roomFramesDropped.Load(),
		RoomViolations:      c.roomViolations.Load(),
		Forks:               c.forks.Load(),
		RatesIgnored:        c.ratesIgnored.Load(),
		EnvelopesBarred:     c.envelopesBarred.Load(),
		Suspicions:          c.suspicions.Load(),
		Refutations:         c.refutations.Load(),
		MembersPutOut:       c.membersPutOut.Load(),
	}
}
