// Package bench measures Starling beside what it is built on: direct messages beside a bare echo on
// a libp2p stream, rooms beside bare GossipSub, in the same process and the same run.
//
//	bench/run          # everything, three rounds, with ratios: about four minutes
//	bench/run -short   # everything once, briefly: checks that it works, says nothing about speed
//	go -C bench test -run '^$' -bench 'Room/8' .
//
// Each node is a host of its own. All run in one process and are connected over TCP on loopback.
// Every delivery is counted where a program would see it. Starling's deliveries are also checked:
// each once, in order, none lost; otherwise the benchmark fails. Bare GossipSub promises none of
// this, so its losses are a metric.
//
// This is a module of its own, so that programs that embed a node do not depend on any of it. The
// figures are in docs/PERFORMANCE.md.
package bench
