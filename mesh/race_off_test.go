//go:build !race

package mesh

// crowd is how many members the large simulations have.
const crowd = 200
