//go:build race

package mesh

// crowd is how many members the large simulations have. The race detector makes each several times as expensive.
const crowd = 40
