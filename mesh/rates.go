package mesh

import (
	"errors"
	"fmt"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh/internal/rates"
)

// Rates are what [WithRates] sets: how much one sender may send in a second.
type Rates = identity.Rates

// Rate is how much of one kind of message a sender may send in a second.
type Rate = identity.Rate

// DefaultRates bound bytes alone, by about what a link of 10 Gbit/s carries.
var DefaultRates = Rates{Direct: Rate{Bytes: 1 << 30}, Broadcast: Rate{Bytes: 1 << 30}}

// MinRateBytes is the least rate of bytes that New accepts, other than 0.
const MinRateBytes = rates.MinBytes

// maxRate bounds each rate: 16 Gbit/s in bytes. An int of 32 bits holds it.
const maxRate = 2_000_000_000

func checkRates(r Rates) error {
	var errs []error
	for _, c := range []struct {
		name  string
		value int
		least int
	}{
		{"direct messages", r.Direct.Messages, 1},
		{"direct bytes", r.Direct.Bytes, MinRateBytes},
		{"broadcasts", r.Broadcast.Messages, 1},
		{"bytes of broadcasts", r.Broadcast.Bytes, MinRateBytes},
		{"broadcasts in a room", r.Room, 1},
		{"broadcasts in a large room", r.LargeRoom, 1},
	} {
		if c.value != 0 && (c.value < c.least || c.value > maxRate) {
			errs = append(errs, fmt.Errorf("a rate of %d %s a second is neither 0 nor in %d to %d", c.value, c.name, c.least, maxRate))
		}
	}
	return errors.Join(errs...)
}

// ErrRateExceeded says that a message is over a rate of [WithRates]; [RateError] says over which.
// Nothing was sent. Within a second the full rate is there again.
var ErrRateExceeded = errors.New("rate exceeded")

// RateLimit is one of the limits that [Rates] have.
type RateLimit uint8

const (
	DirectMessages    RateLimit = iota // Rates.Direct.Messages
	DirectBytes                        // Rates.Direct.Bytes
	BroadcastMessages                  // Rates.Broadcast.Messages
	BroadcastBytes                     // Rates.Broadcast.Bytes
	RoomMessages                       // Rates.Room, or Rates.LargeRoom in a large room
)

var rateText = map[RateLimit]string{
	DirectMessages:    "direct messages",
	DirectBytes:       "bytes of direct messages",
	BroadcastMessages: "broadcasts",
	BroadcastBytes:    "bytes of broadcasts",
	RoomMessages:      "broadcasts in the room",
}

func (l RateLimit) String() string {
	if s, ok := rateText[l]; ok {
		return s
	}
	return fmt.Sprintf("rate limit %d", uint8(l))
}

// RateError reports a message over a rate. It matches [ErrRateExceeded]. Nothing was sent.
type RateError struct {
	Limit RateLimit
	Rate  int // what is allowed in a second
	// After is how long it takes, if nothing else is sent, until a message like this one is within
	// the rate. It is more than 0.
	After time.Duration
}

func (e *RateError) Error() string {
	return fmt.Sprintf("rate exceeded: %d %v a second", e.Rate, e.Limit)
}

// Is makes a RateError match [ErrRateExceeded].
func (e *RateError) Is(target error) bool { return target == ErrRateExceeded }
