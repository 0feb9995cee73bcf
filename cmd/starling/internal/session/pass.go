package session

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/starling-mesh/starling/cmd/starling/internal/token"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// Pass is the token of a chat in app mode; nil in open mode. It is valid for the log-in and for the
// rooms that it names.
type Pass struct {
	mu   sync.Mutex
	file string // where to look for a newer token; empty: nowhere
	text string
}

// ReadPass reads the token that --token names: from a file, or from the first line of standard
// input.
func ReadPass(in io.Reader, file string) (*Pass, error) {
	if file != "-" {
		p := &Pass{file: file}
		return p, p.read()
	}
	text, err := firstLine(in, token.MaxText)
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return &Pass{text: text}, nil
}

// firstLine reads one line and nothing after it: the rest is for the chat.
func firstLine(in io.Reader, most int) (string, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < most; {
		n, err := in.Read(one)
		if n > 0 && one[0] == '\n' || errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		line = append(line, one[:n]...)
	}
	return strings.TrimSpace(string(line)), nil
}

// read takes the token that its file has now.
func (p *Pass) read() error {
	p.mu.Lock()
	file := p.file
	p.mu.Unlock()
	text, err := readTokenFile(file)
	if err == nil {
		p.set(file, text)
	}
	return err
}

func (p *Pass) set(file, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.file, p.text = file, text
}

func readTokenFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, token.MaxText))
	return strings.TrimSpace(string(text)), err
}

// source is where to look for a newer token; empty: nowhere.
func (p *Pass) source() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.file
}

// Token returns the token in use.
func (p *Pass) Token() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text
}

func (p *Pass) loginOptions() []node.LoginOption {
	if p == nil {
		return nil
	}
	return []node.LoginOption{node.LoginToken(p.Token())}
}

func (p *Pass) joinOptions() []mesh.JoinOption {
	if p == nil {
		return nil
	}
	return []mesh.JoinOption{mesh.WithToken(p.Token())}
}

// renewEvery is how often the file is checked for a newer token when the one in use is about to
// expire.
const renewEvery = time.Second

// renew replaces a token that is about to expire as soon as its file has a newer one. room is nil
// for the log-in.
func (c *Session) renew(ending *mesh.TokenExpiring, room *mesh.Room) {
	if c.pass == nil || c.pass.source() == "" {
		return
	}
	use := c.node.UpdateLoginToken
	if room != nil {
		use = room.UpdateToken
	}
	look := time.NewTicker(renewEvery)
	defer look.Stop()
	refused := ""
	for time.Now().Before(ending.Expires.Add(identity.MaxLeeway)) {
		if err := c.pass.read(); err == nil {
			text := c.pass.Token()
			if _, expires := token.Claimed(text); expires.After(ending.Expires) && text != refused {
				err := use(text)
				if err == nil {
					c.show(Renewed{NewHead("token", ending.Room), 0, expires})
					return
				}
				refused = text
				c.show(Trouble{NewHead("error", ending.Room), 0, CodeToken, tokenWords(err)})
			}
		}
		select {
		case <-look.C:
		case <-c.ctx.Done():
			return
		}
	}
}

var (
	errNoTokens    = errors.New("this app has no tokens: its users choose their own names (see: starling help token)")
	errNoTokenFile = errors.New("the token came from standard input: /token FILE says where a newer one is")
)

// useToken replaces the token in use with the one in a file, for the log-in and for every room.
// Without a file it reads the one that the last token came from.
func (c *Session) useToken(file string, line int) error {
	if c.pass == nil {
		return errNoTokens
	}
	if file == "" {
		file = c.pass.source()
	}
	if file == "" {
		return errNoTokenFile
	}
	text, err := readTokenFile(file)
	if err != nil {
		return err
	}
	_, expires := token.Claimed(text)
	tell := func(room string, err error) {
		if err != nil {
			c.show(Trouble{NewHead("error", room), line, CodeToken, tokenWords(err)})
			return
		}
		c.pass.set(file, text) // it is valid for something
		c.show(Renewed{NewHead("token", room), line, expires})
	}
	tell("", c.node.UpdateLoginToken(text))
	for _, r := range c.rooms {
		tell(r.Name(), r.UpdateToken(text))
	}
	return nil
}

// tokenWords says to people why a token was refused, or why a stay that needed one has ended.
func tokenWords(err error) string {
	if bad, ok := errors.AsType[*identity.TokenError](err); ok {
		return "the token is refused: " + bad.Reason
	}
	return err.Error()
}

// endWords says to people why a stay in a room has ended.
func endWords(room string, err error) string {
	why := err.Error()
	if out, ok := errors.AsType[*mesh.PutOutError](err); ok {
		why = putOutWords(out)
	}
	bad, ok := errors.AsType[*identity.TokenError](err)
	switch {
	case errors.Is(err, identity.ErrTokenRevoked):
		why = "the issuer has revoked your token"
	case errors.Is(err, identity.ErrTokenExpired):
		why = "your token has expired"
	case ok:
		why = "your token: " + bad.Reason
	case errors.Is(err, mesh.ErrReplaced):
		why = "you have joined it from another device"
	}
	return "you are out of " + room + ": " + why
}
