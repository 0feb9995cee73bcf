package screen

import (
	"strings"
	"unicode"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
)

// editor is a line being typed. It moves and deletes by what is shown in one place, not by rune.
type editor struct {
	text string
	at   int // the cursor: a byte of text
}

func (e *editor) set(text string) { e.text, e.at = text, len(text) }

// insert puts a text in at the cursor. If the line would get too long, it does nothing and returns
// false.
func (e *editor) insert(text string) bool {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	if len(e.text)+len(text) > session.MaxLine {
		return false
	}
	e.text = e.text[:e.at] + text + e.text[e.at:]
	e.at += len(text)
	return true
}

// before returns the start of the cluster in front of the cursor. after returns the end of the one
// behind it.
func (e *editor) before(c cells) int {
	at := 0
	for at < e.at {
		_, _, n := c.first(e.text[at:])
		if at+n >= e.at {
			break
		}
		at += n
	}
	return at
}

func (e *editor) after(c cells) int {
	if e.at == len(e.text) {
		return e.at
	}
	_, _, n := c.first(e.text[e.at:])
	return e.at + n
}

// wordBefore returns the start of the word in front of the cursor.
func (e *editor) wordBefore() int {
	s := strings.TrimRightFunc(e.text[:e.at], unicode.IsSpace)
	return strings.LastIndexFunc(s, unicode.IsSpace) + 1
}

func (e *editor) wordAfter() int {
	rest := e.text[e.at:]
	skipped := len(rest) - len(strings.TrimLeftFunc(rest, unicode.IsSpace))
	if i := strings.IndexFunc(rest[skipped:], unicode.IsSpace); i >= 0 {
		return e.at + skipped + i
	}
	return len(e.text)
}

// cutTo deletes the text between the cursor and there.
func (e *editor) cutTo(there int) {
	from, to := min(e.at, there), max(e.at, there)
	e.text, e.at = e.text[:from]+e.text[to:], from
}

// press applies a key, and reports whether it is one of the editor's.
func (e *editor) press(key string, c cells) bool {
	switch key {
	case "left", "ctrl+b":
		e.at = e.before(c)
	case "right", "ctrl+f":
		e.at = e.after(c)
	case "home", "ctrl+a":
		e.at = 0
	case "end", "ctrl+e":
		e.at = len(e.text)
	case "alt+left", "ctrl+left", "alt+b":
		e.at = e.wordBefore()
	case "alt+right", "ctrl+right", "alt+f":
		e.at = e.wordAfter()
	case "backspace", "ctrl+h":
		e.cutTo(e.before(c))
	case "delete", "ctrl+d":
		e.cutTo(e.after(c))
	case "ctrl+w", "alt+backspace", "ctrl+backspace":
		e.cutTo(e.wordBefore())
	case "alt+d", "ctrl+delete", "alt+delete":
		e.cutTo(e.wordAfter())
	case "ctrl+u":
		e.cutTo(0)
	case "ctrl+k":
		e.cutTo(len(e.text))
	case "alt+enter", "shift+enter", "ctrl+j":
		e.insert("\n")
	default:
		return false
	}
	return true
}

// view returns the part of the line around the cursor, and the cursor's column in it.
func (e *editor) view(c cells, width int) (shown string, cursor int) {
	type piece struct {
		text  string
		width int
	}
	var pieces []piece
	col, total := 0, 0
	for at := 0; at < len(e.text); {
		cluster, w, n := c.first(e.text[at:])
		switch cluster {
		case "\n":
			cluster, w = "⏎", 1
		case "\t":
			cluster, w = " ", 1
		default:
			if safe := prose.Safe(cluster); safe != cluster {
				cluster, w = safe, c.width(safe)
			}
		}
		pieces = append(pieces, piece{cluster, w})
		if at < e.at {
			col += w
		}
		total += w
		at += n
	}
	skip := 0
	// The line does not jump: the cursor stays, and the line moves under it.
	if total >= width && col > width*3/4 {
		skip = min(col-width*3/4, total-width+1)
	}
	var b strings.Builder
	passed, used := 0, 0
	for _, p := range pieces {
		if passed < skip {
			passed += p.width
			continue
		}
		if used+p.width > width {
			break
		}
		b.WriteString(p.text)
		used += p.width
	}
	return b.String(), min(max(0, col-passed), max(0, width-1))
}
