package examples

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// blocks are the Go blocks of a Markdown text.
var blocks = regexp.MustCompile("(?s)```go\n(.*?)```")

func TestTheGoOfTheReadmeIsCompiledSomewhere(t *testing.T) {
	source := func(files ...string) (lines []string) {
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			for line := range strings.Lines(string(text)) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		return lines
	}
	compiled := source("hello/main.go", "embed/main.go", "../node/example_test.go")
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	found := blocks.FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, found)
	for _, block := range found {
		var want []string
		for line := range strings.Lines(block[1]) {
			want = append(want, strings.TrimSpace(line))
		}
		require.True(t, contains(compiled, want), "neither examples/hello nor examples/embed nor an example of package node has this:\n%s", block[1])
	}
}

func contains(lines, want []string) bool {
	for i := range lines {
		if len(lines)-i >= len(want) && slices.Equal(lines[i:i+len(want)], want) {
			return true
		}
	}
	return false
}

// links are the local targets of links in a Markdown text, without anchors.
var links = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)

func TestTheLinksOfThePapersLeadSomewhere(t *testing.T) {
	for _, paper := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/PROTOCOL.md"} {
		text, err := os.ReadFile("../" + paper)
		require.NoError(t, err)
		dir := paper[:strings.LastIndex(paper, "/")+1]
		for _, link := range links.FindAllStringSubmatch(string(text), -1) {
			_, err := os.Stat("../" + dir + link[1])
			require.NoError(t, err, "%s links to %s", paper, link[1])
		}
	}
}

// Somebody who sees the project for the first time finds what it is, how to see it work, how to get
// it and how a program looks, in this order and before anything else.
func TestTheReadmeBeginsWithAProgram(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	at := -1
	for _, mark := range []string{"Starling is ", "\n    go run ./cmd/starling demo\n", "\n    go test ./...\n", "\n    go get ", "\n```go\n", "\n## Chat"} {
		next := strings.Index(string(readme), mark)
		require.Greater(t, next, at, "%q", mark)
		if at = next; mark == "\n```go\n" {
			require.Less(t, strings.Count(string(readme[:at]), "\n"), 25, "lines before the program")
		}
	}
}
