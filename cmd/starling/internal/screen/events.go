package screen

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// take brings one occurrence to the screen.
func (t *tui) take(what occurrence) {
	switch what := what.(type) {
	case told:
		t.event(what.event)
	case standing:
		t.learn(what)
	case leaving:
		t.closing = true
	}
}

// event brings an event of the session to the screen.
func (t *tui) event(event session.Event) {
	switch ev := event.(type) {
	case session.Heard:
		t.heard(ev)
	case session.Ready:
		t.me = ev
		for _, name := range ev.Rooms {
			t.enter[name] = true
			t.openRoom(name)
		}
		t.words.Say(ev) // also remembers the key and the addresses
		t.tell(nil, t.greeting(ev))
	case session.Entered:
		t.entered(ev)
	case session.Exited:
		if k := t.room(ev.Room); k != nil {
			t.drop(k)
		}
		t.tellRoom("", t.words.Say(ev))
	case session.Sent:
		t.result(ev)
	case session.Help:
		t.add(t.here, &entry{table: helpTable()})
	case session.Trouble:
		t.trouble(ev)
	case session.Renewed:
		delete(t.expiring, ev.Room)
		t.uncounted = t.uncounted && ev.Room != ""
		t.tellRoom(ev.Room, t.words.Say(ev))
	case session.Bye:
		t.closing = true
	case session.Who, session.Status, session.Ordered, session.Waiting:
		t.tellRoom("", t.words.Say(ev))
	}
}

// heard brings an event of the mesh to the screen.
func (t *tui) heard(event session.Heard) {
	room, said := event.Event.Head().Room, true
	switch ev := event.Event.(type) {
	case *mesh.TokenExpiring:
		t.expiring[ev.Room] = ev.Expires
	case *node.TokenEnded:
		delete(t.expiring, "")
		t.uncounted = true
	case *mesh.Message:
		said = false
		if k := t.room(ev.Room); k != nil {
			t.add(k, &entry{from: t.words.Name(ev.From), text: session.Payload(ev.Kind, ev.Data)})
		}
	case *mesh.DirectMessage:
		said = false
		t.direct(ev)
	case *mesh.MemberJoined:
		if k := t.room(ev.Room); k != nil {
			k.enter(ev.Member, t.words.Name(ev.Member.Login))
		}
	case *mesh.MemberLeft:
		if k := t.room(ev.Room); k != nil {
			k.exit(ev.Member)
		}
	case *node.PeerUp:
		t.peers[ev.Peer.Peer] = ev.Peer
		t.known(ev.Peer)
		t.news(ev.Peer)
	case *node.PeerChanged:
		t.peers[ev.Peer.Peer] = ev.Peer
		t.known(ev.Peer)
		t.news(ev.Peer)
	case *node.PeerDown:
		delete(t.peers, ev.Peer.Peer)
		t.news(ev.Peer)
	case *node.IdentityConflict:
		t.means(ev.User, ev.Pinned) // so that the name alone never means the other user
	}
	if said {
		t.tellRoom(room, t.words.Say(event))
	}
}

// greeting says who this is. The bottom of the screen shows what the line chat says of the keys.
func (t *tui) greeting(ev session.Ready) session.Line {
	var b strings.Builder
	fmt.Fprintf(&b, "you are %s, key %s", ev.User, ev.Key.Fingerprint())
	if ev.Data == "" {
		b.WriteString(", for this time only")
	}
	if ev.MDNS {
		b.WriteString("\nothers on this network find you; from elsewhere, with")
	} else {
		b.WriteString("\nothers start with")
	}
	for _, a := range ev.Addrs {
		b.WriteString("\n--peer " + a)
	}
	return session.Note("%s", &b)
}

// tellRoom shows words in the conversation of a room, or in the one that the user sees if room is
// empty. If the room has been left, it shows nothing.
func (t *tui) tellRoom(room string, said session.Line) {
	var k *talk
	if room != "" {
		if k = t.room(room); k == nil {
			return
		}
	}
	t.tell(k, said)
}

func (t *tui) entered(ev session.Entered) {
	k := t.openRoom(ev.Room)
	k.joined, k.members, k.role = true, nil, session.PlainRole(ev.Role)
	for _, m := range ev.Members {
		k.enter(m, t.words.Name(m.Login))
	}
	t.tellRoom(ev.Room, t.words.Say(ev))
	if !t.enter[ev.Room] {
		t.show(k) // the user has just asked for it
	}
	delete(t.enter, ev.Room)
}

// direct shows a message to this user alone: in its room, or in the conversation with its sender.
func (t *tui) direct(ev *mesh.DirectMessage) {
	name := t.words.Name(ev.From)
	e := &entry{from: name, text: session.Payload(ev.Kind, ev.Data)}
	if ev.Room != "" {
		e.aside = "you"
		if k := t.room(ev.Room); k != nil {
			t.add(k, e)
		}
		return
	}
	k := t.with(ev.From)
	if k == nil {
		k = cmp.Or(t.titled(t.called(ev.From)), t.titled(ev.From.Address().String()))
	}
	if k != nil && !t.takes(k, ev.From) {
		// The two may be different users, so the name alone means neither from now on.
		if key, known := t.words.Stands(ev.From.User); !known || key == ev.From.Key {
			t.means(ev.From.User, identity.PublicKey{})
		}
		name = t.words.Name(ev.From)
		e.from, k = name, nil
	}
	if k == nil {
		k = t.open(&talk{user: name})
	}
	t.add(t.hold(k, ev.From), e)
}

// result marks the message that has the result.
func (t *tui) result(ev session.Sent) {
	if !ev.Pinned.IsZero() {
		t.means(session.NameAlone(ev.To), ev.Pinned)
	}
	s, ok := t.sent[ev.Line]
	if !ok {
		t.tell(nil, ev.Said())
		return
	}
	delete(t.sent, ev.Line)
	e, k := s.entry, t.settle(s.talk, ev)
	e.lines = nil // draw again
	switch {
	case ev.OK && ev.To == "":
		e.mark = markSent
		if ev.Neighbours != nil && *ev.Neighbours == 0 {
			e.note = "nobody else is connected yet"
		}
	case ev.OK:
		e.mark, e.note = markDelivered, ev.Took()
		if k.direct() && !t.same(k.login, ev.Login) && ev.Login.User != "" {
			e.note = "to " + ev.Login.Address().String() + ", " + e.note
		}
	case ev.Error == session.CodeUnknown:
		e.mark, e.note = markUnknown, ev.Detail
	case ev.Error == session.CodeRefused && ev.Reason != 0:
		e.mark, e.note = markRefused, ev.Reason.String()
	default:
		e.mark, e.note = markFailed, ev.Detail
	}
	e.note = prose.SafeAside(e.note)
	if !ev.OK && ev.Error != session.CodeUnknown && !t.pending(k) {
		k.named = false // nobody of the name has anything of it
	}
	if !ev.OK && k != t.here {
		k.failed = true
	}
}

// pending reports whether messages of a conversation have no result yet.
func (t *tui) pending(k *talk) bool {
	for _, s := range t.sent {
		if s.talk == k {
			return true
		}
	}
	return false
}

// trouble shows what went wrong. A room that has ended by itself can still be read. It has no
// members, and is marked in the list until the user looks at it.
func (t *tui) trouble(ev session.Trouble) {
	if k := t.room(ev.Room); k != nil && ev.Code == session.CodeRoom {
		k.joined, k.members = false, nil
		k.failed = k != t.here
		delete(t.expiring, ev.Room)
	}
	t.tellRoom(ev.Room, t.words.Say(ev))
}
