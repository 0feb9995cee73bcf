package meshtest

import (
	"os"
	"strconv"
	"testing"
)

// long is whether the tests run in their long form.
var long = os.Getenv("STARLING_LONG") != ""

// Sized returns the usual size of a test, or the long one if the environment has STARLING_LONG. In
// their long form the tests of the project take some 15 minutes instead of 3, and do not fit under
// the race detector.
func Sized[T any](usual, atLength T) T {
	if long {
		return atLength
	}
	return usual
}

// Number returns a number from the environment, or otherwise if name is not set or empty.
func Number[T int | uint64](tb testing.TB, name string, otherwise T) T {
	tb.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 0, 63)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return T(n)
}

// Seeds returns the seeds of a test that draws what happens: the usual ones, or, if the environment
// has STARLING_RUNS, so many others from STARLING_FIRST on.
func Seeds(tb testing.TB, usual ...uint64) []uint64 {
	tb.Helper()
	runs := Number[uint64](tb, "STARLING_RUNS", 0)
	if runs == 0 {
		return usual
	}
	first := Number[uint64](tb, "STARLING_FIRST", 0)
	seeds := make([]uint64, runs)
	for i := range seeds {
		seeds[i] = first + uint64(i)
	}
	return seeds
}
