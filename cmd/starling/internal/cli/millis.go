package cli

import (
	"math"
	"time"
)

// Millis is a duration in milliseconds, to the microsecond.
type Millis float64

// ToMillis returns d in milliseconds.
func ToMillis(d time.Duration) Millis {
	return Millis(math.Round(float64(d)/float64(time.Microsecond)) / 1000)
}
