// Package bench measures Starling beside what it is built on: direct messages beside a bare echo on a libp2p
// stream, rooms beside bare GossipSub, in the same process and the same run.
//
//	bench/run          # everything, three rounds, with ratios: about four minutes
//	bench/run -short   # everything once, briefly: it checks that all of it works, and says nothing about speed
//	go -C bench test -run '^$' -bench 'Room/8' .
//
// All nodes are hosts of their own in one process, connected over TCP on loopback. Every delivery is counted where
// a program would see it. Those of Starling are checked too: each once, in order, none lost; a benchmark that
// finds otherwise fails. Of bare GossipSub, which promises none of this, what was lost is a metric.
//
// It is a module of its own, so that none of this is a dependency of programs that embed a node. The figures are
// in docs/PERFORMANCE.md.
package bench
