package screen

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
)

// Where there is not enough room, columns are left out: first the members, then the conversations.
const (
	widthForMembers = 66
	widthForTalks   = 48
	minWidth        = 24
	minHeight       = 6
)

// sides returns the widths of the columns, 0 if not shown.
func (t *tui) sides() (left, right int) {
	side := min(max(16, t.width/7), 28)
	if t.width >= widthForTalks {
		left = side
	}
	if t.width >= widthForMembers {
		right = side
	}
	return left, right
}

// middle returns the width of what is said: between the columns, their lines, and a space at either
// side.
func (t *tui) middle() int {
	left, right := t.sides()
	w := t.width - 2
	if left > 0 {
		w -= left + 1
	}
	if right > 0 {
		w -= right + 1
	}
	return max(w, 4)
}

// bodyHeight returns the height that the line at the top and the three at the bottom leave.
func (t *tui) bodyHeight() int { return max(1, t.height-4) }

// View draws the screen.
func (t *tui) View() tea.View {
	v := tea.View{AltScreen: true, WindowTitle: t.title()}
	if t.width < minWidth || t.height < minHeight {
		v.Content = t.tooSmall()
		return v
	}
	typing, cursor := t.typing()
	rows := append([]string{t.top()}, t.columns()...)
	rows = append(rows, t.divider(), typing, t.bottom())
	v.Content = strings.Join(rows, "\n")
	if !t.closing {
		v.Cursor = tea.NewCursor(cursor, t.height-2)
	}
	return v
}

// tooSmall says what size the screen needs, as far as there is room for it.
func (t *tui) tooSmall() string {
	lines := t.cells.wrap(fmt.Sprintf("starling needs %d × %d, this is %d × %d", minWidth, minHeight, t.width, t.height), t.width, t.width)
	lines = lines[:min(len(lines), t.height)]
	for i := range lines {
		lines[i] = t.cells.cut(lines[i], t.width)
	}
	return strings.Join(lines, "\n")
}

func (t *tui) title() string {
	unread := 0
	for _, k := range t.talks {
		unread += k.unread
	}
	if unread > 0 {
		return fmt.Sprintf("(%d) %s · starling", unread, t.here.name())
	}
	return t.here.name() + " · starling"
}

// top shows the current conversation and the state of the connection.
func (t *tui) top() string {
	th, k := t.theme, t.here
	about := ""
	switch {
	case k == t.home:
	case k.direct():
		about = "  direct, outside rooms"
	case !k.joined && t.enter[k.room]:
		about = "  entering…"
	case !k.joined:
		about = "  you are out of it: /join " + k.room
	default:
		about = "  " + prose.Count(len(k.members)+1, "member")
	}
	left := th.bar.Render(" "+k.name()) + th.barDim.Render(about)
	looking := "looking for peers"
	if t.width < widthForTalks {
		looking = "looking"
	}
	state := th.barGood.Render("● " + prose.Count(len(t.peers), "peer"))
	switch {
	case t.closing:
		state = th.barBad.Render("leaving…")
	case len(t.peers) == 0 && t.me.MDNS:
		state = th.barBad.Render("○ " + looking)
	case len(t.peers) == 0:
		state = th.barBad.Render("○ no peers")
	}
	warning := ""
	if w := t.tokenWarning(); w != "" {
		warning = th.barBad.Render("! " + w + "  ")
	}
	right := warning + th.barDim.Render(t.me.User+"  ") + state + th.barDim.Render(" ")
	// What does not fit is left out in this order: the user's name, what is known of the room, the
	// state, the warning.
	const gap = 2
	fits := func() bool { return t.cells.width(left)+gap+t.cells.width(right) <= t.width }
	if !fits() {
		right = warning + state + th.barDim.Render(" ")
	}
	if !fits() && k.joined {
		left = th.bar.Render(" " + k.name())
	}
	if !fits() && warning != "" {
		right = warning
	}
	if !fits() && !k.joined {
		right = ""
	}
	room := t.width - t.cells.width(right)
	if right != "" {
		room -= gap
	}
	left = t.cells.cut(left, room)
	room = t.width - t.cells.width(right)
	return left + th.bar.Render(strings.Repeat(" ", max(0, room-t.cells.width(left)))) + right
}

// tokenWarning says what is wrong with the token of the room that is shown, or of the log-in.
func (t *tui) tokenWarning() string {
	if t.uncounted {
		return "log-in not counted"
	}
	ends := t.expiring[""]
	if e, ok := t.expiring[t.here.room]; ok {
		ends = e
	}
	if ends.IsZero() {
		return ""
	}
	return "token ends " + ends.In(t.zone).Format(time.TimeOnly)
}

// columns are the conversations, what is said in the one shown, and who is in it.
func (t *tui) columns() []string {
	height := t.bodyHeight()
	left, right := t.sides()
	popup := t.popupRows()
	middle := t.body(t.here, t.middle(), height-len(popup))
	talks, members := t.talkList(left, height), t.memberList(right, height)
	bar := t.theme.rule.Render("│")
	rows := make([]string, height)
	for i := range rows {
		var b strings.Builder
		if left > 0 {
			b.WriteString(t.cells.fit(talks[i], left) + bar)
		}
		switch {
		case i >= len(middle):
			b.WriteString(popup[i-len(middle)])
		case right > 0:
			b.WriteString(" " + t.cells.fit(middle[i], t.middle()) + " " + bar + t.cells.fit(members[i], right))
		default:
			b.WriteString(" " + t.cells.fit(middle[i], t.middle()))
		}
		rows[i] = b.String()
	}
	return rows
}

// talkList lists the conversations. If they do not all fit, the one shown stays in sight.
func (t *tui) talkList(width, height int) []string {
	th := t.theme
	var rows []string
	at := 0
	for i, k := range t.talks {
		if i == 0 || k.direct() != t.talks[i-1].direct() {
			if i > 0 {
				rows = append(rows, "")
			}
			title := " ROOMS"
			if k.direct() {
				title = " DIRECT"
			}
			rows = append(rows, th.title.Render(title))
		}
		rows = append(rows, t.talkRow(k, width))
		if k == t.here {
			at = len(rows)
		}
	}
	if at > height {
		rows = rows[at-height:]
	}
	return pad(rows, height)
}

func (t *tui) talkRow(k *talk, width int) string {
	th := t.theme
	sign := th.dim.Render("#")
	name := k.room
	if k.direct() {
		sign, name = t.dot(t.whom(k)), k.user
	}
	count := ""
	if k.unread > 0 {
		count = th.unread.Render(fmt.Sprintf(" %d ", min(k.unread, 999)))
	}
	if k.failed {
		count = th.bad.Render("✗ ") + count
	}
	style, edge := th.text, " "
	switch {
	case k == t.here:
		style, edge = th.here, th.here.Render("▌")
	case k.unread > 0:
		style = th.strong
	case !k.direct() && !k.joined:
		style = th.dim
	}
	room := width - 4 - t.cells.width(count)
	return edge + sign + " " + t.cells.fit(style.Render(t.cells.cut(name, room)), room) + count + " "
}

// pad makes rows exactly height many.
func pad(rows []string, height int) []string {
	rows = rows[:min(len(rows), height)]
	return append(rows, make([]string, height-len(rows))...)
}

// popupRows are what could come next, shown below what is said and who is there.
func (t *tui) popupRows() (rows []string) {
	list, picked := t.popup()
	if len(list) == 0 {
		return nil
	}
	th, width := t.theme, t.width
	if left, _ := t.sides(); left > 0 {
		width -= left + 1
	}
	from, n := 0, min(len(list), max(1, t.bodyHeight()/2))
	if picked >= n {
		from = picked - n + 1
	}
	shownWidth := 0
	for _, c := range list {
		shownWidth = max(shownWidth, t.cells.width(c.shown))
	}
	shownWidth = min(shownWidth, width-2)
	for i, c := range list[from : from+n] {
		style, dim := th.popup, th.popupDim
		if from+i == picked {
			style, dim = th.picked, th.pickedDim
		}
		left := " " + t.cells.fit(c.shown, shownWidth) + " "
		right := ""
		if room := width - t.cells.width(left); room > 8 {
			right = t.cells.fit(" "+c.about, room)
		} else {
			left = t.cells.fit(left, width)
		}
		rows = append(rows, style.Render(left)+dim.Render(right))
	}
	return rows
}

// divider is above the typed line, and says when something newer is out of sight.
func (t *tui) divider() string {
	th, k := t.theme, t.here
	left, right := t.sides()
	line := []rune(strings.Repeat("─", t.width))
	if left > 0 {
		line[left] = '┴'
	}
	if right > 0 {
		line[t.width-right-1] = '┴'
	}
	if k.up == 0 {
		return th.rule.Render(string(line))
	}
	words := " ↓ " + prose.Count(k.up, "line") + " below"
	if k.below > 0 {
		words = fmt.Sprintf(" ↓ %d new below", k.below)
	}
	words += " · Ctrl-End "
	at := max(1, (t.width-t.cells.width(words))/2)
	end := at + t.cells.width(words)
	if end >= t.width {
		return th.rule.Render(string(line))
	}
	return th.rule.Render(string(line[:at])) + th.here.Render(words) + th.rule.Render(string(line[end:]))
}

// typing returns the line being typed, after the name of its receiver, and the column of the
// cursor.
func (t *tui) typing() (row string, cursor int) {
	k := t.here
	to := k.name()
	if k.direct() && k != t.home {
		to = "@" + to
	}
	to = t.cells.cut(to, t.width/4)
	prompt := " " + t.theme.here.Render(to) + t.theme.dim.Render(" › ")
	width := max(1, t.width-t.cells.width(prompt)-1)
	shown, at := k.line.view(t.cells, width)
	if k.line.text == "" && !t.closing {
		return prompt + t.theme.dim.Render(t.cells.cut(t.placeholder(), width)), t.cells.width(prompt)
	}
	return prompt + shown, t.cells.width(prompt) + at
}

func (t *tui) placeholder() string {
	switch k := t.here; {
	case k == t.home:
		return "/join ROOM or /msg USER"
	case !k.direct() && !k.joined && !t.enter[k.room]:
		return "you are out of it: /join " + k.room
	case k.direct():
		return "to " + k.user + " alone, or / for commands"
	}
	return "to everybody in the room, or / for commands"
}

// bottom names the keys.
func (t *tui) bottom() string {
	th := t.theme
	var b strings.Builder
	used := 0
	for _, h := range [][2]string{
		{"Tab", "completes"}, {"/help", "shows all"}, {"Ctrl-C", "leaves"}, {"Ctrl-N", "next"}, {"PgUp", "scrolls"},
		{"Ctrl-P", "the one before"}, {"↑", "what you typed"}, {"Alt-1…9", "go to a conversation"}, {"Alt-Enter", "new line"},
	} {
		w := t.cells.width(h[0]) + 1 + t.cells.width(h[1]) + 3
		if used+w > t.width {
			break
		}
		used += w
		b.WriteString(" " + th.key.Render(h[0]) + " " + th.dim.Render(h[1]) + "  ")
	}
	return b.String()
}
