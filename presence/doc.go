// Package presence is the directory of a node: it greets every peer, records who the peers have
// proved to be, shows who this node is, and finds users by name.
//
//	dir, err := presence.New(host, identity.NewAppID("starling"), keys, presence.WithObserver(func(ev presence.Event) {
//		if up, ok := ev.(presence.PeerUp); ok {
//			fmt.Println("met", up.Peer)
//		}
//	}))
//	if err != nil {
//		return err
//	}
//	defer dir.Close()
//	if err := dir.Login(ctx, "alice"); err != nil { // peers receive it and judge it themselves
//		return err
//	}
//	bob, err := dir.Find(ctx, identity.Address{User: "bob"}) // connected, and proved by his key
//
// # Hello
//
// On every connection the dialler opens a hello: both sides show their app and their signed
// statement, and sign the other's nonce. A node repeats the hello whenever its own statement
// changes. A peer of another app is refused, with the reason, and disconnected; for a while
// [Directory.Foreign] reports that it should not be dialled again. [Directory.Peer] returns what a
// connected peer has proved, and waits for a hello that is under way.
//
// # Finding a user
//
// Connected peers are known. To find others, a search dials remembered peers and asks eight
// connected peers, which have 300 ms to answer; with [WithDHT] it also looks in the app's DHT.
// Whatever they answer, only the user's own device decides: the search connects to it, and its
// hello must say that the user is logged in there. If only one key is found, the name is pinned to
// it. From then on another key under the name causes a [ConflictError], and a [Conflict] event
// once. alice#fingerprint names exactly one key.
//
// # One log-in per user
//
// If one user key is logged in on two devices, the later log-in stays: the higher of (sequence,
// peer ID), which all nodes compute alike. The other node logs itself out, reports [Replaced], and
// does not log in again by itself. A node that sees both sends the later statement to the earlier
// device, so the two need never meet.
//
// # Trust
//
// Nothing is believed because a peer says it. Statements are signed by the device and certified by
// the user key, so it does not matter who passes them on. Everything that a peer can send or make
// grow has a bound and a deadline. In open mode names are not unique.
//
// # Closing
//
// [Directory.Close] says good-bye, within half a second, and returns when every goroutine has
// ended. The host stays open.
package presence
