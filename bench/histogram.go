package bench

import (
	"math"
	"math/bits"
	"testing"
	"time"
)

// histogram counts durations in buckets that are 1/32 of their value wide. It does not allocate.
// Only one goroutine at a time may use it.
type histogram struct {
	counts [64 * 32]uint32
	total  uint64
	most   time.Duration
}

func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 64 {
		return int(v)
	}
	shift := bits.Len64(v) - 6
	return shift*32 + int(v>>shift)
}

// value is the middle of a bucket.
func value(bucket int) time.Duration {
	if bucket < 64 {
		return time.Duration(bucket)
	}
	shift := bucket/32 - 1
	low := uint64(bucket-shift*32) << shift
	return time.Duration(low + 1<<shift/2)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
	h.most = max(h.most, d)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.most = max(h.most, o.most)
}

// quantile returns the duration that a share q of all stays within; 0 for an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.total)))
	var seen uint64
	for i, n := range h.counts {
		if seen += uint64(n); n > 0 && seen >= rank {
			return min(value(i), h.most)
		}
	}
	return h.most
}

func (h *histogram) report(b *testing.B) {
	b.ReportMetric(micro(h.quantile(0.50)), "p50-µs")
	b.ReportMetric(micro(h.quantile(0.99)), "p99-µs")
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
