package rates

import (
	"time"

	"github.com/starling-mesh/starling/identity"
)

const (
	// binTime and binCount are what the messages of a peer are counted in: the last 32 s by its own
	// clock, half a second each.
	binTime  = 500 * time.Millisecond
	binMs    = int64(binTime / time.Millisecond)
	binCount = 64
	// peerTolerance is how much more than its rate a peer may have sent by the end of a bin.
	peerTolerance = 1250 * time.Millisecond
	// peerAhead is how far the clock of a peer may have gone on beyond the time here since its
	// first message, which may have waited as long for the peer to be found.
	peerAhead = 15 * time.Second
	// oldMessages and oldBytes are how many messages are taken at once that are from before the
	// bins, or later than the time here allows: what can have waited for a connection, in a room
	// and outside. More are taken at the rate.
	oldMessages = 8192
	oldBytes    = 64 << 20
	// refusals is how many messages over the rate are refused before the peer counts as one that
	// ignores it. One more is allowed each second.
	refusals = 32
	// maxSent bounds a peer's time, in ms, so that sums do not overflow: about the year 2100.
	maxSent = 1 << 42
)

// Ruling is what a judge says of a message.
type Ruling uint8

const (
	Within  Ruling = iota
	Over           // refuse it
	Ignores        // refuse it, and take the peer for one that ignores the rate
)

// Peer judges the messages that one peer sends to this node alone, in all modes. They come in
// another order than they were sent in, and some have waited for minutes. So they are counted by
// when the peer says that it sent them, and the order in which they come does not matter.
//
// A message is also within the rate if all that has come here is, whenever it was sent: the clock
// of the peer may have been set. And a number of messages may be older than what is counted.
//
// A peer that says what is not true can have each of its half seconds counted once. So it gains
// once what it could have sent in the time that is counted, or what may be older.
type Peer struct {
	rate    identity.Rate
	bins    []bin     // by time, as a ring; nil: nothing has come yet
	used    time.Time // when something was last counted in them
	newest  int64     // the number of the last bin, by the peer's clock
	before  costs     // what had been paid for when the newest bin began, since bin 0
	base    time.Time
	shown   int64 // the latest that the peer's clock may have shown at base, in ms
	refused Bucket
	// arrived is when all that has come is paid for, by the time here alone.
	arrived [2]time.Time
}

type bin struct{ messages, bytes int }

// NewPeer returns the judge of a peer.
func NewPeer(r identity.Rate) Peer {
	return Peer{rate: r, refused: NewBucket(identity.Rate{Messages: 1}, refusals*time.Second)}
}

// Judge takes one message of so many bytes, for which the peer says when it was sent.
func (p *Peer) Judge(now time.Time, sentMs int64, bytes int) Ruling {
	counted, fits := p.count(now, min(max(sentMs, -maxSent), maxSent), bytes)
	arrived, within := p.arrived, true
	for q, c := range cost(p.rate, 1, bytes) {
		if arrived[q].Before(now) {
			arrived[q] = now
		}
		arrived[q] = arrived[q].Add(lenient(c))
		most := peerTolerance
		if !counted {
			most += old(p.rate)[q]
		}
		within = within && arrived[q].Sub(now) <= most
	}
	if within || fits {
		p.arrived = arrived
		return Within
	}
	if wait, _ := p.refused.Take(now, 1, 0); wait > 0 {
		return Ignores
	}
	return Over
}

// old returns how long a rate takes for what may be older than what is counted.
func old(r identity.Rate) costs { return cost(r, oldMessages, oldBytes) }

// count counts a message by when it was sent, and reports whether it fits there. It counts none
// that is too old, or later than the time here allows.
func (p *Peer) count(now time.Time, sentMs int64, bytes int) (counted, fits bool) {
	n := floor(sentMs, binMs)
	if now.Sub(p.used) > binCount*binTime { // also if its clock was set back
		ahead := int64(0)
		if p.bins == nil {
			p.bins, ahead = make([]bin, binCount), peerAhead.Milliseconds()
		}
		clear(p.bins)
		p.base, p.shown, p.newest, p.before = now, sentMs+ahead, n, costs{}
	}
	if n <= p.newest-binCount || !p.believes(now, sentMs, n) {
		return false, false
	}
	p.used = now
	if n > p.newest {
		p.advance(n)
	}
	b := &p.bins[index(n)]
	b.messages++
	b.bytes += bytes
	if n == p.newest && p.within(p.paid(n, p.before), n) || n < p.newest && p.recount() {
		return true, true
	}
	b.messages--
	b.bytes -= bytes
	if n < p.newest {
		p.recount()
	}
	return true, false
}

// believes reports whether the time here allows that a message was sent so late by the peer's
// clock. A clock that was set forward is believed if all that was sent is paid for by the time
// here.
func (p *Peer) believes(now time.Time, sentMs, n int64) bool {
	most := p.shown + now.Sub(p.base).Milliseconds()
	if sentMs <= most {
		return true
	}
	at := time.Duration(floor(most, binMs)) * binTime
	if paid := p.paid(p.newest, p.before); paid[0] > at || paid[1] > at {
		return false
	}
	p.base, p.shown = now, n*binMs
	return true
}

// advance begins the bin n.
func (p *Peer) advance(n int64) {
	if n-p.newest >= binCount {
		clear(p.bins)
		p.before = costs{}
		p.newest = n
		return
	}
	for p.newest < n {
		p.before = p.paid(p.newest, p.before)
		p.newest++
		p.bins[index(p.newest)] = bin{}
	}
}

// recount computes what had been paid for before the newest bin, and reports whether every bin up
// to it is within the rate.
func (p *Peer) recount() bool {
	ok, paid := true, costs{}
	for n := p.newest - binCount + 1; n <= p.newest; n++ {
		p.before = paid
		paid = p.paid(n, paid)
		ok = ok && p.within(paid, n)
	}
	return ok
}

// paid returns up to when what was sent until the end of the bin n is paid for.
func (p *Peer) paid(n int64, before costs) costs {
	b := &p.bins[index(n)]
	for q, c := range cost(p.rate, b.messages, b.bytes) {
		before[q] = max(before[q], time.Duration(n)*binTime) + lenient(c)
	}
	return before
}

// within reports whether what has been paid for is within the rate at the end of the bin n.
func (p *Peer) within(paid costs, n int64) bool {
	end := time.Duration(n+1)*binTime + peerTolerance
	return paid[0] <= end && paid[1] <= end
}

func index(n int64) int { return int((n%binCount + binCount) % binCount) }

func floor(n, by int64) int64 {
	if n < 0 {
		return (n - by + 1) / by
	}
	return n / by
}
