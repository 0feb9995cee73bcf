package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// defaultTokenLife is how long a token lives by default. It is short because a revocation takes
// effect only on nodes that it has reached.
const defaultTokenLife = time.Hour

// Claims are what a token is to say.
type Claims struct {
	User string // the user who logs in, or is in the rooms
	// The device key that the token is bound to; `starling id` on the device shows it.
	Device PublicKey
	// Room to role, 1 to 32 of the characters of an ID: "member", "moderator"; at most 64 rooms.
	Rooms   map[string]string
	Login   bool      // valid for logging in; a token without Rooms always is
	Issued  time.Time // zero: now
	Begins  time.Time // zero: at once
	Expires time.Time // zero: an hour after Issued
	ID      string    // jti, by which the token can be revoked; empty: 128 random bits
}

// Issuer signs the tokens of an app. It belongs in a backend: its key decides who is a user. It is
// safe for concurrent use.
type Issuer struct {
	app     string
	key     ed25519.PrivateKey
	public  IssuerKey
	appRoot PublicKey
}

// IssuerOption is a setting of an [Issuer].
type IssuerOption func(*Issuer)

// WithKid sets the ID of the issuer's key. The default is its thumbprint: see [NewIssuerKey].
func WithKid(kid string) IssuerOption { return func(i *Issuer) { i.public.Kid = kid } }

// WithRoot sets the app's root key, for an issuer that is not the root itself. Only revocations
// need it.
func WithRoot(root PublicKey) IssuerOption { return func(i *Issuer) { i.appRoot = root } }

// NewIssuer returns an issuer of tokens for the app called name.
func NewIssuer(name string, key ed25519.PrivateKey, opts ...IssuerOption) (*Issuer, error) {
	if err := CheckApp(name); err != nil {
		return nil, err
	}
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("issuer: private key of %d bytes", len(key))
	}
	i := &Issuer{app: name, key: key, public: NewIssuerKey(publicKey(key)), appRoot: publicKey(key)}
	for _, o := range opts {
		o(i)
	}
	if !printable(i.public.Kid, MaxKid) {
		return nil, fmt.Errorf("issuer: kid %s: want 1 to %d printable characters without spaces", quote(i.public.Kid), MaxKid)
	}
	return i, nil
}

// Public returns the public half, which every node of the app needs.
func (i *Issuer) Public() IssuerKey { return i.public }

// Issue signs a token. It refuses, with a [*TokenError], a token that nodes would refuse at any
// time.
func (i *Issuer) Issue(c Claims) (string, error) {
	now := time.Now()
	if c.Issued.IsZero() {
		c.Issued = now
	}
	if c.Expires.IsZero() {
		c.Expires = c.Issued.Add(defaultTokenLife)
	}
	if c.ID == "" {
		c.ID = newTokenID()
	}
	if c.Device.IsZero() {
		return "", tokenError(ErrTokenUnbound, "no device key to bind it to")
	}
	claims := jwt.MapClaims{
		"aud": i.app, "sub": c.User, "jti": c.ID,
		"cnf": map[string]any{"jwk": newJWK(c.Device)},
		"iat": seconds(c.Issued), "exp": seconds(c.Expires),
	}
	if !c.Begins.IsZero() {
		claims["nbf"] = seconds(c.Begins)
	}
	if len(c.Rooms) > 0 {
		claims["rooms"] = c.Rooms
		if c.Login {
			claims["login"] = true
		}
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	t.Header["kid"] = i.public.Kid
	token, err := t.SignedString(i.key)
	if err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	if _, err := parseToken(token, i.app, Issuers{keys: []IssuerKey{i.public}}); err != nil {
		return "", err
	}
	return token, nil
}

// Revoke signs a list of revocations. Pass it to [Authority.Revoke] on any node of the app: the
// nodes send it to each other.
func (i *Issuer) Revoke(r Revocations) (sealed []byte, err error) {
	return sealRevocations(NewIssuedAppID(i.app, i.appRoot), i.public.Kid, i.key, r)
}

// seconds returns whole seconds where it can, since every library reads those.
func seconds(t time.Time) any {
	if ms := t.UnixMilli(); ms%1000 != 0 {
		return float64(ms) / 1000
	}
	return t.Unix()
}

func newTokenID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return encoding.EncodeToString(b[:])
}

// checkRole returns an error unless role has 1 to 32 of the characters of an ID.
func checkRole(role string) error {
	if role == "" || len(role) > MaxRole {
		return fmt.Errorf("the role %s: want 1 to %d characters", quote(role), MaxRole)
	}
	for _, r := range role {
		if !idRune(r) {
			return fmt.Errorf("the role %s: %q is not one of a-z A-Z 0-9 _ @ . -", quote(role), r)
		}
	}
	return nil
}
