//go:build !race

package trial

const (
	// crowd is how many members most scenarios have, full the largest.
	crowd = 20
	full  = 50
	// storm is how many minutes everything happens at once.
	storm = 10
)
