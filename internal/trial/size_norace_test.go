//go:build !race

package trial

const (
	// crowd is how many members most scenarios have, full how many the largest have.
	crowd = 20
	full  = 50
	// storm is for how many minutes all faults happen at once.
	storm = 10
	// random is how many random schedules whole nodes run through.
	random = 100
	// besideBare is whether bare GossipSub runs too. It does not under the race detector, since
	// nothing is asserted of it.
	besideBare = true
)

// smallStorms are the seeds of short storms.
var smallStorms = []uint64{24, 26, 33, 36, 40, 48, 49}

// usualCosts are how many members the rooms have of which TestCost measures the cost.
var usualCosts = []int{8, 20}
