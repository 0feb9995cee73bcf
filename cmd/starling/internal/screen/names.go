package screen

import (
	"slices"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/node"
)

// A direct conversation is with one key, for ever: the key of its messages or, if it was opened by
// a name, the key of the one user of the name who was there. If nobody was, what is typed goes to
// the name, and the node decides what that means, until a message has shown which key it is. A
// message from a user of the name shows it only if nothing has been said or typed there before:
// what has may be meant for another user.

// user returns the conversation with a user by the name typed, and makes one if there is none.
func (t *tui) user(name string) *talk {
	if k := t.titled(name); k != nil {
		return k
	}
	for _, k := range t.talks {
		if k.direct() && exactly(name, k.login) {
			return k
		}
	}
	k := &talk{user: name, typed: name}
	if k.seen = t.whom(k); k.seen.User == "" && !t.me.Vouched {
		k.seen, _ = t.words.Shown(name)
	}
	return t.open(k)
}

// exactly reports whether an address with a key names the user.
func exactly(address string, l identity.Login) bool {
	addr, err := identity.ParseAddress(address)
	return err == nil && addr.Fingerprint != "" && addr.Matches(l.User, l.Key)
}

// titled returns the direct conversation that is shown under a name, or nil.
func (t *tui) titled(name string) *talk {
	for _, k := range t.talks {
		if k.direct() && k.user == name {
			return k
		}
	}
	return nil
}

// with returns the conversation with a user, or nil.
func (t *tui) with(l identity.Login) *talk {
	for _, k := range t.talks {
		if k.direct() && t.same(k.login, l) {
			return k
		}
	}
	return nil
}

// same reports whether two log-ins are of one user: of one key, or in app mode of one name.
func (t *tui) same(a, b identity.Login) bool {
	return a.User == b.User && a.User != "" && (a.Key == b.Key || t.me.Vouched)
}

// called returns the name of a conversation with a user.
func (t *tui) called(l identity.Login) string {
	if t.me.Vouched {
		return l.User
	}
	return t.words.Name(l)
}

// addressOf returns the address that reaches the user of a conversation and no other user of that
// name, and that user, as far as is known. The first message to a user whose name was typed goes to
// the name while only one user has it, which pins it.
func (t *tui) addressOf(k *talk) (string, identity.Login) {
	l := k.login
	if l.User == "" {
		l = k.seen
	}
	byName := k.login.User == "" && !k.named && t.same(k.seen, t.there(k.user))
	switch {
	case l.User == "":
		return t.meant(k.user, t.there(k.user))
	case byName:
		return k.user, l
	case t.me.Vouched:
		return l.User, l
	}
	return l.Address().String(), l
}

// meant returns the address for a name, and whom it means, as far as is known. there is the user
// who is there and is shown by the name. A name alone means the user that it is shown for: if that
// user is not there, the key goes with it, so that it cannot reach another key.
func (t *tui) meant(name string, there identity.Login) (string, identity.Login) {
	if shown, ok := t.words.Shown(name); ok && !t.me.Vouched && there.User == "" {
		return shown.Address().String(), shown
	}
	return name, there
}

// takes reports whether a message from a user shows whom a conversation is with that has the user's
// name.
func (t *tui) takes(k *talk, from identity.Login) bool {
	if t.me.Vouched || k.login.User != "" || exactly(k.user, from) || t.same(k.seen, from) {
		return true
	}
	return !k.named && k.line.text == ""
}

// hold notes that a conversation is with a user, or where that user is now. If it was opened by the
// name and there is already one with that user, the two become one.
func (t *tui) hold(k *talk, l identity.Login) *talk {
	if o := t.with(l); o != nil && o != k {
		t.merge(k, o)
		k = o
	}
	k.login, k.user, k.seen = l, t.called(l), identity.Login{}
	return k
}

// merge moves what was said in one conversation into another, and closes it.
func (t *tui) merge(k, into *talk) {
	for line, s := range t.sent {
		if s.talk == k {
			t.sent[line] = sending{into, s.entry}
		}
	}
	entries := append(slices.Clone(into.entries), k.entries...)
	slices.SortStableFunc(entries, func(a, b *entry) int { return a.at.Compare(b.at) })
	into.entries, into.bytes = nil, 0
	for _, e := range entries {
		into.add(e)
	}
	into.unread += k.unread
	into.failed = into.failed || k.failed
	into.active = max(into.active, k.active)
	typed, other := into.line, k.line
	if t.here == k && other.text != "" || typed.text == "" {
		typed, other = other, typed
	}
	if into.line = typed; other.text != "" {
		t.remember(other.text)
	}
	if t.here == k {
		t.show(into)
	}
	t.drop(k)
}

// settle finds out, from how a message ended, whom a conversation is with that was opened by a
// name. If the name is pinned, [tui.means] has done that.
func (t *tui) settle(k *talk, ev session.Sent) *talk {
	if !k.direct() || k.login.User != "" {
		return k
	}
	switch {
	case ev.Error == session.CodeConflict || ev.Error == session.CodeAmbiguous:
		k.seen, k.user = identity.Login{}, k.typed // the node knows of more users than are here
	case ev.OK && ev.Login.User != "":
		return t.hold(k, ev.Login)
	}
	return k
}

// means notes which key a name alone stands for: see [session.Wording.Means]. It renames all users
// of the name accordingly.
func (t *tui) means(user string, key identity.PublicKey) {
	was, known := t.words.Stands(user)
	t.words.Means(user, key)
	for _, k := range slices.Clone(t.talks) {
		switch {
		case k.login.User == "" && k.typed == user && !key.IsZero() && user != t.me.User:
			l := identity.Login{User: user, Key: key}
			if exactly(k.user, k.seen) {
				l = k.seen // it was shown as the conversation with that key
			}
			t.hold(k, l)
			continue
		case known && was == key:
			continue
		case k.login.User == user:
			k.user = t.called(k.login)
		case k.seen.User == user:
			k.user = t.called(k.seen)
		}
		k.rename(user, t.words.Name)
	}
}

// rename updates how members of that name are shown.
func (t *talk) rename(user string, name func(identity.Login) string) {
	for _, s := range slices.Clone(t.members) {
		if s.User == user {
			t.exit(s.Member)
			t.enter(s.Member, name(s.Login))
		}
	}
}

// known notes which device a user with a conversation is on.
func (t *tui) known(p node.Peer) {
	for _, k := range t.talks {
		if k.direct() && p.User != "" && k.login.User == p.User && k.login.Key == p.Key {
			k.login = p.Login
		}
	}
}

// whom returns the user that a conversation is with, as far as is known.
func (t *tui) whom(k *talk) identity.Login {
	switch {
	case k.login.User != "":
		return k.login
	case k.seen.User != "":
		return k.seen
	}
	return t.there(k.user)
}

// there returns the user who is there and is shown by a name, or has the key of an address; zero:
// nobody.
func (t *tui) there(name string) identity.Login {
	for _, p := range t.peers {
		if p.LoggedIn && t.fits(name, p.Login) {
			return p.Login
		}
	}
	for _, room := range t.talks {
		if l := t.inside(room, name); l.User != "" {
			return l
		}
	}
	return identity.Login{}
}

// inside is there for the members of one room.
func (t *tui) inside(room *talk, name string) identity.Login {
	for _, s := range room.members {
		if t.fits(name, s.Login) {
			return s.Login
		}
	}
	return identity.Login{}
}

// fits reports whether a user is shown by a name, or has the key of an address.
func (t *tui) fits(name string, l identity.Login) bool {
	return l.User != "" && (t.called(l) == name || exactly(name, l))
}
