package identity

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// DefaultLeeway is how far the clocks of issuers and nodes may differ by default.
	DefaultLeeway = 120 * time.Second
	// MaxLeeway is the largest leeway, and so the longest that a token may count after it expires.
	MaxLeeway = 10 * time.Minute
	// authorityCache is how many verified tokens an Authority keeps: several times the members of a
	// full room. At most that is 16 MiB, and at the usual 500 B about 2 MiB.
	authorityCache = 2048
)

// Authority judges the tokens of an app by its issuers' public keys, without asking anyone. It
// remembers the tokens that it has verified, but checks time and revocation on every call. It is
// safe for concurrent use.
type Authority struct {
	app     string
	id      AppID
	issuers Issuers
	leeway  time.Duration
	cache   *lru.Cache[string, *Grant]

	list    atomic.Pointer[Revocations] // nil: none
	mu      sync.Mutex                  // held to change list
	changed chan struct{}               // closed and replaced with list
}

// AuthorityOption is a setting of an [Authority].
type AuthorityOption func(*Authority)

// WithLeeway sets how far clocks may differ: a token counts from that long before it begins until
// that long after it expires. The default is 120 s; NewAuthority refuses less than 0 and more than
// 10 min. All nodes of an app should use the same value.
func WithLeeway(d time.Duration) AuthorityOption { return func(a *Authority) { a.leeway = d } }

// NewAuthority returns the authority for the tokens of the app called name.
func NewAuthority(name string, issuers Issuers, opts ...AuthorityOption) (*Authority, error) {
	a := &Authority{app: name, issuers: issuers, leeway: DefaultLeeway, changed: make(chan struct{})}
	for _, o := range opts {
		o(a)
	}
	var errs []error
	if err := CheckApp(name); err != nil {
		errs = append(errs, err)
	}
	if issuers.IsZero() {
		errs = append(errs, errors.New("no issuers"))
	}
	if a.leeway < 0 || a.leeway > MaxLeeway {
		errs = append(errs, fmt.Errorf("leeway %v, want 0 to %v", a.leeway, MaxLeeway))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	a.id = issuers.AppID(name)
	cache, err := lru.New[string, *Grant](authorityCache)
	if err != nil {
		panic("identity: " + err.Error()) // only a size below 1 fails
	}
	a.cache = cache
	return a, nil
}

// App returns the ID of the app.
func (a *Authority) App() AppID { return a.id }

// Name returns the name of the app, which its tokens carry as aud.
func (a *Authority) Name() string { return a.app }

// Issuers returns the keys that may sign tokens.
func (a *Authority) Issuers() Issuers { return a.issuers }

// Leeway returns how far clocks may differ.
func (a *Authority) Leeway() time.Duration { return a.leeway }

// Login judges a token that a device shows to log in as a user. All errors are [*TokenError].
func (a *Authority) Login(token, user string, device PublicKey, now time.Time) (*Grant, error) {
	g, err := a.loginToken(token, user, device)
	if err != nil {
		return nil, err
	}
	if err := a.Check(g, now); err != nil {
		return nil, err
	}
	return g, nil
}

// loginToken is Login without the checks that depend on the time.
func (a *Authority) loginToken(token, user string, device PublicKey) (*Grant, error) {
	g, err := a.of(token, user, device)
	if err != nil {
		return nil, err
	}
	if !g.Login {
		return nil, tokenError(ErrTokenPurpose, "it is for rooms, not for logging in")
	}
	return g, nil
}

// Room judges a token that a device shows to enter a room as a user. All errors are [*TokenError].
func (a *Authority) Room(token, user string, device PublicKey, room string, now time.Time) (*Grant, error) {
	g, err := a.of(token, user, device)
	if err != nil {
		return nil, err
	}
	if _, ok := g.Rooms[room]; !ok {
		return nil, tokenError(ErrTokenRoom, "it does not admit to the room %s", quote(room))
	}
	if err := a.Check(g, now); err != nil {
		return nil, err
	}
	return g, nil
}

// Open verifies a token regardless of who shows it and when: it may have expired or been revoked.
// See [Authority.Check].
func (a *Authority) Open(token string) (*Grant, error) { return a.verify(token) }

// Inspect verifies a token regardless of who shows it, and returns what it grants to whom. It
// proves nothing about who shows it.
func (a *Authority) Inspect(token string, now time.Time) (*Grant, error) {
	g, err := a.verify(token)
	if err != nil {
		return nil, err
	}
	if err := a.Check(g, now); err != nil {
		return nil, err
	}
	return g, nil
}

// of verifies a token and that it was issued to that user on that device.
func (a *Authority) of(token, user string, device PublicKey) (*Grant, error) {
	g, err := a.verify(token)
	switch {
	case err != nil:
		return nil, err
	case g.User != user:
		return nil, tokenError(ErrTokenUser, "it was issued to the user %s, not to %s", quote(g.User), quote(user))
	case g.Device != device:
		return nil, tokenError(ErrTokenDevice, "it is bound to the device key %s, and shown by %s",
			g.Device.Fingerprint(), device.Fingerprint())
	}
	return g, nil
}

func (a *Authority) verify(token string) (*Grant, error) {
	if g, ok := a.cache.Get(token); ok {
		return g, nil
	}
	g, err := parseToken(token, a.app, a.issuers)
	if err != nil {
		return nil, err
	}
	a.cache.Add(strings.Clone(token), g) // only verified tokens, so that forgeries cannot displace them
	return g, nil
}

// Check judges again a grant that was verified before: whether it is valid at that time, and
// whether it has been revoked since. The error is a [*TokenError]. It allocates nothing unless it
// refuses.
func (a *Authority) Check(g *Grant, now time.Time) error {
	if now.Add(a.leeway).Before(g.Issued) {
		err := &ClockError{Issued: g.Issued, Now: now}
		return &TokenError{Reason: err.Error(), Err: err}
	}
	if now.Add(a.leeway).Before(g.Begins) {
		return tokenError(ErrTokenNotYetValid, "not valid for another %v", g.Begins.Sub(now).Round(time.Second))
	}
	if !now.Before(a.Until(g)) {
		return tokenError(ErrTokenExpired, "expired %v ago", now.Sub(g.Expires).Round(time.Second))
	}
	if a.Revocations().revoked(g) {
		return tokenError(ErrTokenRevoked, "its issuer has revoked it")
	}
	return nil
}

// Until returns when a grant ends on this node: when its token expires, plus the leeway.
func (a *Authority) Until(g *Grant) time.Time { return g.Expires.Add(a.leeway) }

// Sign is [Keys.Sign] for an app with issuers. It refuses a token that others would refuse at any
// time. The statement that it returns knows what its token grants.
func (a *Authority) Sign(k *Keys, st Statement) (*Statement, error) {
	out, err := k.Sign(st)
	if err != nil {
		return nil, err
	}
	if err := a.adopt(out); err != nil {
		return nil, err
	}
	return out, nil
}

// adopt applies the rules of app mode to a statement.
func (a *Authority) adopt(st *Statement) error {
	st.authority = a
	if st.Token == "" && !st.LoggedIn {
		return nil
	}
	g, err := a.loginToken(st.Token, st.User, st.Device)
	if err != nil && st.LoggedIn {
		return badToken(err)
	}
	// g is nil for a good-bye whose token is no proof here, for example from an issuer removed
	// since.
	st.grant = g
	return nil
}

// badToken returns the error for a statement whose token was refused.
func badToken(err error) error {
	var bad *TokenError
	if errors.As(err, &bad) {
		return &StatementError{Reason: "log-in token: " + bad.Reason, Err: bad}
	}
	return &StatementError{Reason: "log-in token: " + err.Error(), Err: err}
}
