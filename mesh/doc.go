// Package mesh sends messages over a libp2p host: to everybody in a room, and to one user in a room or outside.
//
//	m, err := mesh.New(host, directory, mesh.WithInbox(take)) // sends nothing, waits for nobody
//	if err != nil {
//		return err
//	}
//	defer m.Close()
//
//	receipt, err := m.Send(ctx, bob, []byte("psst"))
//	switch {
//	case err == nil: // bob's node has put it into his program's queue, receipt.RTT after it was written
//	case errors.Is(err, mesh.ErrRefused): // bob's node has said no, and will not deliver it
//	case errors.Is(err, mesh.ErrUnreachable): // bob has seen nothing of it: safe to send again
//	case errors.Is(err, mesh.ErrUnconfirmed): // it was written and not answered in time: bob may have it, once at most
//	}
//
//	room, err := m.Join(ctx, "ops", mesh.WithInfo([]byte("on call"))) // ready: what is published from now on arrives
//	if err != nil {
//		return err
//	}
//	room.PublishText(ctx, "good morning") // to everybody in the room
//	room.SendText(ctx, "bob", "psst")     // to one member
//	room.PublishConfirmed(ctx, alarm)     // to everybody, and tells of each member whether it has it
//	for ev, err := range room.Events(ctx) {
//		if err != nil {
//			return err
//		}
//		switch ev := ev.(type) {
//		case *mesh.Message:
//			fmt.Printf("%s: %s\n", ev.From.User, ev.Data)
//		case *mesh.MemberLeft:
//			fmt.Println(ev.Member.User, "has left:", ev.Reason)
//		case *mesh.Lagged:
//			log.Warn("fell behind", "missed", ev.Missed)
//		}
//	}
//
// A [Mesh] takes any libp2p host with an Ed25519 key, and an [Identity] that knows which users connected peers
// have proved to be; presence.Directory is one.
//
// # Rooms
//
// A room is a GossipSub topic whose name only those know who know the room's. Its first member makes it. [Mesh.Join]
// returns when every connected peer that is in the room has told whom it knows there, and how far everybody's
// broadcasts have got, which takes a few round trips. [Room.Publish] hands a message to the neighbours, who pass it on, and
// returns when one has acknowledged it; [Room.PublishConfirmed] waits for every member. Messages that come while an envelope is under way share the next one, so that an idle room sends
// at once and a busy one packs.
//
// The broadcasts of a member during one stay are a feed, numbered without holes, and arrive in its order, once each. Every
// member retains the latest of the room ([WithRetention]), and who was cut off, paused or too far away fetches what it
// missed from its neighbours. What nobody has any more is reported as [GapLost]. A newcomer gets what is published
// from its join on, or also some of what was before ([WithHistory]); a program that restarts, or has [Lagged], goes on from
// its [Cursor]. A member who leaves is told of after its last message. One that falls silent is
// suspected by who was connected to it, stays a member for the grace ([WithGrace]), in which it can answer, and is then
// dropped by all; one that is back in time causes no event, and neither does the loss of a connection between two
// members that others still reach. A member that nobody was connected to is missed after three minutes, or three seconds
// for each member. In large rooms ([WithLargeRoom]) one event tells the size instead of who comes and goes.
//
// What a room retains for others is in memory, and with [WithStore] on disk as well: after a restart it is served as before. See
// [Store] for what its own program gets of it, and for what a crash can lose.
//
// The same user (name and key) is in a room once: the device that joins later takes the seat, and the other's stay ends
// with [ErrReplaced].
//
// # Outcomes
//
// A send to one user that is accepted gets an ID, from one count over all sends of the node, and ends exactly
// once: in one of the four ways above, by the deadline of its context, or after 12 s without one
// ([WithSendTimeout]). When a context or [Mesh.Close] ended it, errors.Is sees that too, beside what is known of
// the message. What is wrong with a call (too long, empty, to oneself, not logged in) is said at once, and costs neither
// traffic nor an ID. [Mesh.SendAsync] gives the ID now and the result later, for callers that pipeline: a
// few hundred thousand small messages a second and core.
//
// # Order
//
// Messages of one [Mode] from one node to another arrive in the order of their calls, once each, text and
// binary in one order. Reliable ones are written again when the connection breaks, for as long as their
// deadline allows and at most 5 minutes, and a receiver knows a repeat from a new message. When its process was restarted in between, it
// cannot know, and so what had been written to the former process ends as unconfirmed and is not written again.
// The two unreliable modes drop what waited too long and lose what was under way when a connection broke; each mode
// has a stream of its own, so that neither waits behind large reliable messages.
//
// # Limits
//
// A message has at most 65,536 bytes ([WithMaxMessage]). Up to 4096 messages or 8 MiB wait for one peer and
// mode; a call that finds this full waits. A receiver whose program does not read refuses direct messages
// ([QueueFull]) and never acknowledges what it could not queue. Whatever a peer can make grow here has a bound.
//
// Broadcasts have no receiver to refuse them: a program that reads too slowly loses the oldest ones and is told how
// many ([Lagged]), and a publisher that outruns the network waits. Membership is never dropped.
//
// # Trust
//
// Every envelope of broadcasts is signed by its sender's device key, and every member's roster entry too, so nobody
// who passes them on can alter them. A member that signs two different continuations of its feed is evicted. Anybody
// who knows a room's name, and its secret if it has one ([WithSecret]), can join it and read along.
//
// The sender of a direct message is the user that the other end of the connection has proved to be, never what a message
// claims. Direct messages are encrypted by the connection. A receiver that lies can acknowledge
// what it throws away: a receipt is its word.
//
// # Closing
//
// A context bounds one call and nothing else. Close leaves all rooms and says so to their members, ends every send, resets the streams, and returns when
// every goroutine of the mesh has ended. The host stays the caller's.
package mesh
