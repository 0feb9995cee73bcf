// Package archtest keeps the imports between the packages of this module pointing down:
//
//	cmd, examples → node → {mesh, presence} → identity → internal/wire
//
// mesh and presence import neither each other nor node, so each can run on any libp2p host, even a
// simulated one. The table in its test says which package may import which. A new package must be
// added to that table before it is used.
//
// Another test keeps the packages that only decide, such as mesh/internal/stay, from having locks,
// clocks, goroutines or connections. A third one makes the rest of a node read the time from the
// node's own clock.
package archtest
