// Package trial compares rooms with bare GossipSub: both go through the same schedule of faults, in
// virtual time.
//
// Its tests make the table of faults. A schedule (seeded, the seed printed) says what happens when:
// who publishes, which links are cut and come back, who is killed, restarted or paused, how many
// packets are lost. A run executes it with one driver. *ours* is a
// [github.com/starling-mesh/starling/node] for each member, *bare* is GossipSub with its defaults,
// and *bare with redial* tries each second to restore its links. All three have the same links, and
// none looks for others.
//
// # Who must have a message
//
// Each member that was in the room when the message was published and stayed to the end, on either
// side of a split, except the sender. A stay ends with a kill; for a restarted member a new stay
// begins, both as a sender and as a receiver. What a killed member published counts if its Publish
// had reported success before the kill.
//
// # What is asserted
//
// For ours: every message arrives, once, in each sender's order, and none is reported lost. What a
// fault delayed is there 2 s after the link's return. The link's return is the first moment, once
// packets pass again, at which a packet has crossed between two hosts that the fault had kept apart
// and both of them call that a connection. The table also shows the time since packets pass, which
// adds the time to redial. Where no link was lost, for example after packet loss, both times count
// from the fault's end. For the others nothing is asserted: they are measured.
//
//	go test ./internal/trial -v -run TestFaults     # prints the table at the end
//	STARLING_SEED=7 go test ./internal/trial -v     # the same table from another seed
package trial
