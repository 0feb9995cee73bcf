// Package presence is the directory of a node: it greets every peer, keeps who they proved to be, says who this node
// is, and finds users by name.
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
//	if err := dir.Login(ctx, "alice"); err != nil { // asks nobody: peers are told, and judge by themselves
//		return err
//	}
//	bob, err := dir.Find(ctx, identity.Address{User: "bob"}) // connected, and proved by his key, when it returns
//
// # Hello
//
// On every connection the dialler opens a hello: both show their app and their signed statement, and sign the other's
// nonce. It is repeated whenever the own statement changes. A peer of another app is refused, with the reason, and
// disconnected; [Directory.Foreign] says for a while that it is not worth another dial. [Directory.Peer] gives what a
// connected peer has proved, and waits for a hello that is under way.
//
// # Finding a user
//
// Connected peers are known. Beyond them, remembered peers are dialled and eight connected peers are asked, who have
// 300 ms to answer. Whatever they say, only the user's own device decides: it is connected, and its hello must say
// that the user is logged in there. A name is pinned to the key that is found, if only one is; from then on another key
// under the name is a [ConflictError], and a [Conflict] event once. alice#fingerprint names one key exactly.
//
// # One log-in per user
//
// Where one user key is logged in on two devices, the later log-in stays: the higher of (sequence, peer ID), which
// all nodes compute alike. The other node logs itself out, reports [Displaced], and does not come back by itself.
// Whoever sees both hands the later statement to the earlier device, so that the two need never meet.
//
// # Trust
//
// Nothing is believed because a peer says it: statements are signed by the device and certified by the user key,
// whoever passes them on. Everything that a peer can send or make grow has a bound and a deadline. Open names are not
// unique.
//
// # Closing
//
// [Directory.Close] says good-bye, within half a second, and returns when every goroutine has ended. The host stays
// open.
package presence
