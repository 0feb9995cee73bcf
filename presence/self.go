package presence

import (
	"context"
	"time"

	"github.com/starling-mesh/starling/identity"
)

// logoutGrace is how long Logout waits for peers to have been told.
const logoutGrace = time.Second

// Self returns the statement that this node shows; nil before the first of SetUser and Login.
func (d *Directory) Self() *identity.Statement {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.self
}

// SetUser gives the node its user ID without logging in: what joining a room needs. The first of SetUser and Login
// sets the ID for the lifetime of the directory; another is refused with [ErrOtherUser], the same does nothing.
func (d *Directory) SetUser(user string) error {
	if err := identity.CheckUser(user); err != nil {
		return err
	}
	d.mu.Lock()
	err := d.setUserLocked(user)
	if err != nil || d.self != nil {
		d.mu.Unlock()
		return err
	}
	sequence, err := d.newSelfLocked(false)
	d.mu.Unlock()
	return d.keepSequence(sequence, err)
}

// Login logs the user in on this node. Connected peers are told without waiting for them. Where the same user key is
// logged in elsewhere, that log-in ends. Errors are an [*identity.IDError], [ErrOtherUser], and [ErrLoggedIn] while
// logged in.
func (d *Directory) Login(ctx context.Context, user string) error {
	if err := identity.CheckUser(user); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	err := d.setUserLocked(user)
	if err == nil && d.self != nil && d.self.LoggedIn {
		err = ErrLoggedIn
	}
	if err != nil {
		d.mu.Unlock()
		return err
	}
	sequence, err := d.newSelfLocked(true)
	d.mu.Unlock()
	return d.keepSequence(sequence, err)
}

// Logout logs the user out. It returns when every connected peer has been told, after a second at the latest, or when
// ctx ends; the log-out holds in each case. It returns [ErrNotLoggedIn] if there is nothing to log out of.
func (d *Directory) Logout(ctx context.Context) error {
	d.mu.Lock()
	switch {
	case d.closing:
		d.mu.Unlock()
		return ErrClosed
	case d.self == nil || !d.self.LoggedIn:
		d.mu.Unlock()
		return ErrNotLoggedIn
	}
	d.logoutLocked()
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, logoutGrace)
	defer cancel()
	d.waitTold(ctx)
	return nil
}

func (d *Directory) setUserLocked(user string) error {
	switch {
	case d.closing:
		return ErrClosed
	case d.user != "" && d.user != user:
		return otherUser(d.user, user)
	}
	d.user = user
	return nil
}

// newSelfLocked signs a statement under a new sequence.
func (d *Directory) newSelfLocked(loggedIn bool) (uint64, error) {
	now := time.Now()
	sequence := identity.NextSequence(d.highest, now)
	if err := d.signLocked(now, sequence, loggedIn); err != nil {
		return 0, err
	}
	d.highest = sequence
	return sequence, nil
}

// logoutLocked keeps the sequence of the log-in. A new one would outrank a log-in of the same user elsewhere that
// this node has not heard of.
func (d *Directory) logoutLocked() {
	if err := d.signLocked(time.Now(), d.self.Sequence, false); err != nil {
		d.cfg.log.Error("sign statement", "err", err)
	}
}

// signLocked makes and shows a new statement. Its time of issue is later than that of the one before, since that is
// what orders the statements of one log-in; unless the clock was put back so far that others would not believe it.
func (d *Directory) signLocked(now time.Time, sequence uint64, loggedIn bool) error {
	issued := now
	if d.self != nil {
		if next := d.self.Issued.Add(time.Millisecond); next.After(issued) && next.Sub(issued) < identity.MaxSkew {
			issued = next
		}
	}
	st, err := d.keys.Sign(identity.Statement{
		App: d.app, User: d.user, Sequence: sequence, LoggedIn: loggedIn,
		Issued: issued, Expires: issued.Add(d.cfg.life),
	})
	if err != nil {
		return err
	}
	d.self = st
	d.version++
	for _, c := range d.contacts {
		if c.known {
			d.kickLocked(c)
		}
	}
	return nil
}

func (d *Directory) keepSequence(sequence uint64, err error) error {
	if err != nil {
		return err
	}
	if err := d.cfg.store.SetSequence(sequence); err != nil {
		d.cfg.log.Warn("keep log-in sequence", "err", err)
	}
	return nil
}

// refresh signs the statement anew when a third of its life is over. It compares wall clocks, since a timer stands
// still while a computer sleeps.
func (d *Directory) refresh() {
	tick := time.NewTicker(min(d.cfg.life/12, time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		if now := time.Now(); d.self != nil && !d.closing && now.Sub(d.self.Issued) >= d.cfg.life/3 {
			if err := d.signLocked(now, d.self.Sequence, d.self.LoggedIn); err != nil {
				d.cfg.log.Error("sign statement", "err", err)
			}
		}
		d.mu.Unlock()
	}
}

// waitTold returns when every peer that we know, or are just getting to know, has confirmed our latest statement, or
// ctx ends.
func (d *Directory) waitTold(ctx context.Context) {
	for {
		d.mu.Lock()
		all := true
		for _, c := range d.contacts {
			if c.told < d.version && (c.known || c.inbound > 0 || c.opening) {
				all = false
				break
			}
		}
		progress := d.progress
		d.mu.Unlock()
		if all {
			return
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return
		}
	}
}
