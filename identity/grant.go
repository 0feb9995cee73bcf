package identity

import (
	"errors"
	"fmt"
	"time"
)

const (
	// MaxToken is the most bytes of a token. A token usually has 500.
	MaxToken = 4 << 10
	// MaxTokenID is the most characters of a token's jti.
	MaxTokenID = 64
	// MaxTokenRooms is the most rooms that a token may name.
	MaxTokenRooms = 64
	// MaxRole is the most characters of a role.
	MaxRole = 32
	// TokenWarning is how long before a token expires its holder is warned.
	TokenWarning = 30 * time.Second
)

// Grant is what a token says, once its issuer's signature has been verified. It is shared and read
// only.
type Grant struct {
	User    string
	Device  PublicKey         // the only device key with which the token may be used
	Rooms   map[string]string // room to role; empty for a token for logging in only
	Login   bool              // the token is valid for logging in
	Issued  time.Time         // zero: not stated
	Begins  time.Time         // zero: at once
	Expires time.Time
	ID      string // jti
	Kid     string // of the issuer key that signed
}

// Role returns the user's role in a room, and whether the token admits the user there at all.
func (g *Grant) Role(room string) (role string, ok bool) {
	role, ok = g.Rooms[room]
	return role, ok
}

// Reasons why a token was refused. Each comes inside a [*TokenError].
var (
	ErrTokenMissing     = errors.New("no token")
	ErrTokenSize        = errors.New("token too large")
	ErrTokenMalformed   = errors.New("malformed token")
	ErrTokenAlgorithm   = errors.New("wrong token algorithm")
	ErrTokenIssuer      = errors.New("token of a foreign issuer")
	ErrTokenApp         = errors.New("token for another app")
	ErrTokenUser        = errors.New("token of another user")
	ErrTokenUnbound     = errors.New("token bound to no device key")
	ErrTokenDevice      = errors.New("token bound to another device key")
	ErrTokenPurpose     = errors.New("not a log-in token")
	ErrTokenRoom        = errors.New("token does not admit to the room")
	ErrTokenNotYetValid = errors.New("token not yet valid")
	ErrTokenExpired     = errors.New("token expired")
	ErrTokenRevoked     = errors.New("token revoked")
)

// TokenError reports a token that was refused. errors.Is finds the ErrToken error that is the
// reason. errors.As finds a [*ClockError] where this device's clock may be the cause.
type TokenError struct {
	Reason string // for people, without "token" in front
	Err    error
}

func (e *TokenError) Error() string { return "token: " + e.Reason }

// Unwrap returns Err.
func (e *TokenError) Unwrap() error { return e.Err }

func tokenError(err error, format string, args ...any) *TokenError {
	return &TokenError{Reason: fmt.Sprintf(format, args...), Err: err}
}

// ClockError reports that a token's issue time lies in the future by this device's clock, by more
// than the leeway. Tokens are issued before they are shown, so one of the two clocks is wrong. It
// is usually this device's, so check that one first. errors.Is finds [ErrTokenNotYetValid] and
// [ErrClock].
type ClockError struct {
	Issued time.Time // by the issuer's clock
	Now    time.Time // by this device's
}

func (e *ClockError) Error() string {
	return fmt.Sprintf("the clock of this device says %s, %v before the token was issued: check the clock",
		e.Now.UTC().Format(time.RFC3339), e.Issued.Sub(e.Now).Round(time.Second))
}

// Is makes a ClockError match both [ErrTokenNotYetValid] and [ErrClock].
func (e *ClockError) Is(target error) bool {
	return target == ErrTokenNotYetValid || target == ErrClock
}
