// Package rates has the rules of how much a node may send in a time. A [Bucket] limits the node
// itself. An [Author] judges the broadcasts of one device in a room, and a [Peer] the messages that
// one peer sends to this node alone.
//
// All of them are plain state machines: the caller passes the time and holds the lock.
//
// Both judges go by the time at which the sender says that it sent, so that what the network held
// up, or what had to be fetched, is not taken for a burst. What a sender says is checked against
// the time that has passed here. An honest sender is never found guilty: what it sends is within
// [Burst], what its own delays add is within [Sealed], and the judges allow more than both.
package rates

import (
	"time"

	"github.com/starling-mesh/starling/identity"
)

const (
	// Burst is how much of a rate may be sent at once after a silence: that of a second. So a
	// sender that has used it up may send at the full rate again within a second.
	Burst = time.Second
	// Sealed is the same for the envelopes of one feed. What waits for the network is sent later
	// than it was accepted, so that a little more than a burst can come together.
	Sealed = 1250 * time.Millisecond
	// Tolerance is the same as others judge it. At twice the rate a sender exceeds it in 1.7 s.
	Tolerance = 1500 * time.Millisecond
	// MinBytes is the least limit of bytes: an envelope is not more than a second of it.
	MinBytes = 256 << 10
	// leeway is the part of the rate by which a sender may exceed it in the long run, as a divisor:
	// the clocks of two nodes need not run at one speed.
	leeway = 20
)

// costs is how long a rate takes for something, by messages and by bytes.
type costs [2]time.Duration

// cost returns how long a rate takes for so many messages and bytes.
func cost(r identity.Rate, messages, bytes int) (c costs) {
	if r.Messages > 0 {
		c[0] = time.Duration(messages) * time.Second / time.Duration(r.Messages)
	}
	if r.Bytes > 0 {
		c[1] = time.Duration(bytes) * time.Second / time.Duration(r.Bytes)
	}
	return c
}

// lenient is what a cost counts for where others judge it.
func lenient(c time.Duration) time.Duration { return c * leeway / (leeway + 1) }
