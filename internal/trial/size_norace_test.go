//go:build !race

package trial

const (
	// crowd is how many members most scenarios have, full the largest.
	crowd = 20
	full  = 50
	// storm is how many minutes everything happens at once.
	storm = 10
	// random is how many random schedules whole nodes go through.
	random = 100
	// besideBare is whether bare GossipSub runs too. It does not under the race detector: nothing is asserted of it.
	besideBare = true
)
