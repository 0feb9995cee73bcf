//go:build race

package trial

const (
	// crowd is how many members most scenarios have, full the largest. The race detector makes each several times as expensive.
	crowd = 8
	full  = 10
	// storm is how many minutes everything happens at once.
	storm = 2
	// random is how many random schedules whole nodes go through.
	random = 10
	// besideBare is whether bare GossipSub runs too. It does not under the race detector: nothing is asserted of it.
	besideBare = false
)
