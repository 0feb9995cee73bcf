package archtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// columns is the width of comments and pages. A tab counts as four.
const columns = 100

// longest is how many lines a file of Go may have: a longer one has a second subject.
const longest = 500

// phrases are what a reader has to take in twice, with what to write instead.
var phrases = []struct{ never, write string }{
	{`\b[Tt]ell(s|ing)? of\b|\b(is|are|was|were|be|been) told of\b`, "report, say"},
	{`\b[Tt]he own\b`, "its own"},
	{`\b[Aa]s a rule\b`, "usually"},
	{`\b[Ww]hoever\b`, "a member that, any user who"},
	{`\b[Ss]urely\b`, "certainly, or nothing"},
	{`\b[Ii]n vain\b`, "without result"},
}

// proseOf calls f with each line of prose of a file: pages without tables and code, and comments of
// Go and of protocol buffers without code.
func proseOf(path, text string, f func(number int, line string)) {
	code := false
	for i, line := range strings.Split(text, "\n") {
		if ext := filepath.Ext(path); ext == ".go" || ext == ".proto" {
			if at := strings.Index(line, "//"); at >= 0 && strings.TrimSpace(line[:at]) == "" && !strings.HasPrefix(line[at:], "//go:") && !strings.HasPrefix(line[at:], "//\t") {
				f(i+1, strings.ReplaceAll(line, "\t", "    "))
			}
			continue
		}
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if !code && !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "    ") {
			f(i+1, line)
		}
	}
}

// faultsOfText returns what is wrong with the prose of a file, and with the texts in its code:
// people read these as well.
func faultsOfText(path, text string) (out []string) {
	plain := func(number int, line string) {
		for _, p := range phrases {
			if found := regexp.MustCompile(p.never).FindString(line); found != "" {
				out = append(out, fmt.Sprintf("%s:%d: %q: write %s", path, number, found, p.write))
			}
		}
	}
	proseOf(path, text, func(number int, line string) {
		if n := utf8.RuneCountInString(line); n > columns && strings.ContainsAny(strings.TrimLeft(line, "/*- \t"), " ") {
			out = append(out, fmt.Sprintf("%s:%d: %d columns, of %d", path, number, n, columns))
		}
		plain(number, line)
	})
	if n := strings.Count(text, "\n"); filepath.Ext(path) == ".go" && n > longest {
		out = append(out, fmt.Sprintf("%s: %d lines, of %d: move one of its subjects to another file", path, n, longest))
	}
	if filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") {
		for i, line := range strings.Split(text, "\n") {
			if !strings.HasPrefix(strings.TrimSpace(line), "//") {
				plain(i+1, line)
			}
		}
	}
	return out
}

func TestProseIsPlainAndKeepsWithinItsColumns(t *testing.T) {
	files := 0
	base := root(t)
	require.NoError(t, filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ext := filepath.Ext(path); ext != ".go" && ext != ".md" && ext != ".proto" || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		name, err := filepath.Rel(base, path)
		for _, fault := range faultsOfText(filepath.ToSlash(name), string(text)) {
			t.Error(fault)
		}
		return err
	}))
	require.Greater(t, files, 100)
}

func TestFaultsOfProseAreFound(t *testing.T) {
	long := strings.Repeat("word ", 21)
	require.Equal(t, []string{"a.md:1: 105 columns, of 100"}, faultsOfText("a.md", long))
	require.Equal(t, []string{"a.go:2: 108 columns, of 100"}, faultsOfText("a.go", "x\n// "+long))
	require.Equal(t, []string{`a.md:1: "As a rule": write usually`}, faultsOfText("a.md", "As a rule it holds."))
	require.Empty(t, faultsOfText("a.md", "| "+long+"\n```\n"+long+"\n```\n    "+long))
	require.Empty(t, faultsOfText("a.go", "x := `"+long+"`"), "code may be wider")
	require.Equal(t, []string{`a.go:1: "in vain": write without result`}, faultsOfText("a.go", "x := `asked in vain`"))
	require.Empty(t, faultsOfText("a_test.go", "x := `asked in vain`"), "texts that only tests show")
	require.Empty(t, faultsOfText("a.go", "//\t"+long))
	require.Empty(t, faultsOfText("a.md", strings.Repeat("x", 120)), "a link cannot be broken")
	require.Equal(t, []string{"a.go: 501 lines, of 500: move one of its subjects to another file"}, faultsOfText("a.go", strings.Repeat("x\n", 501)))
	require.Empty(t, faultsOfText("a.go", strings.Repeat("x\n", 500)))
}
