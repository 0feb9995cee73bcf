// Package meshtest simulates a network of libp2p hosts, with faults, for tests in a
// [testing/synctest] bubble:
//
//	func TestAMessageSurvivesACut(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			net := meshtest.New(t, meshtest.Options{Hosts: 3, Latency: 10 * time.Millisecond})
//			net.Chain()                        // 0 - 1 - 2
//			…                                  // build what is under test on net.Host(0), net.Host(1), net.Host(2)
//			net.Cut(1, 2)                      // packets between these two vanish
//			time.Sleep(time.Minute)            // costs no real time
//			net.Heal()
//		})
//	}
//
// # What is real and what is not
//
// The hosts are ordinary libp2p hosts: swarm, identify, TLS and QUIC are real. Only the UDP socket
// under QUIC is simulated. A packet takes [Options.Latency] plus up to [Options.Jitter], queues if
// [Options.Bandwidth] is set, and may be dropped by a fault. The receiving socket's own reader
// reads it, without any goroutine in between, so no slow or stopped host can delay the packets of
// others. CPU costs no virtual time: measure throughput elsewhere.
//
// # Time
//
// [New] must be called inside the bubble, as must everything that uses the hosts. What the test
// builds on the hosts must be closed before the test's function returns; the network itself is
// closed by the test's cleanup, still inside the bubble, or earlier by [Net.Close].
//
// Under -race, [New] leaves the test binary on one processor (GOMAXPROCS): the race detector itself
// crashes when two processors run the timers of one bubble.
//
// A bubble has one clock for all. A node whose clock is wrong reads the time from a [Clock].
//
// # Faults
//
// Faults drop packets silently, including those in flight: no host gets an error, as with a pulled
// cable. [Net.Cut], [Net.Split] and [Net.Drop] separate hosts, [Net.Heal] joins them again;
// [Net.Loss] loses packets at random; [Net.Pause] freezes a host as seen from the others (its own
// timers continue); [Net.Kill] ends one without a good-bye and [Net.Restart] brings it back with
// its key and address. Methods take host numbers from 0 and may be called from any goroutine; a
// number that does not exist is a bug of the test and panics.
//
// # Repeating a failure
//
// Keys, topologies and losses come from one seed, [Options.Seed], logged when the test fails and
// overridden by the environment variable STARLING_SEED. The scheduler's choices do not depend on
// it: a seed repeats the setting, not each interleaving.
package meshtest
