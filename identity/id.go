package identity

import (
	"errors"
	"fmt"
)

const (
	// MaxID is the most characters that a user, room or app ID may have.
	MaxID = 128
	// MaxInfo is the most bytes of info that a member may show in a room.
	MaxInfo = 200
)

// ErrEmptyID reports an ID with no characters. It comes inside an [*IDError].
var ErrEmptyID = errors.New("empty")

// IDError reports an ID outside [a-zA-Z0-9_@.-]{1,128}.
type IDError struct {
	Kind  string // "user", "room" or "app"
	Value string // the whole ID that was refused
	Err   error  // what is wrong with it
}

// Error shows at most the first MaxID bytes of the ID, quoted.
func (e *IDError) Error() string {
	shown, more := e.Value, ""
	if len(shown) > MaxID {
		shown, more = shown[:MaxID], "…"
	}
	return fmt.Sprintf("%s ID %q%s: %v", e.Kind, shown, more, e.Err)
}

// Unwrap returns Err, so that errors.Is(err, ErrEmptyID) is true for an empty ID.
func (e *IDError) Unwrap() error { return e.Err }

// InfoSizeError reports info of more than [MaxInfo] bytes.
type InfoSizeError struct{ Size int }

func (e *InfoSizeError) Error() string {
	return fmt.Sprintf("user info of %d bytes is over the limit of %d", e.Size, MaxInfo)
}

// CheckUser returns an [*IDError] unless id matches [a-zA-Z0-9_@.-]{1,128}.
func CheckUser(id string) error { return checkID("user", id) }

// CheckRoom returns an [*IDError] unless id matches [a-zA-Z0-9_@.-]{1,128}.
func CheckRoom(id string) error { return checkID("room", id) }

// CheckApp returns an [*IDError] unless name, an app's name, matches [a-zA-Z0-9_@.-]{1,128}.
func CheckApp(name string) error { return checkID("app", name) }

// CheckInfo returns an [*InfoSizeError] if info has more than [MaxInfo] bytes.
func CheckInfo(info []byte) error {
	if len(info) > MaxInfo {
		return &InfoSizeError{Size: len(info)}
	}
	return nil
}

func checkID(kind, id string) error {
	if id == "" {
		return &IDError{Kind: kind, Value: id, Err: ErrEmptyID}
	}
	if len(id) > MaxID {
		return &IDError{Kind: kind, Value: id, Err: fmt.Errorf("%d bytes, at most %d are allowed", len(id), MaxID)}
	}
	for _, r := range id {
		if !idRune(r) {
			return &IDError{Kind: kind, Value: id, Err: fmt.Errorf("%q is not one of a-z A-Z 0-9 _ @ . -", r)}
		}
	}
	return nil
}

func idRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' ||
		r == '_' || r == '@' || r == '.' || r == '-'
}
