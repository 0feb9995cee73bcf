//go:build race

package mesh

// simSchedules is how many random schedules are tried. The race detector makes each several times
// as expensive.
const simSchedules = 300
