//go:build race

package trial

const (
	// crowd is how many members most scenarios have, full how many the largest have. The race
	// detector makes each member several times as expensive.
	crowd = 8
	full  = 10
	// storm is for how many minutes all faults happen at once.
	storm = 2
	// random is how many random schedules whole nodes run through.
	random = 10
	// besideBare is whether bare GossipSub runs too. It does not under the race detector, since
	// nothing is asserted of it.
	besideBare = false
)

// smallStorms are the seeds of short storms.
var smallStorms = []uint64{33}

// usualCosts are how many members the rooms have of which TestCost measures the cost.
var usualCosts = []int{8}
