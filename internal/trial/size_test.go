package trial

import "github.com/starling-mesh/starling/internal/meshtest"

var (
	// crowd is how many members most scenarios have, full how many the largest have.
	crowd = meshtest.Sized(8, 20)
	full  = meshtest.Sized(10, 50)
	// storm is for how many minutes all faults happen at once.
	storm = meshtest.Sized(2, 10)
	// random is how many random schedules whole nodes run through.
	random = meshtest.Sized[uint64](10, 100)
	// besideBare is whether bare GossipSub runs too, to compare: nothing is asserted of it.
	besideBare = meshtest.Sized(false, true)
	// usualCosts are how many members the rooms have of which TestCost measures the cost.
	usualCosts = meshtest.Sized([]int{8}, []int{8, 20})
	// smallStorms are the seeds of short storms.
	smallStorms = meshtest.Sized([]uint64{33, 48, 49}, []uint64{24, 26, 33, 36, 40, 48, 49})
)
