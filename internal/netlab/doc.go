// Package netlab connects real processes by real Ethernet, for tests. It puts network namespaces on
// a bridge, with multicast. Cables can be pulled, frames can be lost, and processes can be frozen
// or killed.
//
//	lab := netlab.New(t) // skips the test where namespaces cannot be made
//	alice, bob := lab.Node("alice"), lab.Node("bob")
//	a := alice.Start([]string{"starling", "chat", "--json", "--user", "alice"})
//	b := bob.Start([]string{"starling", "chat", "--json", "--user", "bob"})
//	line, err := b.Line(ctx, 0) // the first line that bob printed
//	bob.Unplug()                // as if somebody had pulled the cable
//	lab.Loss(5)                 // from here on, 5 % of all frames are lost
//	a.Kill()
//
// # Isolation
//
// The bridge has its own namespace, and no lab has a link to the namespace that the test runs in:
// no frame of a test can reach a real network, and the addresses (10.77.0.0/24) cannot clash with
// any other. Labs do not see each other either, so tests may run in parallel.
//
// # Cleaning up
//
// Everything is removed when the test ends, passed or failed. Processes die with the test process.
// If a test process is itself killed, the next one that makes a lab removes what it left behind:
// names contain the process ID of their maker.
//
// # Where it works
//
// On Linux, as root, with the commands ip (iproute2) and nft (nftables). Elsewhere a test that
// calls [New] is skipped, and says why. With STARLING_REQUIRE_NETNS=1 in the environment it fails
// instead, so that CI cannot pass by skipping.
package netlab
