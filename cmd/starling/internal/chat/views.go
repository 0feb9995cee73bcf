package chat

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
)

// jsonView writes one object a line.
type jsonView struct {
	mu  sync.Mutex
	out io.Writer
}

func (v *jsonView) Show(event session.Event) error {
	line, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("event %T: %w", event, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err = v.out.Write(append(line, '\n'))
	return err
}

// Shown reports that programs see the keys.
func (v *jsonView) Shown(string) (identity.Login, bool) { return identity.Login{}, false }

// Guard runs f: there is no terminal to restore.
func (v *jsonView) Guard(f func()) { f() }

// textView writes lines for people.
type textView struct {
	mu    sync.Mutex
	out   io.Writer
	words *session.Wording
}

func newTextView(out io.Writer) *textView { return &textView{out: out, words: session.NewWording()} }

// Shown returns the user that a name alone is shown for, if that is one key.
func (v *textView) Shown(name string) (l identity.Login, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.words.Shown(name)
}

func (v *textView) Show(event session.Event) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	said := v.words.Say(event)
	if said.Text == "" {
		return nil
	}
	_, err := fmt.Fprintln(v.out, said)
	return err
}

// Guard runs f: the terminal is used as it is.
func (v *textView) Guard(f func()) { f() }
