// Package prose writes what people read: texts of peers that are safe for a terminal, and counts.
package prose

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Safe makes text from a peer safe for a terminal: no byte of it moves the cursor, changes
// colours or reverses the direction of the line, and its second line cannot be taken for a message
// of its own.
func Safe(s string) string { return safe(s, "\n    | ") }

// SafeAside is [Safe] for a text in lines that stand two columns to the right by themselves.
func SafeAside(s string) string { return safe(s, "\n  | ") }

func safe(s, below string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\n':
			b.WriteString(below)
		case r == '\t', r == '\u200c', r == '\u200d', unicode.IsGraphic(r): // emoji and scripts need the joiners
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// Binary describes binary data to people: its size and its first bytes.
func Binary(data []byte) string {
	const shown = 16
	s := fmt.Sprintf("[%s of binary: % x", Count(len(data), "byte"), data[:min(shown, len(data))])
	if len(data) > shown {
		s += " …"
	}
	return s + "]"
}

// Count writes "1 byte" and "2 bytes".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
