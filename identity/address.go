package identity

import (
	"fmt"
	"strings"
)

// Address names a user to send to. With a fingerprint it names exactly one user key; without one it
// means the key that the name is pinned to. An address is never an ID, since '#' cannot occur in an
// ID.
type Address struct {
	User        string
	Fingerprint string // of the user key; empty: the pinned key, or the only one found
}

// AddressError reports an address that is neither "alice" nor "alice#fingerprint". If only the user
// name is wrong, the error is an [*IDError] instead.
type AddressError struct {
	Value string
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("address %q: after '#' belongs a fingerprint of %d characters of a-z 2-7",
		e.Value, FingerprintSize)
}

// ParseAddress reads "alice" or "alice#fingerprint". Capitals in a fingerprint are accepted.
func ParseAddress(s string) (Address, error) {
	user, print, exact := strings.Cut(s, "#")
	if err := CheckUser(user); err != nil {
		return Address{}, err
	}
	if !exact {
		return Address{User: user}, nil
	}
	print = strings.ToLower(print)
	if !isFingerprint(print) {
		return Address{}, &AddressError{Value: s}
	}
	return Address{User: user, Fingerprint: print}, nil
}

// Matches reports whether the address may mean the given user with the given key.
func (a Address) Matches(user string, key PublicKey) bool {
	return a.User == user && (a.Fingerprint == "" || a.Fingerprint == key.Fingerprint())
}

// String returns the form that [ParseAddress] reads.
func (a Address) String() string {
	if a.Fingerprint == "" {
		return a.User
	}
	return a.User + "#" + a.Fingerprint
}

func isFingerprint(s string) bool {
	if len(s) != FingerprintSize {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '2' <= c && c <= '7') {
			return false
		}
	}
	return true
}
