package bench

import (
	"math"
	"testing"
	"time"
)

func TestQuantilesAreWithinAThirtySecond(t *testing.T) {
	for _, scale := range []time.Duration{1, 7, time.Microsecond, 100 * time.Microsecond, 3 * time.Second} {
		var h histogram
		for i := 1; i <= 1000; i++ {
			h.add(time.Duration(i) * scale)
		}
		for _, q := range []float64{0.01, 0.5, 0.99, 1} {
			want := q * 1000 * float64(scale)
			if got := float64(h.quantile(q)); math.Abs(got-want) > want/32+1 {
				t.Errorf("scale %v: the quantile %v is %v, want %v", scale, q, time.Duration(got), time.Duration(want))
			}
		}
	}
}

func TestEveryDurationHasABucket(t *testing.T) {
	var h histogram
	for _, d := range []time.Duration{-1, 0, 1, 63, 64, 65, 127, 128, math.MaxInt64} {
		h.add(d)
		if v := value(bucket(d)); d > 0 && math.Abs(float64(v-d)) > float64(d)/32 {
			t.Errorf("%d is counted as %d", d, v)
		}
	}
	var none histogram
	if got := none.quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}
