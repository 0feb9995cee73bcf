package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

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
	mu      sync.Mutex
	out     io.Writer
	rooms   int // entered: with more than one, each line names its room
	me      identity.Login
	vouched bool // in app mode a name is one user, whatever the key
	// keys has the key that each name alone stands for: the pinned one, or the first seen; zero:
	// none.
	keys   map[string]identity.PublicKey
	were   map[string]bool  // members who were in a room before us, as room/key
	addrs  map[string]bool  // reported already
	missed map[peer.ID]bool // given by --peer, and not connected
	now    func() time.Time
	zone   *time.Location
}

func newTextView(out io.Writer) *textView {
	return &textView{
		out: out, keys: make(map[string]identity.PublicKey), were: make(map[string]bool), addrs: make(map[string]bool),
		missed: make(map[peer.ID]bool), now: time.Now, zone: time.Local,
	}
}

func (v *textView) show(event any) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	text := v.textLocked(event)
	if text == "" {
		return nil
	}
	_, err := io.WriteString(v.out, text+"\n")
	return err
}

// maxNames bounds the names whose first key is remembered, since peers choose them. Beyond it names
// are shown with their key, so that none can be taken for another.
const maxNames = 4096

// meansLocked sets which key a name alone stands for from now on: the pinned one, or the zero key
// if two users have the name and it is pinned to neither.
func (v *textView) meansLocked(user string, key identity.PublicKey) {
	if _, known := v.keys[user]; known || !key.IsZero() || len(v.keys) < maxNames {
		v.keys[user] = key
	}
}

// shown returns the user that a name alone is shown for, if that is one key.
func (v *textView) shown(name string) (l identity.Login, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := v.keys[name]
	return identity.Login{User: name, Key: key}, !v.vouched && !key.IsZero()
}

// nameLocked is how a user is shown: by name, and with the key if another user had that name
// before.
func (v *textView) nameLocked(l identity.Login) string {
	first, known := v.keys[l.User]
	if !known && len(v.keys) < maxNames {
		v.keys[l.User], first = l.Key, l.Key
	}
	if first != l.Key {
		return l.Address().String()
	}
	return l.User
}

func (v *textView) namesLocked(logins []identity.Login) string {
	names := make([]string, len(logins))
	for i, l := range logins {
		names[i] = v.nameLocked(l)
	}
	if len(names) == 0 {
		return "nobody else"
	}
	return strings.Join(names, ", ")
}

func payload(kind mesh.Kind, data []byte) string {
	if kind == mesh.Text {
		return safeText(string(data))
	}
	return binarySummary(data)
}
