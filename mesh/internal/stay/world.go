package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// World is what a stay needs of the node around it. A stay calls it in the middle of a rule, so no
// method may block, or call the stay.
type World interface {
	// Tell queues a frame for a connected peer.
	Tell(p peer.ID, frame *wire.RoomFrame)
	// Allow reports whether a peer may be sent so many bytes of roster entries now, and counts
	// them.
	Allow(p peer.ID, bytes int) bool
	// Say publishes an item of this node's own feed.
	Say(kind wire.Kind, payload []byte)
	// AskReceipts publishes a question for receipts, and reports false if too much waits already.
	AskReceipts(payload []byte) bool
	// Deliver hands consecutive messages of one envelope to the program, and reports whether all of
	// them are in its queue. The list is the caller's own, its data is not.
	Deliver(from identity.Login, e *Envelope, list []Item) (whole bool)
	// Notice hands anything else to the program, or ends the stay.
	Notice(n Notice)
	// Pull asks a neighbour for what is missing. [Stay.Answered] ends it.
	Pull(p Pull)
	// Rehear brings a frame of receipts from a peer once more, after this call.
	Rehear(p peer.ID, frame *wire.RoomFrame_Receipts)
	// Refute signs this node's entry again, after this call: see [Stay.Renew].
	Refute()
	// Link returns how a peer is connected.
	Link(p peer.ID) Link
	// Spoke returns when a connected peer last said something over its connection; zero: not known.
	Spoke(p peer.ID) time.Time
	// Keep protects the connection to a neighbour, or no longer.
	Keep(p peer.ID, keep bool)
	// Bar lets a peer have no broadcast of the room, and no message from this node in it, or lets
	// it have them again.
	Bar(p peer.ID, barred bool)
	// Identify learns which user a connected peer has proved to be. [Stay.Proved] reports it.
	Identify(p peer.ID)
	// Unreported says that a neighbour is in the room although GossipSub does not know it.
	Unreported(p peer.ID)
	// Know takes an entry that is news: where its member listens, and as whom it is logged in.
	Know(e *Entry)
	// Ended says that this node's broadcasts through an item have ended: so many neighbours have
	// acknowledged them; 0: none has in time.
	Ended(last uint64, acked int)
	// Wake makes others look at the stay after this call.
	Wake(w Waiter)
	// Count adds to what the node counts.
	Count(c Counter, n int)
}

// Link is how a peer is connected.
type Link uint8

const (
	Apart   Link = iota // not at all
	Limited             // over a relay that limits what passes
	Linked
)

// Waiter is who waits for a change of a stay.
type Waiter uint8

const (
	ForTimer     Waiter = iota // what calls Tick
	ForPublisher               // the window of this node's own feed may have opened
	ForMembers                 // members or neighbours have changed
	ForStore                   // there is something to store
	ForProgram                 // what was held up is reported to the program now
	ForOrders                  // the orders to be kept have changed
)

// Counter is something that a stay counts.
type Counter uint8

const (
	CountMessagesTaken Counter = iota
	CountMessagesLost
	CountEnvelopesTaken
	CountEnvelopesStale
	CountEnvelopesLapsed
	CountEnvelopesSetBack
	CountEnvelopesUnclaimed
	CountReceiptsTaken
	CountReceiptFramesSent
	CountRoomFramesDropped
	CountRoomViolations
	CountForks
	CountRatesIgnored
	CountEnvelopesBarred
	CountSuspicions
	CountRefutations
	CountPutOut
	Counters int = iota // how many there are
)

// Item is a message of an envelope.
type Item struct {
	Number uint64
	Kind   wire.Kind
	Data   []byte
}

// Notice is what a stay reports beside messages: one of [Delayed], [Ready], [Joined], [Left],
// [Silent], [Heard], [Size], [Lost], [Expiring], [Replaced], [Lapsed] and [PutOut].
type Notice interface{ notice() }

type (
	// Delayed says that none of the neighbours that are there has answered yet.
	Delayed struct{ Neighbours int }
	// Ready says that the stay is ready, or again after it was cut off: so long after it began to
	// join, or was cut off. Members and messages are reported after that.
	Ready struct {
		Again   bool
		Elapsed time.Duration
	}
	// Joined says that a member is in the room.
	Joined struct{ Member Member }
	// Left says that a member is no longer in the room.
	Left struct {
		Member Member
		Reason LeaveReason
	}
	// Silent says that a member has fallen silent, and Heard that it is heard again.
	Silent struct{ Member Member }
	Heard  struct{ Member Member }
	// Size says that members cause no notices any more, or again.
	Size struct {
		Members int
		Large   bool
	}
	// Lost says that items of a feed will not come.
	Lost struct {
		From        identity.Login
		Feed        FeedID
		First, Last uint64
	}
	// Expiring says that this node's token ends soon.
	Expiring struct{ At time.Time }
	// Replaced says that the same user has joined from elsewhere: the stay is over.
	Replaced struct{ By identity.Login }
	// Lapsed says that this node's token no longer counts: the stay is over.
	Lapsed struct{ Err error }
)

func (Delayed) notice()  {}
func (Ready) notice()    {}
func (Silent) notice()   {}
func (Heard) notice()    {}
func (Joined) notice()   {}
func (Left) notice()     {}
func (Size) notice()     {}
func (Lost) notice()     {}
func (Expiring) notice() {}
func (Replaced) notice() {}
func (Lapsed) notice()   {}
