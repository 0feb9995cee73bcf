package bench

import (
	"fmt"
	"testing"
	"time"
)

// pause is the time between two messages at rest: by then their copies are gone.
const pause = time.Millisecond

// BenchmarkRoom sends broadcasts of 256 B in rooms of several sizes, each node a member:
//
//	rest  one message at a time: the latency until every other member has it
//	one   as much as one publisher can send
//	all   as much as all members can send together
//	half  all members at half of the throughput before: the latency under load
//
// An op is one message, delivered to all others.
func BenchmarkRoom(b *testing.B) {
	for _, n := range []int{2, 8, 32} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for _, m := range makers {
				if m.name == "bare-thin" && n != 8 || testing.Short() && n > 8 && m.name != "starling" {
					continue // once is enough
				}
				b.Run(m.name, func(b *testing.B) { benchmarkRoom(b, m, n) })
			}
		})
	}
}

func benchmarkRoom(b *testing.B, m maker, n int) {
	c := gather(m.open(b, n))
	defer c.disperse()
	b.Run("rest", func(b *testing.B) { benchmarkRest(b, c) })
	b.Run("one", func(b *testing.B) { benchmarkFlood(b, c, 1) })
	capacity := 0.0
	b.Run("all", func(b *testing.B) { capacity = benchmarkFlood(b, c, n) })
	b.Run("half", func(b *testing.B) { benchmarkHalf(b, c, capacity) })
}

func benchmarkRest(b *testing.B, c *crowd) {
	b.ReportAllocs()
	data := make([]byte, messageSize)
	var h histogram
	for i := range b.N {
		time.Sleep(pause)
		d, err := c.single(i%len(c.members), data)
		if err != nil {
			b.Fatal(err)
		}
		h.add(d)
	}
	h.report(b)
	b.ReportMetric(0, "ns/op") // it would include the pauses
}

func benchmarkFlood(b *testing.B, c *crowd, publishers int) (rate float64) {
	b.ReportAllocs()
	before := c.tally()
	o, err := c.flood(b.N, publishers)
	b.StopTimer()
	if err != nil {
		b.Fatal(err)
	}
	c.report(b, o, before)
	return o.rate()
}

func benchmarkHalf(b *testing.B, c *crowd, capacity float64) {
	if capacity == 0 { // only this benchmark was asked for
		o, err := c.flood(2000*len(c.members), len(c.members))
		if err != nil {
			b.Fatal(err)
		}
		capacity = o.rate()
	}
	// It publishes not b.N messages, but for the time for which they would be measured.
	b.ReportAllocs()
	before := c.tally()
	d := time.Second
	if testing.Short() {
		d = 20 * time.Millisecond
	}
	o, err := c.pace(capacity/2, d)
	b.StopTimer()
	if err != nil {
		b.Fatal(err)
	}
	c.report(b, o, before)
	o.latency.report(b)
	b.ReportMetric(100*o.rate()/capacity, "load-%")
	b.ReportMetric(0, "ns/op")
}

// tally has the counters of a room of Starling.
type tally struct{ envelopes, taken, copies, dropped float64 }

func (c *crowd) tally() tally {
	if c.stats == nil {
		return tally{}
	}
	s := c.stats()
	return tally{float64(s.EnvelopesPublished), float64(s.EnvelopesTaken), float64(s.EnvelopeCopies), float64(s.EnvelopesDropped)}
}

func (c *crowd) report(b *testing.B, o outcome, before tally) {
	b.ReportMetric(o.rate(), "deliveries/s")
	b.ReportMetric(float64(o.cpu)/float64(o.deliveries), "cpu-ns/delivery")
	if !c.strict {
		b.ReportMetric(float64(o.lost), "lost")
		b.ReportMetric(float64(o.turned), "reordered")
		return
	}
	now := c.tally()
	if o.lost > 0 || now.dropped > before.dropped {
		b.Fatalf("%d deliveries lost, %v envelopes dropped", o.lost, now.dropped-before.dropped)
	}
	messages := float64(o.deliveries) / float64(len(c.members)-1)
	b.ReportMetric(messages/(now.envelopes-before.envelopes), "msgs/envelope")
	b.ReportMetric((now.copies-before.copies)/(now.taken-before.taken), "copies")
}

func TestEveryBroadcastIsDeliveredOnceAndInOrder(t *testing.T) {
	const n = 8
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			c := gather(m.open(t, n))
			defer c.disperse()
			for _, publishers := range []int{1, n} {
				o, err := c.flood(2000, publishers)
				if err != nil {
					t.Fatal(err)
				}
				if want := int64(2000 * (n - 1)); o.lost != 0 || o.deliveries != want {
					t.Errorf("%d publishers: %d deliveries and %d lost, want %d", publishers, o.deliveries, o.lost, want)
				}
				if c.strict && o.turned > 0 {
					t.Errorf("%d publishers: %d deliveries out of order", publishers, o.turned)
				}
				if o.latency.total != uint64(o.deliveries) {
					t.Errorf("%d latencies of %d deliveries", o.latency.total, o.deliveries)
				}
			}
			if o, err := c.pace(10_000, 100*time.Millisecond); err != nil || o.lost != 0 {
				t.Errorf("at a fixed rate: %d lost, %v", o.lost, err)
			}
			if _, err := c.single(n-1, make([]byte, messageSize)); err != nil {
				t.Errorf("at rest: %v", err)
			}
			if c.stats != nil {
				if dropped := c.stats().EnvelopesDropped; dropped > 0 {
					t.Errorf("%d envelopes dropped", dropped)
				}
			}
		})
	}
}
