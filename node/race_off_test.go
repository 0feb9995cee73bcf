//go:build !race

package node_test

// crowd is how many nodes connect to each other at once. The race detector makes each handshake ten
// times as expensive.
const crowd = 32
