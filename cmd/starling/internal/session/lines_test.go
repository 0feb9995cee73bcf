package session

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTypedLinesAreTakenApart(t *testing.T) {
	for line, want := range map[string]Input{
		"":                     {},
		"   ":                  {},
		"hello":                {Verb: "say", Text: "hello"},
		"  indented ":          {Verb: "say", Text: "  indented "},
		"//etc is a directory": {Verb: "say", Text: "/etc is a directory"},
		"/to bob psst":         {Verb: "to", Name: "bob", Text: "psst"},
		"/to bob  two  spaces": {Verb: "to", Name: "bob", Text: " two  spaces"},
		"/to bob":              {Verb: "to", Name: "bob"}, // the mesh judges an empty text
		"/msg bob#abcd hi":     {Verb: "msg", Name: "bob#abcd", Text: "hi"},
		"/join ops ":           {Verb: "join", Name: "ops"},
		"/who":                 {Verb: "who"},
		"/who ":                {Verb: "who"},
		"/status bob ":         {Verb: "status", Name: "bob"},
		"/kick bob ":           {Verb: "kick", Name: "bob"},
		"/ban bob":             {Verb: "ban", Name: "bob"},
		"/ban bob 7d ":         {Verb: "ban", Name: "bob", Text: "7d"},
		"/unban bob":           {Verb: "unban", Name: "bob"},
		"/dismiss":             {Verb: "dismiss"},
		"/leave":               {Verb: "leave"},
		"/help":                {Verb: "help"},
		"/quit":                {Verb: "quit"},
	} {
		got, err := ParseLine(line)
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
		"/kick":      "/kick needs a user: /kick USER",
		"/kick b c":  "/kick needs a user: /kick USER",
		"/ban":       "/ban needs a user: /ban USER or /ban USER TIME",
		"/unban ":    "/unban needs a user: /unban USER",
		"/dismiss u": "/dismiss takes no arguments",
		"/quit now":  "/quit takes no arguments",
		"/qiut":      "there is no /qiut, did you mean /quit?",
		"/jion ops":  "there is no /jion, did you mean /join?",
		"/":          "there is no /, /help lists them all",
		"/obviously": "there is no /obviously, /help lists them all",
	} {
		_, err := ParseLine(line)
		require.EqualError(t, err, want, "%q", line)
	}
}

func TestEveryCommandOfTheChatIsInItsHelp(t *testing.T) {
	all := strings.Join(HelpLines(), "\n")
	for _, v := range Commands {
		require.Contains(t, all, "/"+v.Verb)
		_, err := ParseLine(strings.TrimSpace("/" + v.Verb + " " + v.Args))
		require.NoError(t, err, "the help of /%s is not what the chat takes", v.Verb)
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
	fits := strings.Repeat("x", MaxLine)
	r := newLineReader(strings.NewReader(fits + "\r\n" + fits + "y\n" + strings.Repeat(fits, 40) + "\nnext\n"))

	got, err := r.next()
	require.NoError(t, err)
	require.Len(t, got, MaxLine)
	for range 2 {
		_, err = r.next()
		require.ErrorIs(t, err, ErrLineTooLong)
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
		in, err := ParseLine(s)
		if err == nil && in.Verb == "say" && !strings.HasSuffix(s, in.Text) {
			t.Fatalf("%q became %q", s, in.Text)
		}
	})
}
