//go:build !race

package presence_test

// crowd is how many nodes the large simulations have.
const crowd = 50
