package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// take brings one event of the session to the screen.
func (t *tui) take(event any) {
	switch ev := event.(type) {
	case ready:
		t.me = ev
		for _, name := range ev.Rooms {
			t.enter[name] = true
			t.openRoom(name)
		}
		t.words.say(ev) // also remembers the key and the addresses
		t.tell(nil, t.greeting(ev), false)
	case entered:
		t.entered(ev)
	case exited:
		if k := t.room(ev.Room); k != nil {
			t.drop(k)
		}
		t.tellRoom("", t.words.say(ev))
	case sent:
		t.result(ev)
	case help:
		t.add(t.here, &entry{table: helpTable()})
	case trouble:
		t.trouble(ev)
	case bye:
		t.closing = true
	case *mesh.TokenExpiring:
		t.expiring[ev.Room] = ev.Expires
		t.tellRoom(ev.Room, t.words.say(ev))
	case *node.TokenEnded:
		delete(t.expiring, "")
		t.uncounted = true
		t.tellRoom("", t.words.say(ev))
	case renewed:
		delete(t.expiring, ev.Room)
		t.uncounted = t.uncounted && ev.Room != ""
		t.tellRoom(ev.Room, t.words.say(ev))
	case *mesh.Message:
		if k := t.room(ev.Room); k != nil {
			t.add(k, &entry{from: t.words.name(ev.From), text: payload(ev.Kind, ev.Data)})
		}
	case *mesh.DirectMessage:
		t.direct(ev)
	case *mesh.MemberJoined:
		if k := t.room(ev.Room); k != nil {
			k.enter(ev.Member, t.words.name(ev.Member.Login))
		}
		t.tellRoom(ev.Room, t.words.say(ev))
	case *mesh.MemberLeft:
		if k := t.room(ev.Room); k != nil {
			k.exit(ev.Member)
		}
		t.tellRoom(ev.Room, t.words.say(ev))
	case *node.PeerUp:
		t.peers[ev.Peer.Peer] = ev.Peer
		t.known(ev.Peer)
		t.news(ev.Peer)
		t.tellRoom("", t.words.say(ev))
	case *node.PeerChanged:
		t.peers[ev.Peer.Peer] = ev.Peer
		t.known(ev.Peer)
		t.news(ev.Peer)
	case *node.PeerDown:
		delete(t.peers, ev.Peer.Peer)
		t.news(ev.Peer)
	case standing:
		t.learn(ev)
	case *node.IdentityConflict:
		t.means(ev.User, ev.Pinned) // so that the name alone never means the other user
		t.tellRoom("", t.words.say(ev))
	default:
		room := ""
		if ev, ok := event.(mesh.Event); ok {
			room = ev.Head().Room
		}
		t.tellRoom(room, t.words.say(event))
	}
}

// greeting says who this is. The bottom of the screen shows what the line chat says of the keys.
func (t *tui) greeting(ev ready) string {
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
	return b.String()
}

// tellRoom shows words in the conversation of a room, or in the one that the user sees if room is
// empty. If the room has been left, it shows nothing.
func (t *tui) tellRoom(room string, said line) {
	var k *talk
	if room != "" {
		if k = t.room(room); k == nil {
			return
		}
	}
	t.tell(k, said.text, said.tone == warning)
}

func (t *tui) entered(ev entered) {
	k := t.openRoom(ev.Room)
	k.joined, k.members, k.role = true, nil, plainRole(ev.Role)
	for _, m := range ev.Members {
		k.enter(m, t.words.name(m.Login))
	}
	t.tellRoom(ev.Room, t.words.say(ev))
	if !t.enter[ev.Room] {
		t.show(k) // the user has just asked for it
	}
	delete(t.enter, ev.Room)
}

// direct shows a message to this user alone: in its room, or in the conversation with its sender.
func (t *tui) direct(ev *mesh.DirectMessage) {
	name := t.words.name(ev.From)
	e := &entry{from: name, text: payload(ev.Kind, ev.Data)}
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
	if k == nil {
		k = t.open(&talk{user: name})
	}
	t.add(t.hold(k, ev.From), e)
}

// result marks the message that has the result.
func (t *tui) result(ev sent) {
	if !ev.pinned.IsZero() {
		t.means(nameAlone(ev.To), ev.pinned)
	}
	s, ok := t.sent[ev.Line]
	if !ok {
		t.tell(nil, ev.String(), !ev.OK)
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
		e.mark, e.note = markDelivered, ev.took()
		if k.direct() && !t.same(k.login, ev.login) && ev.login.User != "" {
			e.note = "to " + ev.login.Address().String() + ", " + e.note
		}
	case ev.Error == "unknown":
		e.mark, e.note = markUnknown, ev.Detail
	default:
		e.mark, e.note = markFailed, ev.Detail
		if ev.Error == "refused" && ev.reason != 0 {
			e.note = "refused: " + ev.reason.String()
		}
	}
	e.note = prose.Safe(e.note)
	if !ev.OK && k != t.here {
		k.failed = true
	}
}

// trouble shows what went wrong. A room that has ended by itself can still be read. It has no
// members, and is marked in the list until the user looks at it.
func (t *tui) trouble(ev trouble) {
	if k := t.room(ev.Room); k != nil && ev.Code == "room" {
		k.joined, k.members = false, nil
		k.failed = k != t.here
		delete(t.expiring, ev.Room)
	}
	t.tellRoom(ev.Room, t.words.say(ev))
}
