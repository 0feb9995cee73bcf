package session

import (
	"strings"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// maxNames bounds the names whose first key is remembered, since peers choose them. Beyond it names
// are shown with their key, so that none can be taken for another.
const maxNames = 4096

// Means sets which key a name alone stands for from now on: the pinned one, or the zero key
// if two users have the name and it is pinned to neither.
func (w *Wording) Means(user string, key identity.PublicKey) {
	if _, known := w.keys[user]; known || !key.IsZero() || len(w.keys) < maxNames {
		w.keys[user] = key
	}
}

// Stands returns the key that a name alone stands for, and whether the name is known.
func (w *Wording) Stands(user string) (key identity.PublicKey, known bool) {
	key, known = w.keys[user]
	return key, known
}

// Shown returns the user that a name alone is shown for, if that is one key.
func (w *Wording) Shown(name string) (l identity.Login, ok bool) {
	key := w.keys[name]
	if w.vouched || key.IsZero() {
		return identity.Login{}, false
	}
	return identity.Login{User: name, Key: key}, true
}

// Name is how a user is shown: by name, and with the key if another user had that name
// before.
func (w *Wording) Name(l identity.Login) string {
	first, known := w.keys[l.User]
	if !known && len(w.keys) < maxNames {
		w.keys[l.User], first = l.Key, l.Key
	}
	if first != l.Key {
		return l.Address().String()
	}
	return l.User
}

func (w *Wording) names(logins []identity.Login) string {
	names := make([]string, len(logins))
	for i, l := range logins {
		names[i] = w.Name(l)
	}
	if len(names) == 0 {
		return "nobody else"
	}
	return strings.Join(names, ", ")
}

// Payload returns what people see of the data of a message.
func Payload(kind mesh.Kind, data []byte) string {
	if kind == mesh.Text {
		return prose.Safe(string(data))
	}
	return prose.Binary(data)
}
