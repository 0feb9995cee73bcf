//go:build unix

package bench

import (
	"syscall"
	"time"
)

// cpuTime is what this process has used of all processors. Unlike the wall clock it does not count what other
// processes do meanwhile.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
