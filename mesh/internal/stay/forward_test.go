package stay

import (
	"testing"
	"time"
)

func TestTransitTellsTheTimeInQueuesWhateverTheClocksSay(t *testing.T) {
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour} {
		var tr transit
		start := time.Now()
		for i, c := range []struct{ took, want time.Duration }{
			{30 * time.Millisecond, 0}, // the fastest so far
			{20 * time.Millisecond, 0},
			{25 * time.Millisecond, 5 * time.Millisecond},
			{220 * time.Millisecond, 200 * time.Millisecond},
			{20 * time.Millisecond, 0},
		} {
			if got := tr.late(start.Add(skew), start.Add(c.took)); got != c.want {
				t.Errorf("skew %v, envelope %d: %v late, want %v", skew, i, got, c.want)
			}
		}
	}
}
