package stay

import (
	"time"

	"github.com/starling-mesh/starling/identity"
)

// FeedID names the numbered broadcasts of one node during one stay in a room. It is random.
type FeedID [16]byte

// Member is a user in a room.
type Member struct {
	identity.Login
	Role  string    // what its room token says; empty in open mode
	Info  []byte    // what the member passed to Join
	Since time.Time // when this node learnt of the member
}

// LeaveReason is why a member is no longer in a room.
type LeaveReason string

const (
	Quit    LeaveReason = "quit"    // it said goodbye
	Dropped LeaveReason = "dropped" // it fell silent and the grace is over, or its token has ended
	Evicted LeaveReason = "evicted" // it signed broadcasts that contradict each other, or ignored the rate of broadcasts
	Kicked  LeaveReason = "kicked"  // an order has put it out: a kick, a ban or a dismissal
)

// Retention bounds the broadcasts that a stay keeps, its own and those of others, so that members
// that missed some can fetch them.
type Retention struct {
	Messages int
	Bytes    int           // of envelopes as they travel
	Age      time.Duration // since they were published, as far as ages add up along the way
}
