//go:build race

package meshtest

import "runtime"

// oneProcessor works around Go's race detector (seen up to go1.26): a bubble's timers share one detector context, which two
// processors then use at once, and the test binary dies with SIGSEGV in runtime.(*timer).unlockAndRun. Races are found all
// the same, since the detector compares causes and not moments.
func oneProcessor() {
	if runtime.GOMAXPROCS(0) != 1 {
		runtime.GOMAXPROCS(1)
	}
}
