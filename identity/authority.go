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
	// DefaultLeeway is how far the clocks of issuers and nodes may be apart where nobody says otherwise.
	DefaultLeeway = 120 * time.Second
	// MaxLeeway is as far as a token may outlive itself.
	MaxLeeway = 10 * time.Minute
	// authorityCache is how many verified tokens an Authority keeps: of the members of a full room, a few times over. At most
	// 16 MiB, and at the usual 500 B about 2 MiB.
	authorityCache = 2048
)

// Authority judges the tokens of an app by its issuers' public keys, with no one to ask. It remembers the tokens that
// it has verified; time and revocation it judges on every call. It is safe for concurrent use.
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

// WithLeeway sets by how much clocks may differ: a token counts that much before it begins and after it expires. The default is
// 120 s; NewAuthority refuses less than 0 and more than 10 min. It should be one value per app.
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
		return nil, fmt.Errorf("identity: authority: %w", err)
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

// Issuers returns the keys that may sign.
func (a *Authority) Issuers() Issuers { return a.issuers }

// Leeway returns by how much clocks may differ.
func (a *Authority) Leeway() time.Duration { return a.leeway }

// Login judges a token shown by a device, with which a user would log in. All errors are [*TokenError].
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

// loginToken is Login but for what depends on the time.
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

// Room judges a token shown by a device, with which a user would be in a room. All errors are [*TokenError].
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

// Open verifies a token whoever shows it, and whenever: it may have expired, or have been revoked. See [Authority.Check].
func (a *Authority) Open(token string) (*Grant, error) { return a.verify(token) }

// Inspect verifies a token whoever shows it, and says what it grants to whom. It is no proof of who shows it.
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
	a.cache.Add(strings.Clone(token), g) // only what verified, so that forgeries cannot displace it
	return g, nil
}

// Check judges again a grant that was verified before: whether its time has come and is not over, and whether it was
// revoked since. The error is a [*TokenError]. It allocates nothing unless it refuses.
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

// Until returns when a grant ends here: when its token expires, and the leeway.
func (a *Authority) Until(g *Grant) time.Time { return g.Expires.Add(a.leeway) }

// Sign is [Keys.Sign] for an app with issuers: it refuses a token that others would refuse whatever the time, and gives a statement that
// knows what its token grants.
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

// adopt takes a statement under the rules of app mode.
func (a *Authority) adopt(st *Statement) error {
	st.authority = a
	if st.Token == "" && !st.LoggedIn {
		return nil
	}
	g, err := a.loginToken(st.Token, st.User, st.Device)
	if err != nil && st.LoggedIn {
		return badToken(err)
	}
	st.grant = g // nil where a goodbye shows a token that is no proof here, as of an issuer that has gone since
	return nil
}

// badToken is the error of a statement whose token was refused.
func badToken(err error) error {
	var bad *TokenError
	if errors.As(err, &bad) {
		return &StatementError{Reason: "log-in token: " + bad.Reason, Err: bad}
	}
	return &StatementError{Reason: "log-in token: " + err.Error(), Err: err}
}
