package rates

import (
	"time"

	"github.com/starling-mesh/starling/identity"
)

const (
	// jitter is by how much less an envelope of an author may have been on its way than all before,
	// and still count for when it was sent.
	jitter = 250 * time.Millisecond
	// ownItems and ownBurst are how many items a second, and at once, a member may publish that are
	// no messages: entries, suspicions, beats, orders and questions for receipts. Two questions for
	// each message come on top. A large item counts for several.
	ownItems = 32
	ownBurst = 512
	ownBytes = 4 << 10
	// maxShorter is by how much less than the first envelopes of an author a later one can have
	// been on its way. If its clock shows that it was more, the clock was set.
	maxShorter = 5 * time.Second
	// firstWhile is how long after the first envelope of an author others may still come that were
	// held up together with it.
	firstWhile = time.Second
	// maxStep bounds the step from one of an author's times to the next, so that sums do not
	// overflow.
	maxStep = 365 * 24 * time.Hour
)

// Load is what an envelope has in it.
type Load struct {
	SentMs   int64     // the author's clock when it was sealed
	At       time.Time // when it arrived here
	Fetched  bool      // it was asked for: its age says nothing of how long envelopes take
	Messages int
	Bytes    int
	Own      int // items that are no messages, see [Weight]
}

// Weight returns for how many an item of so many bytes counts that is no message.
func Weight(bytes int) int { return 1 + bytes/ownBytes }

// Author judges what one device broadcasts in a room, envelope by envelope in the order of its
// feed.
//
// The author's time passes as its own clock says, so that an envelope counts for when it was sent,
// however late it comes. It passes no faster than the time here: an author whose clock runs ahead,
// gains nothing. It does not go back. If the clock was set, the time since the envelope before
// counts as it was here, up to [Sealed]. Envelopes that were held up and come together are behind
// the time here, so they are judged by the author's clock alone.
type Author struct {
	rate  identity.Rate
	past  time.Duration // how old the first envelope can be if it was fetched
	known bool
	sure  bool          // an envelope that was not fetched has shown lead
	base  time.Time     // the time here when the first envelope came
	at    time.Time     // the time here when the last envelope came
	shown int64         // the author's clock then
	time  time.Duration // the author's time, since the first envelope
	lead  time.Duration // by how much it may be ahead of the time since base
	paid  costs         // up to when in its time it has paid for what it has sent
	own   time.Duration // the same for what are no messages
}

// NewAuthor returns the judge of a device. An envelope that is fetched is not older than past.
func NewAuthor(r identity.Rate, past time.Duration) Author {
	return Author{rate: r, past: past}
}

// Judge takes the author's next envelope, and reports whether it is within the rate. Envelopes
// before it may be missing. After false the author is judged no further.
func (a *Author) Judge(l Load) bool {
	c := cost(a.rate, l.Messages, l.Bytes)
	a.pass(l, c)
	over := a.charge(&a.paid, c)
	if a.rate.Messages == 0 {
		return !over
	}
	own := identity.Rate{Messages: ownItems + 2*a.rate.Messages}
	a.own = max(a.own, a.time) + cost(own, l.Own, 0)[0]
	return !over && a.own-a.time <= cost(own, ownBurst, 0)[0]
}

// charge adds to what has been paid, and reports whether that is too far ahead.
func (a *Author) charge(paid *costs, c costs) (over bool) {
	for q := range paid {
		if c[q] > 0 {
			paid[q] = max(paid[q], a.time) + lenient(c[q])
			over = over || paid[q]-a.time > Tolerance
		}
	}
	return over
}

// needs returns how much time must have passed for an honest author to send so much.
func (a *Author) needs(c costs) (least time.Duration) {
	for q := range c {
		if c[q] > 0 {
			least = max(least, max(a.paid[q]-a.time, 0)+lenient(c[q])-Sealed)
		}
	}
	return least
}

// pass makes the author's time pass up to an envelope that costs so much.
func (a *Author) pass(l Load, c costs) {
	if !a.known {
		a.known, a.base, a.at, a.shown, a.sure = true, l.At, l.At, l.SentMs, !l.Fetched
		if l.Fetched {
			a.lead = a.past
		}
		return
	}
	here := l.At.Sub(a.base) + a.lead
	next := a.time + step(a.shown, l.SentMs)
	if l.SentMs < a.shown || next-here > maxShorter {
		// Its clock was set. How much time has passed shows in when envelopes came, or in what it
		// has sent. It is not more than that if this one was held up, and the next ones come with
		// it.
		gap := max(l.At.Sub(a.at), a.needs(c))
		next = max(a.time, min(here, a.time+min(gap, Sealed)))
	}
	a.shown, a.at = l.SentMs, l.At
	if next <= here {
		if !a.sure && !l.Fetched {
			a.sure, a.lead = true, next-l.At.Sub(a.base)
		}
		a.time = max(a.time, next)
		return
	}
	if l.At.Sub(a.base) < firstWhile && a.lead < maxShorter {
		a.lead = min(a.lead+next-here, maxShorter) // what comes with the first one was held up as well
		here = l.At.Sub(a.base) + a.lead
	} else {
		here += jitter
	}
	a.time = max(a.time, min(next, here))
}

// step returns how far a clock has gone from one reading to the next.
func step(from, to int64) time.Duration {
	const most = int64(maxStep / time.Millisecond)
	if d := to - from; to <= from || d > 0 && d < most {
		return time.Duration(max(d, 0)) * time.Millisecond
	}
	return maxStep
}
