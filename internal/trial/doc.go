// Package trial puts rooms beside bare GossipSub: both go through the same schedule of faults, in virtual time.
//
// Its tests are the table of faults. A schedule (seeded, the seed printed) says what happens when: who publishes, which links are
// cut and come back, who is killed, restarted, paused, how many packets are lost. A run executes it with one driver: *ours* is a
// [github.com/starling-mesh/starling/node] for each member, *bare* is GossipSub with its defaults, and *bare with redial* tries
// each second to restore its links. All three have the same links, and none looks for others.
//
// # Who must have a message
//
// Every member that was in the room when it was published, but its sender, and stayed to the end, the other side of a split
// included. A stay ends with a kill: a restarted member owes and is owed anew. What a killed member had published counts if its
// Publish had reported success before the kill.
//
// # What is asserted
//
// Of ours: all of it arrives, once, in each sender's order, nothing is reported lost, and what a fault held up is there 2 s after
// the link's return: after the first moment, packets passing again, at which a packet has crossed between two hosts that the fault
// had kept apart and both of them call that a connection. The table also tells the time since packets pass, which adds the time to redial. Where no link
// was lost, as after a loss of packets, they count from the fault's end. Of the others nothing is asserted: they are measured.
//
//	go test ./internal/trial -v -run TestFaults     # prints the table at the end
//	STARLING_SEED=7 go test ./internal/trial -v     # the same table from another seed
package trial
