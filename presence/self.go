package presence

import (
	"context"
	"sync"
	"time"

	"github.com/starling-mesh/starling/identity"
)

// logoutGrace is how long Logout waits until peers have confirmed the log-out.
const logoutGrace = time.Second

// Self returns the statement that this node shows; nil before the first SetUser or Login.
func (d *Directory) Self() *identity.Statement {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.self
}

// SetUser gives the node its user ID without logging in. A node needs that to join a room. The
// first of SetUser and Login sets the ID for the lifetime of the directory. Another ID is refused
// with [ErrOtherUser]; the same ID does nothing.
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

// WithLoginToken sets the token that allows this device to log in as this user. It is required in
// app mode and refused in open mode.
func WithLoginToken(token string) LoginOption { return func(c *loginConfig) { c.token = token } }

// Login logs in the user on this node. It does not wait for connected peers to learn of it. If the
// same user (in open mode: the same user key) is logged in elsewhere, that log-in ends. Errors are
// an [*identity.IDError], [ErrOtherUser], [ErrLoggedIn] while logged in, [ErrClosed], the error of
// ctx, and for the token an [*identity.TokenError] or, in open mode, [ErrOpenMode]. After a token
// error, [Directory.UpdateLoginToken] with a valid token logs in.
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
		for _, c := range d.names[user] { // log-ins that we could not know to be our user's before
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

// LoggedIn reports whether the user is logged in on this node. In app mode it stays true when the
// token has expired, though peers do not count the log-in then: see [Directory.UpdateLoginToken].
func (d *Directory) LoggedIn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.in
}

// Logout logs the user out. It returns when every connected peer has confirmed the log-out, after a
// second at the latest, or when ctx ends. The user is logged out in each case. It returns
// [ErrNotLoggedIn] if there is nothing to log out of, and [ErrClosed] once the directory is closed.
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

// newSelfLocked signs a statement with a new sequence.
func (d *Directory) newSelfLocked(loggedIn bool) (uint64, error) {
	now := time.Now()
	sequence := identity.NextSequence(d.highest, now)
	if err := d.signLocked(now, sequence, loggedIn); err != nil {
		return 0, err
	}
	d.highest, d.in = sequence, loggedIn
	return sequence, nil
}

// logoutLocked keeps the sequence of the log-in. A new one would outrank a log-in of the same user
// elsewhere that this node does not know of.
func (d *Directory) logoutLocked() {
	d.in = false
	if err := d.signLocked(time.Now(), d.self.Sequence, false); err != nil {
		d.cfg.log.Error("sign statement", "err", err)
	}
}

// signLocked makes a new statement and shows it. Its issue time is later than that of the previous
// one, since issue times order the statements of one log-in. The exception is a clock set back so
// far that others would not accept that time.
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

// newsLocked wakes everything that waits for a change of this node's statement.
func (d *Directory) newsLocked() {
	d.news.Tell()
	d.dht.Wake()
}

// farewell waits until connected peers and the nodes that keep the log-in have been told that it
// has ended, or until ctx ends.
func (d *Directory) farewell(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { d.bury(ctx) })
	d.waitTold(ctx)
	wg.Wait()
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

// refresh signs the statement again when a third of its life is over. It compares wall clocks,
// since a timer stands still while a computer sleeps.
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

// waitTold returns when every peer that we know, or whose hello is under way, has confirmed our
// latest statement, or ctx ends.
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
