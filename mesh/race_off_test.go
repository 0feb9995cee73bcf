//go:build !race

package mesh

// raceEnabled makes the large simulations smaller: the race detector makes each several times as
// expensive.
const raceEnabled = false

// crowd is how many members the large simulations have.
const crowd = 200

// multitude is how many members a large room has, unless STARLING_MULTITUDE says otherwise.
const multitude = 120
