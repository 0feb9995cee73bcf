package screen

import (
	"strings"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// maxCluster is how many runes may share one place on the screen: more than the longest emoji has,
// and few enough that no pile of accents covers the lines above.
const maxCluster = 12

// cells measures and cuts texts as the terminal shows them: in columns, of which a wide rune takes
// two and a combining one none. Terminals differ in how they split emoji of several runes.
type cells struct{ method ansi.Method }

func (c cells) width(s string) int { return c.method.StringWidth(s) }

// first returns the first cluster that the terminal shows in one place, its width, and the number n
// of bytes of s that it stands for.
func (c cells) first(s string) (cluster string, width, n int) {
	cluster, width = ansi.FirstGraphemeCluster(s, c.method)
	n = len(cluster)
	runes := 0
	for i := range cluster {
		if runes == maxCluster {
			cluster = cluster[:i]
			width = c.width(cluster)
			break
		}
		runes++
	}
	if c.method == ansi.WcWidth && width != ansi.GraphemeWidth.StringWidth(cluster) {
		if parts := unjoined(cluster); parts != "" {
			cluster, width = parts, c.width(parts)
		}
	}
	return cluster, width, n
}

// unjoined splits an emoji of several runes into its parts. Terminals that do not report how wide
// they draw it differ, and what follows on the line would be in the wrong place. On the width of
// the parts they agree.
func unjoined(cluster string) string {
	first, _ := utf8.DecodeRuneInString(cluster)
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\u200d' && first >= '\u2190', // a joiner; between letters it makes another letter
			r == '\ufe0f',                          // asks for an emoji in place of a sign
			r >= '\U0001f3fb' && r <= '\U0001f3ff': // skin tones
			return -1
		}
		return r
	}, cluster)
}

// cut shortens a text, which may be styled, to a width, and shows that it did.
func (c cells) cut(s string, width int) string {
	if width <= 0 {
		return ""
	}
	if c.width(s) <= width {
		return s
	}
	return c.method.Truncate(s, width, "…")
}

// fit makes a text exactly as wide as width.
func (c cells) fit(s string, width int) string {
	s = c.cut(s, width)
	return s + strings.Repeat(" ", max(0, width-c.width(s)))
}

// wrap breaks a plain text into lines, at spaces where possible. The first line is at most first
// wide, the others at most rest.
func (c cells) wrap(text string, first, rest int) []string {
	first, rest = max(first, 2), max(rest, 2)
	var lines []string
	limit := func() int {
		if len(lines) == 0 {
			return first
		}
		return rest
	}
	text = strings.ReplaceAll(text, "\t", "    ")
	for _, par := range strings.Split(text, "\n") {
		var line, word strings.Builder
		lineWidth, wordWidth := 0, 0
		end := func() {
			lines = append(lines, strings.TrimRight(line.String(), " "))
			line.Reset()
			lineWidth = 0
		}
		place := func() {
			if wordWidth == 0 && word.Len() == 0 {
				return
			}
			if lineWidth > 0 && lineWidth+wordWidth > limit() {
				end()
			}
			line.WriteString(word.String())
			lineWidth += wordWidth
			word.Reset()
			wordWidth = 0
		}
		for len(par) > 0 {
			cluster, width, n := c.first(par)
			par = par[n:]
			if cluster == " " {
				place()
				switch {
				case lineWidth < limit():
					line.WriteByte(' ')
					lineWidth++
				default:
					end()
				}
				continue
			}
			if wordWidth+width > limit() {
				place() // a word longer than a line is broken anywhere
				end()
			}
			word.WriteString(cluster)
			wordWidth += width
		}
		place()
		end()
	}
	return lines
}
