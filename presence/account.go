package presence

import (
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
)

// account is this node's own log-in: its user, its statement and its token, and what is known about
// the user's other devices. The lock of people guards it.
type account struct {
	*env
	changed   func()                                  // called when the statement has changed
	namesakes func(user string) []*identity.Statement // of the connected users with a name

	user string
	self *identity.Statement
	// Logged in, as the program sees it: self is not of a log-in while its token does not count.
	in        bool
	token     loginToken                               // in app mode: of the last log-in
	pending   string                                   // the user whose log-in failed for its token: see UpdateLoginToken
	news      task.Changes                             // self has changed
	closing   bool                                     // this node has said goodbye, or is about to
	version   uint64                                   // counts the changes of what peers are to learn from a hello
	highest   uint64                                   // the highest sequence seen for our user key
	twin      bool                                     // another node with our device key was reported
	tokenWake task.Wake                                // makes tendTokens check
	devices   *lru.Cache[peer.ID, *identity.Statement] // the latest statements of our user's other devices
}

func newAccount(e *env) *account {
	return &account{
		env: e, highest: e.cfg.store.Sequence(), tokenWake: task.NewWake(), devices: newLRU[peer.ID, *identity.Statement](maxDevices),
	}
}

// checkUserLocked refuses a user ID other than the node's own.
func (o *account) checkUserLocked(user string) error {
	if o.user != "" && o.user != user {
		return otherUser(o.user, user)
	}
	return nil
}

// setUserLocked sets the user ID. It returns the sequence of the statement that it made, or 0 if it
// made none.
func (o *account) setUserLocked(user string) (sequence uint64, err error) {
	if err := o.checkUserLocked(user); err != nil || o.self != nil {
		return 0, err
	}
	o.user = user
	return o.newSelfLocked(false)
}

// loginLocked returns the sequence of the new log-in, which the caller has to keep.
func (o *account) loginLocked(user, token string) (sequence uint64, err error) {
	if err := o.checkUserLocked(user); err != nil {
		return 0, err
	}
	if o.in {
		return 0, ErrLoggedIn
	}
	shown := o.token
	if a := o.cfg.authority; a != nil {
		g, err := a.Login(token, user, o.keys.DeviceKey(), o.clock.Now())
		if err != nil {
			o.pending = user
			return 0, err
		}
		o.token = loginToken{text: token, grant: g}
		for _, st := range o.namesakes(user) { // log-ins that we could not know to be our user's before
			if st.Grant() != nil {
				o.highest = max(o.highest, st.Sequence)
			}
		}
	}
	o.user = user
	if sequence, err = o.newSelfLocked(true); err != nil {
		o.token = shown
		return 0, err
	}
	o.pending = ""
	o.tokenWake.Set()
	return sequence, nil
}

// newSelfLocked signs a statement with a new sequence.
func (o *account) newSelfLocked(loggedIn bool) (uint64, error) {
	now := o.clock.Now()
	sequence := identity.NextSequence(o.highest, now)
	if err := o.signLocked(now, sequence, loggedIn); err != nil {
		return 0, err
	}
	o.highest, o.in = sequence, loggedIn
	return sequence, nil
}

// logoutLocked keeps the sequence of the log-in. A new one would outrank a log-in of the same user
// elsewhere that this node does not know of.
func (o *account) logoutLocked() {
	o.in = false
	if err := o.signLocked(o.clock.Now(), o.self.Sequence, false); err != nil {
		o.cfg.log.Error("sign statement", "err", err)
	}
}

// signLocked makes a new statement and shows it. Its issue time is later than that of the previous
// one, since issue times order the statements of one log-in. The exception is a clock set back so
// far that others would not accept that time.
func (o *account) signLocked(now time.Time, sequence uint64, loggedIn bool) error {
	issued := now
	if o.self != nil {
		if next := o.self.Issued.Add(time.Millisecond); next.After(issued) && next.Sub(issued) < identity.MaxSkew {
			issued = next
		}
	}
	st, err := o.sealLocked(now, identity.Statement{
		App: o.app, User: o.user, Sequence: sequence, LoggedIn: loggedIn,
		Issued: issued, Expires: issued.Add(o.cfg.life),
	})
	if err != nil {
		return err
	}
	o.self = st
	o.version++
	o.news.Tell()
	o.changed()
	return nil
}

// sealLocked signs a statement, in app mode with the token. A log-out carries the token too, which
// proves that it is the user's. A log-in is shown only while the token counts, and expires no later
// than the token.
func (o *account) sealLocked(now time.Time, st identity.Statement) (*identity.Statement, error) {
	a := o.cfg.authority
	if a == nil {
		return o.keys.Sign(st)
	}
	st.Token = o.token.text
	if st.LoggedIn {
		look := o.token // a copy: tendTokens notifies the program
		end := a.Until(o.token.grant)
		st.LoggedIn = look.step(a, now).counts && end.Sub(st.Issued) >= time.Millisecond
		if st.LoggedIn && st.Expires.After(end) {
			st.Expires = end
		}
	}
	return a.Sign(o.keys, st)
}

// keepSequence stores a sequence. It is called without the lock.
func (o *account) keepSequence(sequence uint64) {
	if err := o.cfg.store.SetSequence(sequence); err != nil {
		o.cfg.log.Warn("keep log-in sequence", "err", err)
	}
}

// updateTokenLocked returns the sequence of the log-in that it made, or 0 if it made none.
func (o *account) updateTokenLocked(a *identity.Authority, token string) (sequence uint64, err error) {
	switch {
	case !o.in && o.pending != "":
		return o.loginLocked(o.pending, token)
	case !o.in:
		return 0, ErrNotLoggedIn
	}
	now := o.clock.Now()
	g, err := a.Login(token, o.user, o.keys.DeviceKey(), now)
	if err != nil {
		return 0, fmt.Errorf("update log-in token: %w", err)
	}
	was := o.token
	o.token = loginToken{text: token, grant: g}
	if err := o.signLocked(now, o.self.Sequence, true); err != nil {
		o.token = was
		return 0, err
	}
	o.tokenWake.Set()
	return 0, nil
}

// lookAtOwnLocked does what is due for the token of a log-in. It returns when to check again; zero:
// never.
func (o *account) lookAtOwnLocked(now time.Time) (next time.Time) {
	news := o.token.step(o.cfg.authority, now)
	if news.expiring {
		o.events.push(TokenExpiring{Expires: o.token.grant.Expires})
	}
	if news.ended != nil {
		o.cfg.log.Warn("the log-in does not count any more", "err", news.ended)
		o.events.push(TokenEnded{Err: news.ended})
	}
	if news.counts != o.self.LoggedIn {
		if err := o.signLocked(now, o.self.Sequence, true); err != nil {
			o.cfg.log.Error("sign statement", "err", err)
		}
	}
	return news.next
}

// ownDeviceLocked handles a statement signed by our device key: if we did not sign it, another node
// has our key.
func (o *account) ownDeviceLocked(st *identity.Statement) {
	switch {
	case o.self != nil && !st.Newer(o.self): // ours, or from an earlier run
		return
	case o.self == nil && !st.Issued.After(o.started):
		return
	}
	if !o.twin {
		o.twin = true
		o.cfg.log.Warn("another node uses this node's device key: was the data directory copied?", "peer", o.id)
		o.events.push(DuplicateDevice{Peer: o.id})
	}
}

// oursLocked reports whether a statement is of our user.
func (o *account) oursLocked(st *identity.Statement) bool {
	if o.cfg.authority != nil {
		return st.User == o.user
	}
	return st.UserKey == o.userKey
}

// ownUserLocked handles a statement of our user on another device.
func (o *account) ownUserLocked(st *identity.Statement) {
	o.highest = max(o.highest, st.Sequence)
	if was, ok := o.devices.Get(st.Peer); ok && was.Newer(st) {
		st = was // an old statement shown again does not undo a log-out
	} else {
		o.devices.Add(st.Peer, st)
	}
	if !o.in || !st.Newer(o.self) {
		return // if the other device has to log out, it will learn that from our hello
	}
	if !loggedIn(st, o.clock.Now()) {
		o.outrankLocked(st)
		return
	}
	o.logoutLocked()
	o.cfg.log.Info("logged out: the user has logged in elsewhere", "peer", st.Peer)
	o.events.push(Replaced{By: st.Login()})
}

// outrankLocked signs our log-in again, ranked just above a later one elsewhere that has ended.
// Ours goes on, but for a node that knows both, the end of the later one would be the newest known
// about the user. It ranks no higher than it must: a third log-in, later than that one, has to win.
func (o *account) outrankLocked(ended *identity.Statement) {
	sequence := ended.Sequence
	if o.id < ended.Peer {
		sequence++ // with equal sequences, the higher peer ID is the newer
	}
	if err := o.signLocked(o.clock.Now(), sequence, true); err != nil {
		o.cfg.log.Error("sign statement", "err", err)
		return
	}
	o.highest = max(o.highest, sequence)
	o.tasks.Go(func() { o.keepSequence(sequence) })
}
