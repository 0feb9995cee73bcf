package screen

import (
	"slices"
	"strings"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
)

// completion is the state of Tab.
type completion struct {
	list   []candidate // while Tab goes through it
	at     int
	hidden bool // by Esc, until the next key
}

// candidate is one way in which the line could go on.
type candidate struct {
	line  string // the whole line
	shown string
	about string
}

// tab takes the next candidate.
func (t *tui) tab(by int) {
	c := &t.complete
	c.hidden = false
	if c.list == nil {
		list := t.candidates()
		if len(list) == 0 {
			return
		}
		if len(list) == 1 {
			t.here.line.set(list[0].line)
			return
		}
		c.list, c.at = list, 0
		if by < 0 {
			c.at = len(list) - 1
		}
	} else {
		c.at = (c.at + by + len(c.list)) % len(c.list)
	}
	t.here.line.set(c.list[c.at].line)
}

// popup returns what could come next, while a command is typed or Tab goes through names.
func (t *tui) popup() (list []candidate, picked int) {
	if t.complete.list != nil {
		return t.complete.list, t.complete.at
	}
	line := t.here.line
	if t.complete.hidden || !strings.HasPrefix(line.text, "/") || line.at != len(line.text) {
		return nil, -1
	}
	if strings.Count(line.text, " ") > 1 {
		return nil, -1 // the text of a message: names only when asked for
	}
	list = t.candidates()
	if len(list) == 1 && strings.TrimSpace(list[0].line) == strings.TrimSpace(line.text) && !strings.HasSuffix(line.text, " ") {
		if !strings.Contains(line.text, " ") {
			return list, -1 // a whole command: show its arguments
		}
		return nil, -1
	}
	return list, -1
}

// candidates returns the ways in which the line could go on: commands, rooms or names.
func (t *tui) candidates() (list []candidate) {
	line := t.here.line
	if line.at != len(line.text) {
		return nil
	}
	verb, rest, spaced := strings.Cut(line.text, " ")
	switch {
	case strings.HasPrefix(line.text, "//"):
	case strings.HasPrefix(line.text, "/") && !spaced:
		for _, v := range session.Commands {
			if strings.HasPrefix("/"+v.Verb, verb) {
				c := candidate{line: "/" + v.Verb, shown: strings.TrimSpace("/" + v.Verb + " " + v.Args), about: v.Help}
				if v.Args != "" {
					c.line += " "
				}
				list = append(list, c)
			}
		}
		return list
	case strings.HasPrefix(line.text, "/") && strings.Contains(rest, " "): // the text of a message
	case strings.HasPrefix(line.text, "/"):
		for _, c := range t.arguments(verb[1:], rest) {
			list = append(list, candidate{line: verb + " " + c.line, shown: c.shown, about: c.about})
		}
		return list
	}
	word := line.text[strings.LastIndexAny(line.text, " \n")+1:]
	if word == "" {
		return nil
	}
	for _, c := range t.names(word, t.here.members) {
		end := " "
		if word == line.text {
			end = ": "
		}
		list = append(list, candidate{line: strings.TrimSuffix(line.text, word) + c.shown + end, shown: c.shown, about: c.about})
	}
	return list
}

// arguments returns the possible first arguments of a command.
func (t *tui) arguments(verb, prefix string) []candidate {
	i := slices.IndexFunc(session.Commands, func(v session.Command) bool { return v.Verb == verb })
	if i < 0 {
		return nil
	}
	switch session.Commands[i].First {
	case session.RoomArgument:
		var list []candidate
		for _, k := range t.talks {
			if !k.direct() && strings.HasPrefix(k.room, prefix) {
				list = append(list, candidate{line: k.room, shown: k.room, about: "you are in it"})
			}
		}
		return list
	case session.UserArgument:
		logins := t.here.members
		if verb == "to" {
			return t.names(prefix, logins)
		}
		var all []identity.Login
		for _, p := range t.peers {
			if p.User != "" {
				all = append(all, p.Login)
			}
		}
		return t.names(prefix, logins, all...)
	}
	return nil
}

// names returns the users whose names begin with prefix, each once, by name.
func (t *tui) names(prefix string, members []seat, more ...identity.Login) (list []candidate) {
	logins := slices.Clone(more)
	for _, m := range members {
		logins = append(logins, m.Login)
	}
	for _, l := range logins {
		name := t.words.Name(l)
		if l.User == t.me.User && l.Key == t.me.Key || !hasPrefixFold(name, prefix) ||
			slices.ContainsFunc(list, func(c candidate) bool { return c.shown == name }) {
			continue
		}
		about := "by way of others"
		if s, known := t.standing(l); known {
			about = s.State.String() + ", " + t.evidence(l, s).String()
		}
		list = append(list, candidate{line: name + " ", shown: name, about: about})
	}
	slices.SortFunc(list, func(a, b candidate) int { return strings.Compare(a.shown, b.shown) })
	return list
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
