package presence

import (
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/starling-mesh/starling/identity"
)

// claim is the use of a name by a key while the name was pinned to another; pinned is zero if it
// was not pinned.
type claim struct {
	user        string
	key, pinned identity.PublicKey
}

// Observe takes a verified statement that arrived in another way than by hello, for example from a
// member of a room. It is treated like one from a hello: it may show a conflict, end this node's
// log-in, or be sent to the device whose log-in it ends.
func (d *Directory) Observe(st *identity.Statement) { d.rivals.observe(st) }

// rivals compares statements with what is known: who else uses a name, and where else a user is
// logged in.
type rivals struct {
	*people
	own       *account
	statuses  *inquiries
	send      func([]notice)              // called with the lock held
	conflicts *lru.Cache[claim, struct{}] // reported to the observer; the lock of people guards it
}

func newRivals(own *account, p *people, statuses *inquiries) *rivals {
	return &rivals{people: p, own: own, statuses: statuses, conflicts: newLRU[claim, struct{}](maxConflicts)}
}

// observe is [Directory.Observe].
func (r *rivals) observe(st *identity.Statement) {
	if st == nil || st.App != r.app {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closing {
		r.send(r.observeLocked(st))
	}
}

// observeLocked draws the conclusions from a verified statement. It returns the notices to send.
func (r *rivals) observeLocked(st *identity.Statement) []notice {
	if st.Peer == r.id {
		r.own.ownDeviceLocked(st)
		return nil
	}
	if r.cfg.authority != nil && st.Grant() == nil {
		return nil // in app mode a name without a token is only a claim
	}
	if r.own.oursLocked(st) {
		r.own.ownUserLocked(st)
		return nil
	}
	if r.cfg.authority == nil {
		r.conflictLocked(st)
	}
	return r.rivalsLocked(st)
}

// conflictLocked looks for a name that is our own or pinned and that another key uses, or that two
// keys use and that is pinned to neither.
func (r *rivals) conflictLocked(st *identity.Statement) {
	holder, held := r.userKey, st.User == r.own.user
	if !held {
		holder, held = r.cfg.pins.Lookup(st.User)
	}
	if held {
		if holder != st.UserKey && r.firstLocked(claim{st.User, st.UserKey, holder}) {
			r.events.push(Conflict{User: st.User, Pinned: holder, Other: st.Login()})
		}
		return
	}
	now := r.clock.Now()
	if !loggedIn(st, now) || r.goodbyeLocked(st) {
		return
	}
	rival, ok := r.rivalLocked(st, now)
	if !ok {
		return
	}
	// Neither of the two takes precedence: what was reported for one was reported for both.
	one := r.firstLocked(claim{user: st.User, key: st.UserKey})
	if two := r.firstLocked(claim{user: st.User, key: rival.Key}); one || two {
		r.events.push(Conflict{User: st.User, Other: st.Login(), Rival: rival})
	}
}

// firstLocked reports whether a claim has not been reported yet, and records that it now is.
func (r *rivals) firstLocked(c claim) bool {
	_, again, _ := r.conflicts.PeekOrAdd(c, struct{}{})
	return !again
}

// goodbyeLocked reports whether the device of a statement has logged out since: the statement may
// have arrived late, through other peers.
func (r *rivals) goodbyeLocked(st *identity.Statement) bool {
	last := (*identity.Statement)(nil)
	if c := r.contacts[st.Peer]; c != nil && c.known {
		last = c.session.Statement
	} else if gone, ok := r.statuses.departed.Peek(st.Subject()); ok {
		last = gone.st
	}
	return last != nil && last.Peer == st.Peer && !last.LoggedIn && last.Newer(st)
}

// rivalLocked returns the log-in of a connected peer under the name that st uses, with another key.
// It ignores keys that have said good-bye.
func (r *rivals) rivalLocked(st *identity.Statement, now time.Time) (rival identity.Login, ok bool) {
	for _, c := range r.names[st.User] {
		if other := c.session.Statement; other.UserKey != st.UserKey && c.loggedIn(now) {
			if l := other.Login(); !ok || slices.Compare(l.Key[:], rival.Key[:]) < 0 {
				rival, ok = l, true
			}
		}
	}
	return rival, ok
}

// rivalsLocked looks for two log-ins of one user other than ours. It returns a notice of the later
// one to the peer of the earlier one, if that is connected. So they find out who has to log out
// even if they never meet.
func (r *rivals) rivalsLocked(st *identity.Statement) []notice {
	now := r.clock.Now()
	if !loggedIn(st, now) {
		return nil
	}
	var out []notice
	for _, c := range r.subjects[st.Subject()] {
		other := c.session.Statement
		if c.id == st.Peer || !loggedIn(other, now) {
			continue
		}
		winner, loser := st, other
		if other.Newer(st) {
			winner, loser = other, st
		}
		if r.contacts[loser.Peer] != nil {
			out = append(out, notice{to: loser.Peer, st: winner})
		}
	}
	return out
}
