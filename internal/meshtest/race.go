//go:build race

package meshtest

import "runtime"

// oneProcessor works around a fault of Go's race detector (seen up to go1.26): the timers of a
// bubble share one detector context. If two processors use it at once, the test binary dies with
// SIGSEGV in runtime.(*timer).unlockAndRun. Races are still found, since the detector compares the
// order of causes rather than times.
func oneProcessor() {
	if runtime.GOMAXPROCS(0) != 1 {
		runtime.GOMAXPROCS(1)
	}
}
