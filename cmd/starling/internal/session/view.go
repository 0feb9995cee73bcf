// Package session is the chat without its looks: one user who talks, typed lines in and events out,
// and the words for these events. A [View] shows it.
package session

import "github.com/starling-mesh/starling/identity"

// View shows the chat to its user: as text for people or as JSON for programs. Its methods may be
// called from any goroutine.
type View interface {
	// Show shows an event, whole.
	Show(Event) error
	// Shown returns the user that a name alone is shown for, if that is one key and the view leaves
	// it to the session to send what is typed for the name to that key alone.
	Shown(name string) (identity.Login, bool)
	// Guard runs f. If f panics, it restores the terminal, if the view has it, before the process
	// ends.
	Guard(f func())
}
