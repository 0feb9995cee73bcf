package screen

import (
	"fmt"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
)

// The keys besides those of the editor.
var keys = struct {
	enter, interrupt, suspend, tab, back, older, newer key.Binding
	pageUp, pageDown, top, bottom, next, before, hide  key.Binding
}{
	enter:     key.NewBinding(key.WithKeys("enter")),
	interrupt: key.NewBinding(key.WithKeys("ctrl+c")),
	suspend:   key.NewBinding(key.WithKeys("ctrl+z")),
	tab:       key.NewBinding(key.WithKeys("tab")),
	back:      key.NewBinding(key.WithKeys("shift+tab")),
	older:     key.NewBinding(key.WithKeys("up")),
	newer:     key.NewBinding(key.WithKeys("down")),
	pageUp:    key.NewBinding(key.WithKeys("pgup")),
	pageDown:  key.NewBinding(key.WithKeys("pgdown")),
	top:       key.NewBinding(key.WithKeys("ctrl+home")),
	bottom:    key.NewBinding(key.WithKeys("ctrl+end")),
	next:      key.NewBinding(key.WithKeys("ctrl+n", "alt+down")),
	before:    key.NewBinding(key.WithKeys("ctrl+p", "alt+up")),
	hide:      key.NewBinding(key.WithKeys("esc")),
}

// helpTable is what /help shows on a screen.
func helpTable() []row {
	rows := []row{{"TEXT", session.HelpOfText}}
	for _, v := range session.Commands {
		rows = append(rows, row{strings.TrimSpace("/" + v.Verb + " " + v.Args), v.Help})
	}
	return append(rows,
		row{"Tab", "completes a command, a room or a name"},
		row{"Ctrl-N, Ctrl-P", "the next conversation, the one before; Alt-1 to Alt-9: by place"},
		row{"Page Up, Page Down", "scroll; Ctrl-End: to the newest"},
		row{"Up, Down", "what you typed before"},
		row{"Alt-Enter", "begins another line of the message"},
		row{"Ctrl-C", "leaves; Ctrl-Z: to the shell, and back with fg"},
		row{"✓  ✓✓", "sent to the room; delivered to the user, and in what time"},
		row{"?  ✗", "unknown, it may have arrived; failed, and why"},
		row{"●  ○  ?", "online; offline; it cannot be told, so that a message is not likely to arrive"},
	)
}

// press does what a key says.
func (t *tui) press(msg tea.KeyPressMsg) tea.Cmd {
	if !key.Matches(msg, keys.tab, keys.back) {
		t.complete.list = nil
	}
	if n := msg.Code - '1'; msg.Mod == tea.ModAlt && n >= 0 && n < 9 {
		if int(n) < len(t.talks) {
			t.show(t.talks[n])
		}
		return nil
	}
	switch {
	case key.Matches(msg, keys.enter):
		t.complete.hidden = false
		t.submit()
	case key.Matches(msg, keys.interrupt):
		t.closing = true
		t.interrupt()
	case key.Matches(msg, keys.suspend):
		return tea.Suspend
	case key.Matches(msg, keys.tab):
		t.tab(1)
	case key.Matches(msg, keys.back):
		t.tab(-1)
	case key.Matches(msg, keys.hide):
		if t.complete.hidden || len(t.candidates()) == 0 {
			t.scroll(-t.here.up)
		}
		t.complete.hidden = true
	case key.Matches(msg, keys.older):
		t.recall(-1)
	case key.Matches(msg, keys.newer):
		t.recall(1)
	case key.Matches(msg, keys.pageUp):
		t.scroll(t.page())
	case key.Matches(msg, keys.pageDown):
		t.scroll(-t.page())
	case key.Matches(msg, keys.top):
		t.scroll(1 << 30)
	case key.Matches(msg, keys.bottom):
		t.scroll(-t.here.up)
	case key.Matches(msg, keys.next):
		t.step(1)
	case key.Matches(msg, keys.before):
		t.step(-1)
	case t.here.line.press(msg.String(), t.cells):
		t.complete.hidden = false
	case msg.Text != "":
		t.typed(msg.Text)
	}
	return nil
}

// typed inserts a text at the cursor.
func (t *tui) typed(text string) {
	t.complete = completion{}
	if !t.here.line.insert(text) {
		t.tell(nil, session.Alarm("%s", session.ErrLineTooLong))
	}
}

// recall shows a line typed before.
func (t *tui) recall(by int) {
	at := t.recalled + by
	if at < 0 || at > len(t.history) {
		return
	}
	if t.recalled == len(t.history) {
		t.draft = t.here.line.text
	}
	t.recalled = at
	if at == len(t.history) {
		t.here.line.set(t.draft)
		return
	}
	t.here.line.set(t.history[at])
}

// scroll goes back by that many lines, or forward if by is negative.
func (t *tui) scroll(by int) {
	k := t.here
	k.up = min(max(0, k.up+by), max(0, t.drawnLines(k)-t.bodyHeight()))
	if k.up == 0 {
		k.below = 0
	}
}

func (t *tui) page() int { return max(1, t.bodyHeight()-2) }

// submit executes the line: it hands it to the session unless it concerns only the screen.
func (t *tui) submit() {
	k := t.here
	line := k.line.text
	in, err := session.ParseLine(line)
	if in.Verb == "" && err == nil {
		return
	}
	if err == nil {
		err = t.obey(k, in, line)
	}
	if err == errBusy {
		t.tell(k, session.Alarm("%s", err))
		return // the line stays
	}
	k.line.set("")
	t.remember(line)
	k.up, k.below = 0, 0
	if err != nil {
		t.tell(k, session.Alarm("%s", err))
	}
}

func (t *tui) remember(line string) {
	if n := len(t.history); n == 0 || t.history[n-1] != line {
		t.history = append(t.history, line)
	}
	if len(t.history) > maxHistory {
		t.history = t.history[1:]
	}
	t.recalled, t.draft = len(t.history), ""
}

var errBusy = fmt.Errorf("%d lines wait to be seen to: try again in a moment", maxLines)

// obey executes a typed line, in the conversation that it was typed in.
func (t *tui) obey(k *talk, in session.Input, line string) error {
	switch in.Verb {
	case "say":
		if k == t.home {
			return session.ErrNoRoom
		}
		if k.direct() {
			return t.whisper(k, k, in.Text)
		}
		return t.message(k, k, "", in.Text, session.Typed{Text: line})
	case "to":
		if k.direct() {
			return fmt.Errorf("/to is for rooms, and this is none: /msg %s TEXT", in.Name)
		}
		to, user := t.meant(in.Name, t.inside(k, in.Name))
		return t.message(k, k, in.Name, in.Text, session.Typed{Text: "/to " + to + " " + in.Text, User: user})
	case "msg":
		to := t.user(in.Name)
		if strings.TrimSpace(in.Text) != "" {
			if err := t.whisper(k, to, in.Text); err != nil {
				return err
			}
		}
		t.show(to)
		return nil
	case "join":
		if o := t.room(in.Name); o != nil && o.joined {
			t.show(o)
			return nil
		}
	case "leave":
		if k == t.home {
			return session.ErrNoRoom
		}
		if k.direct() || !k.joined && !t.enter[k.room] {
			t.drop(k) // the session has nothing to leave
			return nil
		}
	case "help":
		t.event(session.Help{Head: session.NewHead("help", ""), Lines: session.HelpLines()})
		return nil
	case "quit":
		t.closing = true
	}
	return t.give(k, session.Typed{Text: line})
}

// whisper sends a message to the user of the conversation to, and shows it there, wherever it was
// typed.
func (t *tui) whisper(from, to *talk, text string) error {
	address, user := t.addressOf(to)
	err := t.message(from, to, "", text, session.Typed{Text: "/msg " + address + " " + text, User: user})
	if err == nil {
		to.named = true
	}
	return err
}

// give hands a line to the session.
func (t *tui) give(k *talk, line session.Typed) error {
	if line.Room = k.room; !t.send(line) {
		return errBusy
	}
	t.lines++
	return nil
}

// message hands a message to the session, and shows it without a result in its conversation.
func (t *tui) message(from, in *talk, aside, text string, line session.Typed) error {
	if err := t.give(from, line); err != nil {
		return err
	}
	e := &entry{from: t.me.User, self: true, aside: aside, text: prose.Safe(text), mark: markSending}
	t.sent[t.lines] = sending{in, e}
	t.add(in, e)
	return nil
}
