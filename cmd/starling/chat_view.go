package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// view shows the chat to its user: as text for people or as JSON for programs. show may be called
// from any goroutine, and writes each event whole.
type view interface{ show(event any) error }

// jsonView writes one object a line.
type jsonView struct {
	mu  sync.Mutex
	out io.Writer
}

func (v *jsonView) show(event any) error {
	line, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("event %T: %w", event, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err = v.out.Write(append(line, '\n'))
	return err
}

// textView writes lines for people.
type textView struct {
	mu    sync.Mutex
	out   io.Writer
	words *wording
}

func newTextView(out io.Writer) *textView { return &textView{out: out, words: newWording()} }

// shown is [wording.shown], for other goroutines.
func (v *textView) shown(name string) (l identity.Login, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.words.shown(name)
}

func (v *textView) show(event any) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	said := v.words.say(event)
	if said.text == "" {
		return nil
	}
	_, err := fmt.Fprintln(v.out, said)
	return err
}

// maxNames bounds the names whose first key is remembered, since peers choose them. Beyond it names
// are shown with their key, so that none can be taken for another.
const maxNames = 4096

// means sets which key a name alone stands for from now on: the pinned one, or the zero key
// if two users have the name and it is pinned to neither.
func (w *wording) means(user string, key identity.PublicKey) {
	if _, known := w.keys[user]; known || !key.IsZero() || len(w.keys) < maxNames {
		w.keys[user] = key
	}
}

// shown returns the user that a name alone is shown for, if that is one key.
func (w *wording) shown(name string) (l identity.Login, ok bool) {
	key := w.keys[name]
	return identity.Login{User: name, Key: key}, !w.vouched && !key.IsZero()
}

// name is how a user is shown: by name, and with the key if another user had that name
// before.
func (w *wording) name(l identity.Login) string {
	first, known := w.keys[l.User]
	if !known && len(w.keys) < maxNames {
		w.keys[l.User], first = l.Key, l.Key
	}
	if first != l.Key {
		return l.Address().String()
	}
	return l.User
}

func (w *wording) names(logins []identity.Login) string {
	names := make([]string, len(logins))
	for i, l := range logins {
		names[i] = w.name(l)
	}
	if len(names) == 0 {
		return "nobody else"
	}
	return strings.Join(names, ", ")
}

func payload(kind mesh.Kind, data []byte) string {
	if kind == mesh.Text {
		return prose.Safe(string(data))
	}
	return prose.Binary(data)
}
