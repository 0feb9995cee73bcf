package meshtest

import "os"

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
