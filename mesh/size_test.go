package mesh

import (
	"time"

	"github.com/starling-mesh/starling/internal/meshtest"
)

var (
	// crowd is how many members the large simulations have, multitude how many a large room has.
	// 500 are as many as a room must have by default to be large.
	crowd     = meshtest.Sized(40, 200)
	multitude = meshtest.Sized(24, 500)
	// manyJoins is how often a member joins of whom nothing may be missed.
	manyJoins = meshtest.Sized(200, 1000)
	// comersLast is for how long members come and go, comersMost how many they are.
	comersLast = meshtest.Sized(10*time.Second, 30*time.Second)
	comersMost = meshtest.Sized(6, 16)
	// partedMost is how many members a busy room has that is parted.
	partedMost = meshtest.Sized(0, 24)
)
