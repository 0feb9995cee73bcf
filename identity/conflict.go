package identity

import (
	"fmt"
	"strings"
)

// ConflictError reports that a name cannot be resolved to one key. Nothing was sent. To send to one
// of Found, use its Address.
type ConflictError struct {
	User   string
	Pinned PublicKey // the key that the name is pinned to, and that was not found; zero: not pinned
	// Logins that use the name with keys other than Pinned: at least one if it is pinned, else at
	// least two.
	Found []Login
}

func (e *ConflictError) Error() string {
	found := Addresses(e.Found)
	if e.Pinned.IsZero() {
		return fmt.Sprintf("%s is the name of several users: %s", e.User, found)
	}
	return fmt.Sprintf("%s is pinned to key %s, which is not there, but %s is", e.User, e.Pinned.Fingerprint(), found)
}

// Addresses returns the exact addresses of some logins, separated by commas, for people to read.
func Addresses(logins []Login) string {
	var all []string
	for _, l := range logins {
		all = append(all, l.Address().String())
	}
	return strings.Join(all, ", ")
}
