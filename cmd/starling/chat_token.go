package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// pass is the token of a chat in app mode; nil in open mode. It is good for the log-in, and for the rooms that it names.
type pass struct {
	file string // where a newer one is looked for; empty: nowhere

	mu   sync.Mutex
	text string
}

// readPass reads the token that --token names: a file, or the first line of standard input.
func (a *app) readPass(file string) (*pass, error) {
	if file != "-" {
		p := &pass{file: file}
		return p, p.read()
	}
	text, err := firstLine(a.stdin, maxTokenText)
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return &pass{text: text}, nil
}

// firstLine reads one line, and nothing behind it: that is for the chat.
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

func (p *pass) read() error {
	f, err := os.Open(p.file)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenText))
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = strings.TrimSpace(string(text))
	return nil
}

func (p *pass) token() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text
}

// claimed is what the token says of itself, which the node then checks: whose it is, and until when.
func (p *pass) claimed() (user string, expires time.Time) {
	shown, err := peekToken(p.token())
	if err != nil {
		return "", time.Time{}
	}
	var c struct {
		Sub string  `json:"sub"`
		Exp float64 `json:"exp"`
	}
	_ = json.Unmarshal(shown.Claims, &c)
	return c.Sub, time.UnixMilli(int64(min(c.Exp, 1e11) * 1000))
}

func (p *pass) loginOptions() []node.LoginOption {
	if p == nil {
		return nil
	}
	return []node.LoginOption{node.LoginToken(p.token())}
}

func (p *pass) joinOptions() []mesh.JoinOption {
	if p == nil {
		return nil
	}
	return []mesh.JoinOption{mesh.WithToken(p.token())}
}

// renewEvery is how often the file is looked into for a newer token, once the one in use is about to end.
const renewEvery = time.Second

// renew puts a newer token in the place of one that is about to end, as soon as the file has it. Room is nil for the log-in.
func (c *chat) renew(ending *mesh.TokenExpiring, room *mesh.Room) {
	if c.pass == nil || c.pass.file == "" {
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
			_, expires := c.pass.claimed()
			if text := c.pass.token(); expires.After(ending.Expires) && text != refused {
				err := use(text)
				if err == nil {
					return
				}
				refused = text
				c.show(trouble{newHead("error", ending.Room), 0, "token", err.Error()})
			}
		}
		select {
		case <-look.C:
		case <-c.ctx.Done():
			return
		}
	}
}
