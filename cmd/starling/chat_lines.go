package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// input is one typed line, parsed.
type input struct {
	line int    // the number of the line, from 1
	verb string // "say", "to", "msg", "who", "status", "join", "leave", "token", "help", "quit"; "" for an empty line
	name string // of a user, a room or a file
	text string
}

// verbInfo is a command of the chat.
type verbInfo struct{ verb, args, help string }

// verbs are the commands of the chat, in the order of its help.
var verbs = []verbInfo{
	{"to", "USER TEXT", "to one member of the current room, unseen by the others"},
	{"msg", "USER TEXT", "to a user who is logged in anywhere, in a room or not (USER may be name#key)"},
	{"who", "", "who is in the current room, and who is online"},
	{"status", "USER", "whether a user is online, and how that is known (USER may be name#key)"},
	{"join", "ROOM", "enter a room, or go to one you are in"},
	{"leave", "", "leave the current room"},
	{"token", "[FILE]", "use a newer token now, from FILE or from where the last one came"},
	{"help", "", "this list"},
	{"quit", "", "leave and end (so do Ctrl-C and the end of standard input)"},
}

const helpOfText = "to everybody in the current room; //TEXT when it begins with a slash"

// chatHelp is what /help answers, line by line.
func chatHelp() []string {
	lines := []string{fmt.Sprintf("  %-16s %s", "TEXT", helpOfText)}
	for _, v := range verbs {
		lines = append(lines, fmt.Sprintf("  %-16s %s", strings.TrimSpace("/"+v.verb+" "+v.args), v.help))
	}
	return lines
}

// parseLine parses one typed line.
func parseLine(line string) (input, error) {
	if strings.TrimSpace(line) == "" {
		return input{}, nil
	}
	command, ok := strings.CutPrefix(line, "/")
	if !ok {
		return input{verb: "say", text: line}, nil
	}
	if strings.HasPrefix(command, "/") {
		return input{verb: "say", text: command}, nil
	}
	verb, rest, _ := strings.Cut(command, " ")
	in := input{verb: verb}
	rest = strings.TrimLeft(rest, " ")
	switch verb {
	case "to", "msg":
		in.name, in.text, _ = strings.Cut(rest, " ")
		if in.name == "" {
			return in, fmt.Errorf("/%s needs a user and a text: /%s USER TEXT", verb, verb)
		}
	case "join":
		in.name = strings.TrimRight(rest, " ")
		if in.name == "" {
			return in, errors.New("/join needs a room: /join ROOM")
		}
	case "status":
		in.name = strings.TrimRight(rest, " ")
		if in.name == "" {
			return in, errors.New("/status needs a user: /status USER")
		}
	case "token":
		in.name = strings.TrimRight(rest, " ")
	case "who", "leave", "help", "quit":
		if rest != "" {
			return in, fmt.Errorf("/%s takes nothing after it", verb)
		}
	default:
		var names []string
		for _, v := range verbs {
			names = append(names, v.verb)
		}
		hint := ", /help lists them all"
		if near := cli.Nearest(verb, names); near != "" {
			hint = fmt.Sprintf(", did you mean /%s?", near)
		}
		return in, fmt.Errorf("there is no /%s%s", verb, hint)
	}
	return in, nil
}

// maxLine bounds a typed line, in bytes: enough for the largest message, a command and a name. The
// mesh accepts less, and reports that itself.
const maxLine = 128 << 10

var errLineTooLong = fmt.Errorf("a line of more than %d bytes", maxLine)

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
		if len(line) > maxLine+2 {
			long, line = true, nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (!any || !errors.Is(err, io.EOF)) {
			return "", err
		}
		text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
		if long || len(text) > maxLine {
			return "", errLineTooLong
		}
		return text, nil
	}
}

// typed is a line of standard input, or its end.
type typed struct {
	text string
	room string // the room that it was typed in; "": the current one
	err  error  // of this line
	end  error  // of the input: io.EOF, or a failure to read
}

// readLines reads in until it ends, or until ctx has ended and one more line has come.
func readLines(ctx context.Context, in io.Reader) <-chan typed {
	lines := make(chan typed)
	go func() { // ends with the input: a read of a terminal cannot be interrupted
		r := newLineReader(in)
		for {
			var l typed
			text, err := r.next()
			switch {
			case errors.Is(err, errLineTooLong):
				l.err = err
			case err != nil:
				l.end = err
			default:
				l.text = text
			}
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
			if l.end != nil {
				return
			}
		}
	}()
	return lines
}
