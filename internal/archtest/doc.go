// Package archtest keeps the arrows between the packages of this module pointing down:
//
//	cmd, examples → node → {mesh, presence} → identity → internal/wire
//
// mesh and presence know neither each other nor node, so each can run on any libp2p host, a simulated one included. The
// table in its test says who may import whom. A new package belongs into that table before it can be used.
package archtest
