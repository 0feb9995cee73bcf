package screen

import (
	"strings"

	"charm.land/lipgloss/v2"
)

// drawnFor is what the lines of an entry depend on, besides the entry.
type drawnFor struct{ width, look int }

// indent is in front of the second and later lines of an entry: as wide as the time.
const indent = 6

// draw returns the lines of an entry, none wider than width.
func (t *tui) draw(e *entry, width int) []string {
	want := drawnFor{width, t.look}
	if e.lines == nil || e.drawn != want {
		e.lines, e.drawn = t.drawNew(e, width), want
	}
	return e.lines
}

func (t *tui) drawNew(e *entry, width int) []string {
	th, rest := t.theme, max(4, width-indent)
	pad := strings.Repeat(" ", indent)
	if e.table != nil {
		return t.drawTable(e.table, width)
	}
	head := th.dim.Render(e.at.In(t.zone).Format("15:04")) + " "
	if e.from == "" {
		style := th.dim
		sign := "· "
		if e.alarm {
			style, sign = th.bad, "! "
		}
		var lines []string
		for i, l := range t.cells.wrap(e.text, rest-2, rest-2) {
			if i == 0 {
				lines = append(lines, head+style.Render(sign+l))
				continue
			}
			lines = append(lines, pad+style.Render("  "+l))
		}
		return lines
	}

	name := t.cells.cut(e.from, max(8, width/3))
	style := th.name(e.from)
	if e.self {
		style = th.self
	}
	head += style.Render(name)
	used := indent + t.cells.width(name)
	if e.aside != "" {
		to := " → " + t.cells.cut(e.aside, max(8, width/4))
		head += th.warn.Render(to)
		used += t.cells.width(to)
	}
	head += " "
	used++
	lines := t.cells.wrap(e.text, width-used, rest)
	last := lines[len(lines)-1]
	lastWidth := t.cells.width(last) + indent
	if len(lines) == 1 {
		lastWidth = t.cells.width(last) + used
	}
	for i := range lines {
		lines[i] = th.text.Render(lines[i])
		if i == 0 {
			lines[i] = head + lines[i]
			continue
		}
		lines[i] = pad + lines[i]
	}
	return t.drawMark(e, lines, lastWidth, width)
}

// drawTable puts terms beside their meanings or, where that is too narrow, above them.
func (t *tui) drawTable(rows []row, width int) (lines []string) {
	terms := 0
	for _, r := range rows {
		terms = max(terms, t.cells.width(r.term))
	}
	for _, r := range rows {
		if width < terms+40 {
			lines = append(lines, t.theme.key.Render(t.cells.cut(r.term, width)))
			for _, l := range t.cells.wrap(r.means, width-2, width-2) {
				lines = append(lines, "  "+t.theme.dim.Render(l))
			}
			continue
		}
		for i, l := range t.cells.wrap(r.means, width-terms-4, width-terms-4) {
			term := strings.Repeat(" ", terms)
			if i == 0 {
				term = t.cells.fit(r.term, terms)
			}
			lines = append(lines, "  "+t.theme.key.Render(term)+"  "+t.theme.dim.Render(l))
		}
	}
	return lines
}

// drawMark adds how far the message has come: after it, or below it if there is a reason to show.
func (t *tui) drawMark(e *entry, lines []string, lastWidth, width int) []string {
	th := t.theme
	var sign string
	var style lipgloss.Style
	switch e.mark {
	case markNone:
		return lines
	case markSending:
		sign, style = "…", th.dim
	case markSent:
		sign, style = "✓", th.dim
		if e.note != "" {
			style = th.warn
			sign += " " + e.note
		}
	case markDelivered:
		sign, style = "✓✓ "+e.note, th.good
	case markUnknown:
		return t.drawReason(lines, "? unknown: "+e.note, th.warn, width)
	case markFailed:
		return t.drawReason(lines, "✗ not sent: "+e.note, th.bad, width)
	case markRefused:
		return t.drawReason(lines, "✗ refused: "+e.note, th.bad, width)
	}
	w := t.cells.width(sign)
	if lastWidth+1+w <= width {
		lines[len(lines)-1] += " " + style.Render(sign)
		return lines
	}
	return append(lines, strings.Repeat(" ", indent)+style.Render(t.cells.cut(sign, width-indent)))
}

func (t *tui) drawReason(lines []string, reason string, style lipgloss.Style, width int) []string {
	for i, l := range t.cells.wrap(reason, width-indent, width-indent-2) {
		if i > 0 {
			l = "  " + l
		}
		lines = append(lines, strings.Repeat(" ", indent)+style.Render(l))
	}
	return lines
}

// drawnLines returns how many lines a conversation has at the present width.
func (t *tui) drawnLines(k *talk) (n int) {
	for _, e := range k.entries {
		n += len(t.draw(e, t.middle()))
	}
	return n
}

// body returns the visible part of a conversation: height lines, the newest at the bottom unless it
// is scrolled back.
func (t *tui) body(k *talk, width, height int) []string {
	var seen []string // last first
	skip := k.up
	for i := len(k.entries) - 1; i >= 0 && len(seen) < height; i-- {
		lines := t.draw(k.entries[i], width)
		for j := len(lines) - 1; j >= 0 && len(seen) < height; j-- {
			if skip > 0 {
				skip--
				continue
			}
			seen = append(seen, lines[j])
		}
	}
	rows := make([]string, height)
	for i, l := range seen {
		rows[height-1-i] = l
	}
	if len(seen) < height { // few lines begin at the top
		rows = append(rows[height-len(seen):], make([]string, height-len(seen))...)
	}
	return rows
}
