package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
)

// Input is one typed line, parsed.
type Input struct {
	line int    // the number of the line, from 1
	Verb string // "say", "to", "msg", "who", "status", "join", "leave", "kick", "ban", "unban", "dismiss", "token", "help", "quit"; "" for an empty line
	Name string // of a user, a room or a file
	Text string
	user identity.Login // whom Name means; zero: that is not known yet
}

// Argument is what the first argument of a command is.
type Argument uint8

const (
	NoArgument Argument = iota
	UserArgument
	RoomArgument
	FileArgument
)

// Command is a command of the chat.
type Command struct {
	Verb       string
	First      Argument
	Args, Help string // for people
}

// Commands are the commands of the chat, in the order of its help.
var Commands = []Command{
	{"to", UserArgument, "USER TEXT", "to one member of the current room, unseen by the others"},
	{"msg", UserArgument, "USER TEXT", "to a logged-in user, whether in a room or not (USER may be name#key)"},
	{"who", NoArgument, "", "who is in the current room, and who is online"},
	{"status", UserArgument, "USER", "whether a user is online, and how that is known (USER may be name#key)"},
	{"join", RoomArgument, "ROOM", "enter a room, or go to one you are in"},
	{"leave", NoArgument, "", "leave the current room"},
	{"token", FileArgument, "[FILE]", "use a newer token now, from FILE or from where the last one came"},
	{"help", NoArgument, "", "this list"},
	{"quit", NoArgument, "", "leave and end (so do Ctrl-C and the end of standard input)"},
	{"kick", UserArgument, "USER", "put a member out of the current room, as its moderator; USER may come back"},
	{"ban", UserArgument, "USER [TIME]", "the same, and USER may not come back: for a TIME such as 10m, 2h or 7d, or for ever"},
	{"unban", UserArgument, "USER", "let a banned user come back"},
	{"dismiss", NoArgument, "", "put everybody out of the current room, you too; all may come back"},
}

// HelpOfText says what a line that is no command does.
const HelpOfText = "to everybody in the current room; //TEXT when it begins with a slash"

// HelpLines is what /help answers, line by line.
func HelpLines() []string {
	lines := []string{fmt.Sprintf("  %-16s %s", "TEXT", HelpOfText)}
	for _, v := range Commands {
		lines = append(lines, fmt.Sprintf("  %-16s %s", strings.TrimSpace("/"+v.Verb+" "+v.Args), v.Help))
	}
	return lines
}

// ParseLine parses one typed line.
func ParseLine(line string) (Input, error) {
	if strings.TrimSpace(line) == "" {
		return Input{}, nil
	}
	command, ok := strings.CutPrefix(line, "/")
	if !ok {
		return Input{Verb: "say", Text: line}, nil
	}
	if strings.HasPrefix(command, "/") {
		return Input{Verb: "say", Text: command}, nil
	}
	verb, rest, _ := strings.Cut(command, " ")
	in := Input{Verb: verb}
	rest = strings.TrimLeft(rest, " ")
	switch verb {
	case "to", "msg":
		in.Name, in.Text, _ = strings.Cut(rest, " ")
		if in.Name == "" {
			return in, fmt.Errorf("/%s needs a user and a text: /%s USER TEXT", verb, verb)
		}
	case "join":
		in.Name = strings.TrimRight(rest, " ")
		if in.Name == "" {
			return in, errors.New("/join needs a room: /join ROOM")
		}
	case "status":
		in.Name = strings.TrimRight(rest, " ")
		if in.Name == "" {
			return in, errors.New("/status needs a user: /status USER")
		}
	case "kick", "unban":
		in.Name = strings.TrimRight(rest, " ")
		if in.Name == "" || strings.Contains(in.Name, " ") {
			return in, fmt.Errorf("/%s needs a user: /%s USER", verb, verb)
		}
	case "ban":
		in.Name, in.Text, _ = strings.Cut(rest, " ")
		in.Text = strings.TrimSpace(in.Text)
		if in.Name == "" {
			return in, errors.New("/ban needs a user: /ban USER or /ban USER TIME")
		}
	case "token":
		in.Name = strings.TrimRight(rest, " ")
	case "who", "leave", "dismiss", "help", "quit":
		if rest != "" {
			return in, fmt.Errorf("/%s takes no arguments", verb)
		}
	default:
		var names []string
		for _, v := range Commands {
			names = append(names, v.Verb)
		}
		hint := ", /help lists them all"
		if near := cli.Nearest(verb, names); near != "" {
			hint = fmt.Sprintf(", did you mean /%s?", near)
		}
		return in, fmt.Errorf("there is no /%s%s", verb, hint)
	}
	return in, nil
}

// MaxLine bounds a typed line, in bytes: enough for the largest message, a command and a name. The
// mesh accepts less, and reports that itself.
const MaxLine = 128 << 10

// ErrLineTooLong says that a typed line is over [MaxLine].
var ErrLineTooLong = fmt.Errorf("a line of more than %d bytes", MaxLine)

// lineReader reads lines of any length and keeps none over maxLine in memory.
type lineReader struct{ r *bufio.Reader }

func newLineReader(r io.Reader) *lineReader { return &lineReader{bufio.NewReaderSize(r, 4<<10)} }

// next returns the next line without its end. For a line that is too long it returns
// errLineTooLong. A last line without an end counts. At the end of the input it returns io.EOF.
func (l *lineReader) next() (string, error) {
	var line []byte
	long, any := false, false
	for {
		part, err := l.r.ReadSlice('\n')
		any = any || len(part) > 0
		if !long {
			line = append(line, part...)
		}
		if len(line) > MaxLine+2 {
			long, line = true, nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (!any || !errors.Is(err, io.EOF)) {
			return "", err
		}
		text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
		if long || len(text) > MaxLine {
			return "", ErrLineTooLong
		}
		return text, nil
	}
}

// Typed is a line of standard input, or its end.
type Typed struct {
	Text string
	Room string // the room that it was typed in; "": the current one
	// User is whom the name in the line means, as was shown when it was typed; zero: the session
	// finds that out.
	User identity.Login
	err  error // of this line
	End  error // of the input: io.EOF, or a failure to read
}

// ReadLines reads in until it ends, or until ctx has ended and one more line has come.
func ReadLines(ctx context.Context, in io.Reader) <-chan Typed {
	lines := make(chan Typed)
	go func() { // ends with the input: a read of a terminal cannot be interrupted
		r := newLineReader(in)
		for {
			var l Typed
			text, err := r.next()
			switch {
			case errors.Is(err, ErrLineTooLong):
				l.err = err
			case err != nil:
				l.End = err
			default:
				l.Text = text
			}
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
			if l.End != nil {
				return
			}
		}
	}()
	return lines
}
