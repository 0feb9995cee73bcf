// Package node is a mesh node that a program embeds: it joins rooms, sends to users and hears about both, with no server
// anywhere.
//
//	n, err := node.New(node.WithApp("acme.ops"), node.WithDataDir(dir)) // opens sockets, waits for nobody
//	if err != nil {
//		return err
//	}
//	defer n.Close()
//	if err := n.Login(ctx, "alice"); err != nil { // waits for nobody either: a node alone logs in
//		return err
//	}
//	room, err := n.Join(ctx, "ops") // returns when the room is ready: what is published from now on is not lost
//	if err != nil {
//		return err
//	}
//	if _, err := room.PublishText(ctx, "hello"); err != nil { // to all in the room
//		return err
//	}
//	if _, err := room.SendText(ctx, "bob", "psst"); err != nil { // to one of them; nil: bob's program has it
//		return err
//	}
//	if _, err := n.SendText(ctx, "carol", "lunch?"); err != nil { // to a logged-in user in no room
//		return err
//	}
//	for ev, err := range room.Events(ctx) { // queued since Join
//		if err != nil {
//			return err
//		}
//		if msg, ok := ev.(*mesh.Message); ok {
//			fmt.Printf("%s: %s\n", msg.From, msg.Data)
//		}
//	}
//
// # Finding others
//
// On a local network nodes of one app find each other by mDNS, with nothing configured. Elsewhere a node is given peers
// ([WithPeers], [Node.Connect]); with a data directory it remembers those that it has met. A peer that is lost is dialled again at once,
// then every second, then less often: for ever if it was given or is a member of a joined room, and more often for a room. When the machine has slept or changed its network,
// dead connections are found and closed, and everybody is dialled anew.
//
// # Who is who
//
// A device key gives the node its peer ID; a user key says who the user is. Names are self-claimed and not unique:
// "alice" means the key that the name is pinned to, "alice#fingerprint" exactly one. The first message to the one who has
// the name pins it, and so does an answer to what a key has written: see [Node.Pinned]. Somebody else under that name
// is an [IdentityConflict] event and gets no messages meant for the other, in rooms or out of them; while two keys have a
// name that is not pinned, it means neither. The same user key on two devices is one user:
// the later log-in wins, and the other device hears [LoggedOut] with [Duplicate] and is out of its rooms.
//
// Nodes of different apps ([WithApp]) that happen to connect refuse each other before anything else is said.
//
// # Events
//
// What happens outside rooms comes from [Node.Recv] or [Node.Events], in one order; each room has a stream of its own. Readers
// pull, so a handler may call anything. A reader that is too slow loses broadcasts, and is told how many; messages to this user
// alone are refused to their senders instead, and nothing else is dropped. docs/EVENTS.md has the JSON form.
//
// # Results of a send
//
// A nil error means that the receiver's node has put the message into its program's queue. [mesh.ErrUnreachable] means that it certainly was not
// sent, [mesh.ErrUnconfirmed] that nobody knows, a [*mesh.RefusedError] that the receiver said no, and [presence.ErrNotFound] that the user is
// not logged in anywhere that could be asked.
//
// # Contexts and Close
//
// A context bounds one call. [Node.Close] leaves the rooms, logs out, and returns when every goroutine of the node has ended and every
// call has returned, within 2 s.
//
// # Limits
//
// 65,536 bytes a message, 128 characters an ID, 200 bytes of user info, 1024 connections, 128 streams a peer, and a few
// of each protocol. What a peer can make the node keep is bounded everywhere.
package node
