package wire_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/starling-mesh/starling/internal/wire"
)

const page = "../../docs/PROTOCOL.md"

var update = flag.Bool("update", false, "write the messages on the page anew")

// declarations returns a schema without comments and without what only Go needs.
func declarations(proto string) string {
	var out []string
	for line := range strings.Lines(proto) {
		line, _, _ = strings.Cut(line, "//")
		line = strings.TrimRight(line, " \n")
		if line == "" || strings.HasPrefix(line, "option ") {
			continue
		}
		if strings.HasPrefix(line, "message ") || strings.HasPrefix(line, "enum ") || strings.HasPrefix(line, "package ") {
			out = append(out, "")
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n") + "\n"
}

// The page has every message and field: peers are written from it alone.
func TestThePageHasEveryMessageAndField(t *testing.T) {
	proto, err := os.ReadFile("starling.proto")
	require.NoError(t, err)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), "```proto\n")
	require.True(t, ok, "a block of proto on the page")
	has, after, ok := strings.Cut(rest, "```")
	require.True(t, ok, "the end of the block")
	want := declarations(string(proto))
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(before+"```proto\n"+want+"```"+after), 0o644))
		return
	}
	require.Equal(t, want, has, "go test ./internal/wire -run ThePageHas -update")
}

// A row of the page that names a field by its number is of a field that some message has.
func TestTheRowsOfThePageNameFieldsThatExist(t *testing.T) {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	fields := make(map[string]bool)
	var walk func(protoreflect.MessageDescriptors)
	walk = func(list protoreflect.MessageDescriptors) {
		for i := range list.Len() {
			of := list.Get(i).Fields()
			for j := range of.Len() {
				fields[fmt.Sprintf("%d `%s`", of.Get(j).Number(), of.Get(j).Name())] = true
			}
			walk(list.Get(i).Messages())
		}
	}
	walk(wire.File_starling_proto.Messages())
	rows := regexp.MustCompile("(?m)^\\| (\\d+ `[a-z_]+`)").FindAllStringSubmatch(string(text), -1)
	require.Greater(t, len(rows), 50)
	for _, row := range rows {
		require.True(t, fields[row[1]], row[1])
	}
}

// Each prefix of what is signed stands in the table of prefixes.
func TestThePageHasEveryPrefix(t *testing.T) {
	source, err := os.ReadFile("seal.go")
	require.NoError(t, err)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	prefixes := regexp.MustCompile(`"(starling/\w+/1)\\x00"`).FindAllStringSubmatch(string(source), -1)
	require.Len(t, prefixes, 9)
	for _, p := range prefixes {
		require.Contains(t, string(text), "\n| `"+p[1]+"\\0` | ")
	}
}
