// Package node is a mesh node that a program embeds. The node joins rooms, sends messages to users
// and reports what happens, without any server.
//
//	n, err := node.New(node.WithApp("acme.ops"), node.WithDataDir(dir)) // waits for no peer
//	if err != nil {
//		return err
//	}
//	defer n.Close()
//	if err := n.Login(ctx, "alice"); err != nil { // a node alone can log in
//		return err
//	}
//	room, err := n.Join(ctx, "ops") // returns when the room is ready
//	if err != nil {
//		return err
//	}
//	if _, err := room.PublishText(ctx, "hello"); err != nil { // to all in the room
//		return err
//	}
//	if _, err := room.SendText(ctx, "bob", "psst"); err != nil { // nil: bob's program has it
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
// On a local network, nodes of one app find each other by mDNS, with nothing configured. Elsewhere
// a node is given peers ([WithPeers], [Node.Connect]); with a data directory it remembers those
// that it has met. A lost peer is dialled again at once, then every second, then less often. A peer
// that was given or is a member of a joined room is dialled for ever, and a room member more often.
// When the machine has slept or changed its network, the node closes dead connections and dials
// every lost peer again.
//
// A user who is not connected is found by asking connected peers, and in the app's own DHT. Every
// node on the local network holds a part of it ([WithoutDHT]); [WithWAN] adds the internet. See
// [Node.Find].
//
// # Who is who
//
// A device key determines the node's peer ID; a user key says who the user is. Names are
// self-claimed and not unique: "alice" means the key that the name is pinned to,
// "alice#fingerprint" exactly one key. The first message to the only user of a name pins it, and so
// does an answer to a message from one of its keys: see [Node.Pinned]. Another user of a pinned
// name causes an [IdentityConflict] event and receives no messages meant for the pinned one, in
// rooms or outside them. While two keys have a name that is not pinned, the name means neither. The
// same user key on two devices is one user: the later log-in wins, and the other device receives
// [LoggedOut] with [Replaced] and leaves its rooms.
//
// Nodes of different apps ([WithApp]) that happen to connect refuse each other before anything else
// is said.
//
// # Events
//
// What happens outside rooms comes from [Node.Recv] or [Node.Events], in one order; each room has a
// stream of its own. Readers pull, so a handler may call anything. A reader that is too slow loses
// broadcasts, and an event reports how many. Messages to this user alone are not dropped but
// refused to their senders, and nothing else is dropped. docs/EVENTS.md has the JSON form. With
// [WithAllEvents] there is one stream instead, of the node and all its rooms: [Node.AllEvents].
//
// # Connection
//
// [Node.Connection] says whether this node itself is cut off, and a [ConnectionChanged] reports
// each change. A node counts as connected, also when it is alone, until it loses all its
// connections to nodes of its app without a goodbye, or has no usable interface left. It then dials
// by itself. When it is back, its log-in counts again and messages work again, with no call by the
// program.
//
// # Results of a send
//
// A nil error means that the receiver's node has put the message into its program's queue.
// [mesh.ErrUnreachable] means that it was certainly not sent, [mesh.ErrUnconfirmed] that this is
// unknown, a [*mesh.RefusedError] that the receiver refused it, and [presence.ErrNotFound] that the
// user is not logged in on any node that could be asked. The first two are also
// [mesh.ErrDisconnected] if this node itself was cut off.
//
// # Contexts and Close
//
// A context bounds one call. [Node.Close] leaves the rooms, logs out, says goodbye, and returns
// within 2 s, when every goroutine of the node has ended and every call has returned.
//
// # Limits
//
// 65,536 bytes a message, 128 characters an ID, 200 bytes of info, 1024 connections, 128
// streams a peer, and a few of each protocol. Everything that a peer can make the node keep is
// bounded.
package node
