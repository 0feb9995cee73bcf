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
	err := d.checkUserLocked(user)
	if err != nil || d.self != nil {
		d.mu.Unlock()
		return err
	}
	d.user = user
	sequence, err := d.newSelfLocked(false)
	d.mu.Unlock()
	return d.keepSequence(sequence, err)
}

// LoginOption is a setting of one log-in.
type LoginOption func(*loginConfig)

type loginConfig struct {
	token string
}

// WithLoginToken gives the token that says that this device may log in as this user. In app mode there must be one, in open mode none.
func WithLoginToken(token string) LoginOption { return func(c *loginConfig) { c.token = token } }

// Login logs the user in on this node. Connected peers are told without waiting for them. Where the same user is logged in
// elsewhere (in open mode: the same user key), that log-in ends. Errors are an [*identity.IDError], [ErrOtherUser], [ErrLoggedIn] while
// logged in, and for the token an [*identity.TokenError] or, in open mode, [ErrOpenMode]. After a token error
// [Directory.UpdateLoginToken] with a good one logs in.
func (d *Directory) Login(ctx context.Context, user string, opts ...LoginOption) error {
	var c loginConfig
	for _, o := range opts {
		o(&c)
	}
	if err := identity.CheckUser(user); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.cfg.authority == nil && c.token != "" {
		return ErrOpenMode
	}
	d.mu.Lock()
	sequence, err := d.loginLocked(user, c.token)
	d.mu.Unlock()
	return d.keepSequence(sequence, err)
}

func (d *Directory) loginLocked(user, token string) (sequence uint64, err error) {
	if err := d.checkUserLocked(user); err != nil {
		return 0, err
	}
	if d.in {
		return 0, ErrLoggedIn
	}
	shown := d.token
	if a := d.cfg.authority; a != nil {
		g, err := a.Login(token, user, d.keys.DeviceKey(), time.Now())
		if err != nil {
			d.pending = user
			return 0, err
		}
		d.token = loginToken{text: token, grant: g}
		for _, c := range d.names[user] { // whom we could not know to be ours before
			if st := c.session.Statement; st.Grant() != nil {
				d.highest = max(d.highest, st.Sequence)
			}
		}
	}
	d.user = user
	if sequence, err = d.newSelfLocked(true); err != nil {
		d.token = shown
		return 0, err
	}
	d.pending = ""
	d.wakeTokensLocked()
	return sequence, nil
}

// LoggedIn reports whether the user is logged in here. In app mode that holds while the token has expired, though peers do not
// count the log-in then: see [Directory.UpdateLoginToken].
func (d *Directory) LoggedIn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.in
}

// Logout logs the user out. It returns when every connected peer has been told, after a second at the latest, or when ctx ends;
// the log-out holds in each case. It returns [ErrNotLoggedIn] if there is nothing to log out of.
func (d *Directory) Logout(ctx context.Context) error {
	d.mu.Lock()
	switch {
	case d.closing:
		d.mu.Unlock()
		return ErrClosed
	case !d.in:
		d.pending = ""
		d.mu.Unlock()
		return ErrNotLoggedIn
	}
	d.logoutLocked()
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, logoutGrace)
	defer cancel()
	d.farewell(ctx)
	return nil
}

func (d *Directory) checkUserLocked(user string) error {
	switch {
	case d.closing:
		return ErrClosed
	case d.user != "" && d.user != user:
		return otherUser(d.user, user)
	}
	return nil
}

// newSelfLocked signs a statement under a new sequence.
func (d *Directory) newSelfLocked(loggedIn bool) (uint64, error) {
	now := time.Now()
	sequence := identity.NextSequence(d.highest, now)
	if err := d.signLocked(now, sequence, loggedIn); err != nil {
		return 0, err
	}
	d.highest, d.in = sequence, loggedIn
	return sequence, nil
}

// logoutLocked keeps the sequence of the log-in. A new one would outrank a log-in of the same user elsewhere that
// this node has not heard of.
func (d *Directory) logoutLocked() {
	d.in = false
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
	st, err := d.sealLocked(now, identity.Statement{
		App: d.app, User: d.user, Sequence: sequence, LoggedIn: loggedIn,
		Issued: issued, Expires: issued.Add(d.cfg.life),
	})
	if err != nil {
		return err
	}
	d.self = st
	d.version++
	d.newsLocked()
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
			if err := d.signLocked(now, d.self.Sequence, d.in); err != nil {
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
		progress := d.progress.Next()
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
