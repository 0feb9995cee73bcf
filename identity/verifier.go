package identity

import (
	"crypto/sha256"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// verifierCache is how many verified statements a Verifier keeps: several times the members of a
// full room. At 8 KiB each that is at most 16 MiB, and at the usual 300 B less than 1 MiB.
const verifierCache = 2048

// Verifier is [Verify] with a cache: a statement seen before costs a hash instead of two signature
// checks. The time is checked on every call. It is safe for concurrent use.
type Verifier struct {
	app       AppID
	authority *Authority // nil: open mode
	cache     *lru.Cache[[sha256.Size]byte, *Statement]
}

// VerifierOption is a setting of a [Verifier].
type VerifierOption func(*Verifier)

// WithAuthority sets the authority that judges tokens, for app mode: a statement that claims a
// log-in must then carry a token valid for it. The default is open mode, where tokens mean nothing.
func WithAuthority(a *Authority) VerifierOption { return func(v *Verifier) { v.authority = a } }

// NewVerifier returns a verifier of one app's statements.
func NewVerifier(app AppID, opts ...VerifierOption) *Verifier {
	cache, err := lru.New[[sha256.Size]byte, *Statement](verifierCache)
	if err != nil {
		panic("identity: " + err.Error()) // only a size below 1 fails
	}
	v := &Verifier{app: app, cache: cache}
	for _, o := range opts {
		o(v)
	}
	return v
}

// Verify is [Verify] for the verifier's app. Callers with equal bytes get the same *Statement. Only
// statements that verified are cached, so that forgeries cannot displace them.
//
// With an authority, a token must belong to the statement's user and device and be valid for
// logging in. A statement of a log-in must have a token, which must also be valid at that time.
func (v *Verifier) Verify(sealed []byte, now time.Time) (*Statement, error) {
	st, err := v.VerifyLapsed(sealed, now)
	if err != nil {
		return nil, err
	}
	if err := st.CheckLogin(now); err != nil {
		return nil, err
	}
	return st, nil
}

// VerifyLapsed is Verify, but accepts a log-in whose token has expired or was revoked:
// [Statement.LoggedInAt] reports whether the log-in counts. Use it to learn whose device it is
// where that does not depend on a log-in, as in a room.
func (v *Verifier) VerifyLapsed(sealed []byte, now time.Time) (*Statement, error) {
	if len(sealed) > MaxStatement {
		return nil, oversize(len(sealed))
	}
	sum := sha256.Sum256(sealed)
	st, ok := v.cache.Get(sum)
	if !ok {
		var err error
		if st, err = open(sealed); err != nil {
			return nil, err
		}
	}
	if err := st.check(v.app, now); err != nil {
		return nil, err
	}
	if !ok {
		if v.authority != nil {
			if err := v.authority.adopt(st); err != nil {
				return nil, err
			}
		}
		v.cache.Add(sum, st)
	}
	return st, nil
}
