package rates

import (
	"time"

	"github.com/starling-mesh/starling/identity"
)

// Quantity is what a rate limits.
type Quantity uint8

const (
	Messages Quantity = iota
	Bytes
)

// Bucket lets a rate through, and a burst of it after a silence. It is full at first. The zero
// value lets everything through.
type Bucket struct {
	rate  identity.Rate
	burst time.Duration
	paid  [2]time.Time // when it will be full again, by messages and by bytes
}

// NewBucket returns a bucket for a rate that holds so much of it.
func NewBucket(r identity.Rate, burst time.Duration) Bucket { return Bucket{rate: r, burst: burst} }

// SetRate changes the rate from now on.
func (b *Bucket) SetRate(r identity.Rate) { b.rate = r }

// Take takes messages of so many bytes out of the bucket. If there is not enough, it takes nothing,
// and returns how long it will be until there is, and of what there is too little. The caller takes
// no more at once than the bucket holds.
func (b *Bucket) Take(now time.Time, messages, bytes int) (wait time.Duration, of Quantity) {
	paid := b.after(now, messages, bytes)
	for q, t := range paid {
		if short := t.Sub(now) - b.burst; short > wait {
			wait, of = short, Quantity(q)
		}
	}
	if wait == 0 {
		b.paid = paid
	}
	return wait, of
}

// Spend takes so much out of the bucket whether it is there or not, and leaves it empty at the
// least.
func (b *Bucket) Spend(now time.Time, messages, bytes int) {
	empty := now.Add(b.burst)
	for q, t := range b.after(now, messages, bytes) {
		if t.After(empty) {
			t = empty
		}
		b.paid[q] = t
	}
}

// Return puts back what was taken and is not sent.
func (b *Bucket) Return(messages, bytes int) {
	for q, c := range cost(b.rate, messages, bytes) {
		b.paid[q] = b.paid[q].Add(-c)
	}
}

// Full reports whether nothing has to be known of the bucket any more.
func (b *Bucket) Full(now time.Time) bool { return !b.paid[0].After(now) && !b.paid[1].After(now) }

// after returns when the bucket will be full again once so much has been taken.
func (b *Bucket) after(now time.Time, messages, bytes int) (paid [2]time.Time) {
	for q, c := range cost(b.rate, messages, bytes) {
		if paid[q] = b.paid[q]; paid[q].Before(now) {
			paid[q] = now
		}
		paid[q] = paid[q].Add(c)
	}
	return paid
}
