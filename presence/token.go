package presence

import (
	"errors"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// tokenLook is how long tendTokens waits at most: a timer stands still while a computer sleeps,
	// and the clock may be set.
	tokenLook = 10 * time.Second
	// tokenHaste is how much earlier this node withdraws its own log-in than peers would. A hello
	// that still shows the log-in must not arrive after that time, or peers would refuse it and
	// drop the connection, with the rooms on it.
	tokenHaste = helloTimeout
)

// loginToken is the token of this node's log-in, and what its program knows about it.
type loginToken struct {
	text   string
	grant  *identity.Grant // nil: none
	warned bool
	ended  bool
}

// tokenNews is the result of step.
type tokenNews struct {
	expiring bool
	ended    error     // nil: it has not ended, or that was reported before
	counts   bool      // the log-in may be shown to peers
	next     time.Time // when to check again; zero: never
}

// step checks the token at a given time.
func (t *loginToken) step(a *identity.Authority, now time.Time) (news tokenNews) {
	warn := t.grant.Expires.Add(-identity.TokenWarning)
	end := a.Until(t.grant).Add(-min(tokenHaste, a.Leeway()))
	err := a.Check(t.grant, now)
	if err == nil && !now.Before(end) {
		err = a.Check(t.grant, a.Until(t.grant)) // what peers will find in a moment
	}
	if err != nil {
		if !t.ended {
			t.ended, news.ended = true, err
		}
		return news
	}
	t.ended, news.counts = false, true
	if t.warned || now.Before(warn) {
		news.next = end
		if !t.warned {
			news.next = warn
		}
		return news
	}
	t.warned = true
	news.expiring, news.next = true, end
	return news
}

// UpdateLoginToken replaces the token of the log-in, before or after it expires. It does not wait
// for peers to learn of it. If the old token has not ended, peers notice nothing. After a log-in
// that failed for its token, it logs in that user.
//
// If the new token is refused, with an [*identity.TokenError], the previous one stays in place.
// Other errors are [ErrNotLoggedIn], [ErrOpenMode] and [ErrClosed].
func (d *Directory) UpdateLoginToken(token string) error {
	a := d.cfg.authority
	if a == nil {
		return ErrOpenMode
	}
	return d.change(func() (uint64, error) { return d.own.updateTokenLocked(a, token) })
}

// tendTokens watches the expiry of this node's own token and of the peers' tokens, and the list of
// revocations.
func (d *Directory) tendTokens() {
	for {
		changed := d.cfg.authority.Changed()
		d.lists.tell()
		pause := time.NewTimer(d.lookAtTokens(d.clock.Now()))
		select {
		case <-pause.C:
		case <-changed:
		case <-d.own.tokenWake:
		case <-d.ctx.Done():
			pause.Stop()
			return
		}
		pause.Stop()
	}
}

// lookAtTokens does what is due, and returns how long to wait before the next check.
func (d *Directory) lookAtTokens(now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait := tokenLook
	by := func(next time.Time) {
		if !next.IsZero() {
			wait = min(wait, max(next.Sub(now), time.Millisecond))
		}
	}
	if d.own.in && !d.closing {
		by(d.own.lookAtOwnLocked(now))
	}
	for p, c := range d.contacts {
		st := c.session.Statement
		if !c.known || st == nil || !st.LoggedIn {
			continue
		}
		if counts := st.LoggedInAt(now); counts != c.counts {
			c.counts = counts
			d.events.push(PeerChanged{Peer: p, Session: c.session})
		}
		if c.counts {
			by(d.cfg.authority.Until(st.Grant()))
		}
	}
	return wait
}

// faults maps the wire form of each reason for refusing a token to its error.
var faults = map[wire.TokenFault]error{
	wire.TokenFault_TOKEN_MISSING:       identity.ErrTokenMissing,
	wire.TokenFault_TOKEN_SIZE:          identity.ErrTokenSize,
	wire.TokenFault_TOKEN_MALFORMED:     identity.ErrTokenMalformed,
	wire.TokenFault_TOKEN_ALGORITHM:     identity.ErrTokenAlgorithm,
	wire.TokenFault_TOKEN_ISSUER:        identity.ErrTokenIssuer,
	wire.TokenFault_TOKEN_APP:           identity.ErrTokenApp,
	wire.TokenFault_TOKEN_USER:          identity.ErrTokenUser,
	wire.TokenFault_TOKEN_UNBOUND:       identity.ErrTokenUnbound,
	wire.TokenFault_TOKEN_DEVICE:        identity.ErrTokenDevice,
	wire.TokenFault_TOKEN_PURPOSE:       identity.ErrTokenPurpose,
	wire.TokenFault_TOKEN_ROOM:          identity.ErrTokenRoom,
	wire.TokenFault_TOKEN_NOT_YET_VALID: identity.ErrTokenNotYetValid,
	wire.TokenFault_TOKEN_EXPIRED:       identity.ErrTokenExpired,
	wire.TokenFault_TOKEN_REVOKED:       identity.ErrTokenRevoked,
}

// faultOf returns the fault of the token if err refuses one.
func faultOf(err error) wire.TokenFault {
	if bad := (*identity.TokenError)(nil); errors.As(err, &bad) {
		for fault, reason := range faults {
			if errors.Is(bad, reason) {
				return fault
			}
		}
	}
	return wire.TokenFault_TOKEN_UNSPECIFIED
}

// faultError returns the error for a peer's refusal of our token.
func faultError(reason string, r *wire.Refusal) error {
	err := faults[r.Token]
	switch {
	case err == nil: // from a later version
		err = identity.ErrTokenMalformed
	case r.Code == wire.Refusal_CLOCK:
		err = errors.Join(err, identity.ErrClock)
	}
	return &identity.TokenError{Reason: reason, Err: err}
}
