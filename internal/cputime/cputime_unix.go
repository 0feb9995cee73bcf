//go:build unix

package cputime

import (
	"syscall"
	"time"
)

// Now returns the processor time used since the process began, by itself and by the system for it;
// 0 if that is not known.
func Now() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
