//go:build race

package presence_test

// crowd is how many nodes the large simulations have. The race detector makes each of them several
// times as expensive.
const crowd = 20
