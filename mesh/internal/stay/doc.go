// Package stay has the rules of one stay in a room: who is a member, what was broadcast, what is
// missing, whom to ask for it, and what to say to whom.
//
// A [Stay] decides, and does nothing else. It has no lock, clock, goroutine, connection or source
// of chance of its own. The caller calls one method at a time, passes the time, and implements
// [World], which the stay asks for everything else. The same calls with the same times and the same
// chance have the same effects in the same order. So package mesh runs a stay on real hosts, and
// the tests here run many stays in a world of their own, in which a schedule of random faults can
// be repeated.
//
// What takes long is done outside, with no lock held: a [Door] and an [Outcome] verify signatures,
// and the stay takes what has been verified.
//
// The parts are plain state machines of their own. A [Feed] puts the broadcasts of one member into
// order. The journal has all feeds and what is missing of them, and the ring retains them for
// others. The roster has the members, and suspicion drops those that fell silent.
package stay
