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
	return d.own.self
}

// SetUser gives the node its user ID without logging in. A node needs that to join a room. The
// first of SetUser and Login sets the ID for the lifetime of the directory. Another ID is refused
// with [ErrOtherUser]; the same ID does nothing.
func (d *Directory) SetUser(user string) error {
	if err := identity.CheckUser(user); err != nil {
		return err
	}
	return d.change(func() (uint64, error) { return d.own.setUserLocked(user) })
}

// change changes this node's own statement with f, which returns a sequence to keep; 0: none.
func (d *Directory) change(f func() (sequence uint64, err error)) error {
	d.mu.Lock()
	if d.closing || d.own.closing {
		d.mu.Unlock()
		return ErrClosed
	}
	sequence, err := f()
	d.mu.Unlock()
	if err == nil && sequence != 0 {
		d.own.keepSequence(sequence)
	}
	return err
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
	return d.change(func() (uint64, error) { return d.own.loginLocked(user, c.token) })
}

// LoggedIn reports whether the user is logged in on this node. In app mode it stays true when the
// token has expired, though peers do not count the log-in then: see [Directory.UpdateLoginToken].
func (d *Directory) LoggedIn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.own.in
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
	case !d.own.in:
		d.own.pending = ""
		d.mu.Unlock()
		return ErrNotLoggedIn
	}
	d.own.logoutLocked()
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, logoutGrace)
	defer cancel()
	d.spread(ctx)
	return nil
}

// Goodbye tells the connected peers that this node closes, and logs out if the node is logged in,
// which it reports. The end of the connections is then no loss to them: see [SaidGoodbye]. Goodbye
// returns when all of them have confirmed that, after a second at the latest, or when ctx ends. The
// node cannot log in again: what is left is to close it. A second call does nothing.
func (d *Directory) Goodbye(ctx context.Context) (loggedOut bool) {
	d.mu.Lock()
	if d.own.closing {
		d.mu.Unlock()
		return false
	}
	d.own.closing = true
	if loggedOut = d.own.in; loggedOut {
		d.own.logoutLocked()
	} else {
		d.own.version++
		d.hellos.kickAllLocked()
	}
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, logoutGrace)
	defer cancel()
	if loggedOut {
		d.spread(ctx)
	} else {
		d.hellos.waitTold(ctx)
	}
	return loggedOut
}

// spread waits until connected peers and the nodes that keep the log-in have been told that it
// has ended, or until ctx ends.
func (d *Directory) spread(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { d.retract(ctx) })
	d.hellos.waitTold(ctx)
	wg.Wait()
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
		if now := d.clock.Now(); d.own.self != nil && !d.closing && now.Sub(d.own.self.Issued) >= d.cfg.life/3 {
			if err := d.own.signLocked(now, d.own.self.Sequence, d.own.in); err != nil {
				d.cfg.log.Error("sign statement", "err", err)
			}
		}
		d.mu.Unlock()
	}
}
