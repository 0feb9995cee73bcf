//go:build race

package mesh

// raceEnabled makes the large simulations smaller: the race detector makes each several times as
// expensive.
const raceEnabled = true

// crowd is how many members the large simulations have. The race detector makes each several times
// as expensive.
const crowd = 40

// multitude is how many members a large room has, unless STARLING_MULTITUDE says otherwise.
const multitude = 24
