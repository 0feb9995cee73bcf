package prose

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTextOfPeersCannotSteerTheTerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                      "plain",
		"Grüße, 世界, 👩‍💻":             "Grüße, 世界, 👩‍💻",
		"wide\u3000space":            "wide\u3000space",
		"tab\there":                  "tab\there",
		"\x1b[2J\x1b]0;owned\x07":    `\x1b[2J\x1b]0;owned\a`,
		"back\b\b\rover":             `back\b\b\rover`,
		"\u202egnp.exe":              `\u202egnp.exe`,
		"\u2066isolated\u2069":       `\u2066isolated\u2069`,
		"bad\xff\xfe":                `bad\xff\xfe`,
		"real\n[lobby] bob: forged?": "real\n    | [lobby] bob: forged?",
		"c1\u009bcsi":                `c1\u009bcsi`,
	} {
		require.Equal(t, want, Safe(in), "%q", in)
	}
}

func TestBinaryIsShownByItsSizeAndBeginning(t *testing.T) {
	require.Equal(t, "[1 byte of binary: 00]", Binary([]byte{0}))
	require.Equal(t, "[17 bytes of binary: 01 01 01 01 01 01 01 01 01 01 01 01 01 01 01 01 …]",
		Binary([]byte("\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01")))
}
