// Package mesh sends messages over a libp2p host: to everybody in a room, and to one user in a room
// or outside rooms.
//
//	m, err := mesh.New(host, directory, mesh.WithInbox(take)) // sends nothing, waits for nobody
//	if err != nil {
//		return err
//	}
//	defer m.Close()
//
//	receipt, err := m.Send(ctx, bob, []byte("psst"))
//	switch {
//	case err == nil: // bob's program has it in its queue, receipt.RTT after it was written
//	case errors.Is(err, mesh.ErrRefused): // bob's node has said no, and will not deliver it
//	case errors.Is(err, mesh.ErrUnreachable): // bob has seen nothing of it: safe to send again
//	case errors.Is(err, mesh.ErrUnconfirmed): // written, no answer in time: bob has it once, or not
//	}
//
//	// Join returns when the room is ready: what is published from now on arrives.
//	room, err := m.Join(ctx, "ops", mesh.WithInfo([]byte("on call")))
//	if err != nil {
//		return err
//	}
//	room.PublishText(ctx, "good morning") // to everybody in the room
//	room.SendText(ctx, "bob", "psst")     // to one member
//	room.PublishConfirmed(ctx, alarm)     // to everybody; reports for each member whether it has it
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
// A [Mesh] takes any libp2p host with an Ed25519 key, and an [Identity], which knows which users
// the connected peers have proved to be. presence.Directory is an Identity.
//
// # Rooms
//
// A room is a GossipSub topic. Only a node that knows the room's name can derive the topic's name.
// The first member to join creates the room. [Mesh.Join] returns when every connected peer that is
// in the room has sent the members it knows and how far everybody's broadcasts have got, which
// takes a few round trips; [Mesh.Enter] does not wait. The first event is [RoomReady]. It comes
// again when a node is back that was cut off from all other members, before what it has missed.
// [Room.Publish] hands a message to the neighbours, who pass it on, and returns when one of them
// has acknowledged it. [Room.PublishConfirmed] waits for every member. Messages that are published
// while an envelope is under way share the next envelope, so an idle room sends at once and a busy
// one packs.
//
// The broadcasts of a member during one stay form a feed. They are numbered without holes and
// arrive in order, once each. Every member retains the latest broadcasts of the room
// ([WithRetention]). A member that was cut off, paused or too far away fetches what it missed from
// its neighbours. What nobody retains any more is reported as [GapLost]. A newcomer gets what is
// published after it joined, or also some of what was published before ([WithHistory]). A program
// that restarts, or has [Lagged], goes on from its [Cursor].
//
// The event that a member has left comes after its last message. A member that falls silent is
// suspected by those that were connected to it, and shown as silent ([MemberSilent]). It stays a
// member for the grace ([WithGrace]), during which it can answer, and is then dropped by all. If it
// is back in time, there is no event; neither is there one if two members that others still reach
// lose the connection between them. A member that nobody was connected to is missed after six
// minutes, or twelve seconds for each member if that is longer. In large rooms members cause no
// events ([RoomSize]).
//
// What a room retains for others is in memory, and with [WithStore] also on disk, so that it is
// served again after a restart. [Store] says what the node's own program gets of it, and what a
// crash can lose.
//
// A user (name and key) is in a room only once: the device that joins later takes the seat, and the
// stay of the other device ends with [ErrReplaced].
//
// # Who may put whom out
//
// In app mode, a member whose room token carries the role [identity.RoleModerator] may put others
// out: [Room.Kick] ends the stay of a member, who may join again; [Room.Ban] also keeps the user
// out, with an end or without, until [Room.Unban]; [Room.Dismiss] ends the stays of all, who may
// join anew. An issuer of the app may do the same by orders that it signs elsewhere
// ([identity.Issuer.Order]) and any member gives to the room ([Room.Submit]).
//
// An issuer ranks above all. A moderator ranks above members without the role, and not above
// another moderator. An order about a user has an effect only if its signer ranks above the role in
// the user's own token. Everybody may be dismissed. Of bans and liftings of one user that
// contradict each other, the one of the higher rank counts, then the later one: all members come to
// the same result, in whatever sequence they hear of them.
//
// The stay of a member that was put out ends with a [*PutOutError], and [Mesh.Join] fails with one
// while a user is banned. The others see [MemberLeft] with reason [Kicked]. A member that does not
// obey gets nothing more of the room from those that know the order: no broadcast, no answer, no
// direct message. Orders are kept over a rejoin, and with [WithOrderKeeper] over a restart. In open
// mode, all this fails with [ErrOpenMode].
//
// # Outcomes
//
// A send to one user that is accepted gets an ID, from one count over all sends of the node, and
// ends exactly once: in one of the four ways above, by the deadline of its context, or after 12 s
// if the context has none ([WithSendTimeout]). If a context or [Mesh.Close] ended the send,
// errors.Is matches that too, beside what is known of the message. An invalid call (too long,
// empty, to oneself, not logged in) fails at once, and costs neither traffic nor an ID.
//
// errors.Is tells apart why a send to one user has failed:
//
//	ErrNotMember          in a room: no such member. At once
//	presence.ErrNotFound  outside rooms: nobody who was asked knows such a user. After a search
//	ErrRefused            the receiver's node has said no. NotMember is ErrNotMember too
//	ErrUnreachable        nobody can reach the receiver's device; certainly not sent
//	ErrUnconfirmed        written, and no answer came in time; it may have arrived
//	ErrDisconnected       this node's own link is down, which says nothing about the receiver;
//	                      also ErrUnreachable or ErrUnconfirmed
//
// While the link is known to be down ([WithLink]; package node says so), a send still waits until
// its deadline, since the link may come back. So does a send to a member who was dropped because of
// that, or to a user whom nobody can be asked for. A broadcast that no neighbour has acknowledged
// is ErrUnconfirmed, and ErrDisconnected if the link is down. A node that is alone in a room has
// success at once, but not while its link is down.
//
// [Mesh.SendAsync], [Mesh.SendToAsync] and [Room.SendAsync] return the ID at once, before a user is
// searched for, and the result later: for callers that do not wait, and for those that pipeline, at
// a few hundred thousand small messages a second and core. If too much waits to be sent already,
// they return [ErrQueueFull].
//
// # Order
//
// Messages of one [Mode] to one address, in a room or outside, arrive in the order of the calls,
// once each; text and binary messages share one order. That holds while the receiver is searched
// for, and when the user moves to another device; the new device gets the next message at the
// latest 2 s after the move is known, even if the former one has not answered the last. If the
// connection breaks, reliable messages are written again for as long as their deadline allows, at
// most 5 minutes; the receiver recognises repeats. A receiver whose process has been restarted in
// between cannot, so what was written to the former process ends as unconfirmed and is not written
// again. The two unreliable modes drop what waited too long, and lose what was under way when a
// connection broke. Each mode has a stream of its own, so that neither waits behind large reliable
// messages.
//
// # Limits
//
// A message has at most 65,536 bytes ([WithMaxMessage]). Up to 4096 messages or 8 MiB wait for one
// address and mode, in a room or outside: more fail with [ErrQueueFull], and calls that wait for
// the result wait. Up to 256 users are searched for at a time. A receiver whose program does not
// read refuses direct messages ([QueueFull]), and never acknowledges what it could not queue.
// Everything that a peer can make grow here has a bound.
//
// [WithRates] limits how much a sender may send in a second. What is over a rate is refused here
// ([ErrRateExceeded]). A member that ignores the rate is put out of the room by the others.
//
// Broadcasts cannot be refused by a receiver: a program that reads too slowly loses the oldest ones
// and is told how many ([Lagged]), and a publisher that outruns the network waits. Membership
// events are never dropped.
//
// # Trust
//
// Every envelope of broadcasts is signed by its sender's device key, and so is every member's
// roster entry. Nobody who passes them on can alter them. A member that signs two different
// continuations of its feed is evicted. Anybody who knows a room's name, and its secret if it has
// one ([WithSecret]), can join it and read along.
//
// The sender of a direct message is the user that the other end of the connection has proved to be,
// never what a message claims. Direct messages are encrypted by the connection. A receiver that
// lies can acknowledge what it throws away: a receipt is only its word.
//
// # Closing
//
// A context bounds one call and nothing else. Close leaves all rooms and says goodbye to their
// members, ends every send, resets the streams, and returns when every goroutine of the mesh has
// ended. The caller still owns the host.
package mesh
