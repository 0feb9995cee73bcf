//go:build !race

package meshtest

func oneProcessor() {}
