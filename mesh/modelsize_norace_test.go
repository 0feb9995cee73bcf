//go:build !race

package mesh

// simSchedules is how many random schedules are tried.
const simSchedules = 5000
