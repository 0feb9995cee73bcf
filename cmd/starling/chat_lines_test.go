package main

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTypedLinesAreTakenApart(t *testing.T) {
	for line, want := range map[string]input{
		"":                     {},
		"   ":                  {},
		"hello":                {verb: "say", text: "hello"},
		"  indented ":          {verb: "say", text: "  indented "},
		"//etc is a directory": {verb: "say", text: "/etc is a directory"},
		"/to bob psst":         {verb: "to", name: "bob", text: "psst"},
		"/to bob  two  spaces": {verb: "to", name: "bob", text: " two  spaces"},
		"/to bob":              {verb: "to", name: "bob"}, // the mesh judges an empty text
		"/msg bob#abcd hi":     {verb: "msg", name: "bob#abcd", text: "hi"},
		"/join ops ":           {verb: "join", name: "ops"},
		"/who":                 {verb: "who"},
		"/who ":                {verb: "who"},
		"/status bob ":         {verb: "status", name: "bob"},
		"/leave":               {verb: "leave"},
		"/help":                {verb: "help"},
		"/quit":                {verb: "quit"},
	} {
		got, err := parseLine(line)
		require.NoError(t, err, "%q", line)
		require.Equal(t, want, got, "%q", line)
	}
}

func TestMistypedLinesSayWhatIsMissing(t *testing.T) {
	for line, want := range map[string]string{
		"/to":        "/to needs a user and a text: /to USER TEXT",
		"/msg ":      "/msg needs a user and a text: /msg USER TEXT",
		"/join":      "/join needs a room: /join ROOM",
		"/status":    "/status needs a user: /status USER",
		"/quit now":  "/quit takes nothing after it",
		"/qiut":      "there is no /qiut, did you mean /quit?",
		"/jion ops":  "there is no /jion, did you mean /join?",
		"/":          "there is no /, /help lists them all",
		"/obviously": "there is no /obviously, /help lists them all",
	} {
		_, err := parseLine(line)
		require.EqualError(t, err, want, "%q", line)
	}
}

func TestEveryCommandOfTheChatIsInItsHelp(t *testing.T) {
	all := strings.Join(chatHelp(), "\n")
	for _, v := range verbs {
		require.Contains(t, all, "/"+v.verb)
		_, err := parseLine(strings.TrimSpace("/" + v.verb + " " + v.args))
		require.NoError(t, err, "the help of /%s is not what the chat takes", v.verb)
	}
}

func TestLinesAreReadWithAndWithoutAnEnd(t *testing.T) {
	r := newLineReader(strings.NewReader("one\r\n\ntwo\nlast"))
	for _, want := range []string{"one", "", "two", "last"} {
		got, err := r.next()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := r.next()
	require.ErrorIs(t, err, io.EOF)
}

func TestALineThatIsTooLongIsRefusedAloneAndNotKept(t *testing.T) {
	fits := strings.Repeat("x", maxLine)
	r := newLineReader(strings.NewReader(fits + "\r\n" + fits + "y\n" + strings.Repeat(fits, 40) + "\nnext\n"))

	got, err := r.next()
	require.NoError(t, err)
	require.Len(t, got, maxLine)
	for range 2 {
		_, err = r.next()
		require.ErrorIs(t, err, errLineTooLong)
	}
	got, err = r.next()
	require.NoError(t, err)
	require.Equal(t, "next", got)
}

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{"hello", "/to bob hi", "//x", "/", "/join  ops", "/to  "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		in, err := parseLine(s)
		if err == nil && in.verb == "say" && !strings.HasSuffix(s, in.text) {
			t.Fatalf("%q became %q", s, in.text)
		}
	})
}
