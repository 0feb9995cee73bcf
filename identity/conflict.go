package identity

import (
	"fmt"
	"strings"
)

// ConflictError reports that a name cannot be resolved to one key. Nothing was sent. Send to one of Found exactly, by
// its Address.
type ConflictError struct {
	User   string
	Pinned PublicKey // the key that the name is pinned to, and that is not there; zero: not pinned
	Found  []Login   // who uses the name, with other keys than Pinned: at least one if it is pinned, else at least two
}

func (e *ConflictError) Error() string {
	found := Addresses(e.Found)
	if e.Pinned.IsZero() {
		return fmt.Sprintf("identity: %s is the name of several users: %s", e.User, found)
	}
	return fmt.Sprintf("identity: %s is pinned to key %s, which is not there, but %s is", e.User, e.Pinned.Fingerprint(), found)
}

// Addresses returns the exact addresses of some logins, for people, with commas between them.
func Addresses(logins []Login) string {
	var all []string
	for _, l := range logins {
		all = append(all, l.Address().String())
	}
	return strings.Join(all, ", ")
}
