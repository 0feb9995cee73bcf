package presence

import (
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
)

// claim is a name used by a key, while it was pinned to another: the zero key if it was pinned to none.
type claim struct {
	user        string
	key, pinned identity.PublicKey
}

// Observe takes in a verified statement that came by another way than hello, for example of a member of a room. It is
// judged as one from a hello is: it may show a conflict, end this node's log-in, or be handed to the log-in that it
// ends.
func (d *Directory) Observe(st *identity.Statement) {
	if st == nil || st.App != d.app {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closing {
		d.noticeLocked(d.observeLocked(st))
	}
}

// observeLocked draws the conclusions from a verified statement. It returns the notices to give.
func (d *Directory) observeLocked(st *identity.Statement) []notice {
	if st.Peer == d.id {
		d.ownDeviceLocked(st)
		return nil
	}
	if d.cfg.authority != nil && st.Grant() == nil {
		return nil // in app mode a name without a token is only a claim
	}
	if d.oursLocked(st) {
		d.ownUserLocked(st)
		return nil
	}
	if d.cfg.authority == nil {
		d.conflictLocked(st)
	}
	return d.rivalsLocked(st)
}

// oursLocked reports whether a statement is of our user.
func (d *Directory) oursLocked(st *identity.Statement) bool {
	if d.cfg.authority != nil {
		return st.User == d.user
	}
	return st.UserKey == d.userKey
}

// ownUserLocked looks at a statement of our user on another device.
func (d *Directory) ownUserLocked(st *identity.Statement) {
	d.highest = max(d.highest, st.Sequence)
	if was, ok := d.devices.Get(st.Peer); ok && was.Newer(st) {
		st = was // an old statement, shown again, does not undo a log-out
	} else {
		d.devices.Add(st.Peer, st)
	}
	if !d.in || !st.Newer(d.self) {
		return // if it is the other that has to go, it will find that in our hello
	}
	if !loggedIn(st, time.Now()) {
		d.outrankLocked(st)
		return
	}
	d.logoutLocked()
	d.cfg.log.Info("logged out: the user has logged in elsewhere", "peer", st.Peer)
	d.events.push(Displaced{By: st.Login()})
}

// outrankLocked signs our log-in anew, just above a later one elsewhere that has ended. Ours goes on, and for whoever knows of both, the end of the later one would be
// the last that is known of the user. It ranks no higher than it must: a third log-in, later than that one, has to win.
func (d *Directory) outrankLocked(ended *identity.Statement) {
	sequence := ended.Sequence
	if d.id < ended.Peer {
		sequence++ // of two with one sequence, the higher peer ID is the newer
	}
	if err := d.signLocked(time.Now(), sequence, true); err != nil {
		d.cfg.log.Error("sign statement", "err", err)
		return
	}
	d.highest = max(d.highest, sequence)
	d.tasks.Go(func() { _ = d.keepSequence(sequence, nil) })
}

// conflictLocked looks for a name that is our own or pinned, and used by another key, or that is used by two keys and
// pinned to neither.
func (d *Directory) conflictLocked(st *identity.Statement) {
	holder, held := d.userKey, st.User == d.user
	if !held {
		holder, held = d.cfg.pins.Lookup(st.User)
	}
	if held {
		if holder != st.UserKey && d.firstLocked(claim{st.User, st.UserKey, holder}) {
			d.events.push(Conflict{User: st.User, Pinned: holder, Other: st.Login()})
		}
		return
	}
	now := time.Now()
	if !loggedIn(st, now) || d.goodbyeLocked(st) {
		return
	}
	rival, ok := d.rivalLocked(st, now)
	if !ok {
		return
	}
	// Of the two neither is more than the other: what has been said of one was said of both.
	one := d.firstLocked(claim{user: st.User, key: st.UserKey})
	if two := d.firstLocked(claim{user: st.User, key: rival.Key}); one || two {
		d.events.push(Conflict{User: st.User, Other: st.Login(), Rival: rival})
	}
}

// firstLocked reports whether a claim has not been reported yet, and notes that it is now.
func (d *Directory) firstLocked(c claim) bool {
	_, again, _ := d.conflicts.PeekOrAdd(c, struct{}{})
	return !again
}

// goodbyeLocked reports whether the device of a statement has logged out since: the statement may have come late, by
// way of others.
func (d *Directory) goodbyeLocked(st *identity.Statement) bool {
	last := (*identity.Statement)(nil)
	if c := d.contacts[st.Peer]; c != nil && c.known {
		last = c.session.Statement
	} else if gone, ok := d.statuses.departed.Peek(st.Subject()); ok {
		last = gone.st
	}
	return last != nil && last.Peer == st.Peer && !last.LoggedIn && last.Newer(st)
}

// rivalLocked returns the log-in of a connected peer under the name that st uses, with another key. A key that has
// said good-bye is no rival.
func (d *Directory) rivalLocked(st *identity.Statement, now time.Time) (rival identity.Login, ok bool) {
	for _, c := range d.names[st.User] {
		if other := c.session.Statement; other.UserKey != st.UserKey && c.loggedIn(now) {
			if l := other.Login(); !ok || slices.Compare(l.Key[:], rival.Key[:]) < 0 {
				rival, ok = l, true
			}
		}
	}
	return rival, ok
}

// rivalsLocked looks for two log-ins of one user other than ours. The later one is handed to the peer of the earlier
// one, if that is connected: so they find out who has to go even if they never meet.
func (d *Directory) rivalsLocked(st *identity.Statement) []notice {
	now := time.Now()
	if !loggedIn(st, now) {
		return nil
	}
	var out []notice
	for _, c := range d.subjects[st.Subject()] {
		other := c.session.Statement
		if c.id == st.Peer || !loggedIn(other, now) {
			continue
		}
		winner, loser := st, other
		if other.Newer(st) {
			winner, loser = other, st
		}
		if d.contacts[loser.Peer] != nil {
			out = append(out, notice{to: loser.Peer, st: winner})
		}
	}
	return out
}
