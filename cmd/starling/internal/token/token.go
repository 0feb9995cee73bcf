// Package token has the commands of an app whose issuer says who its users are: starling issuer and
// starling token.
package token

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/identity"
)

// Command returns the command starling token.
func Command(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Issue, read, check and revoke the tokens of an app with an issuer",
		Long: `A token, signed by an issuer of the app, says that a user may log in on one device and which rooms the user
may enter. It is bound to that device's key: every peer sees it, but nobody else can use it. It is an ordinary
JSON Web Token: a backend issues it with any library, or with these commands. docs/TOKENS.md describes it.`,
		Example: `  starling id --json                                     on the device: its peer ID
  starling token issue --user alice --device 12D3KooW… --login --room lobby > token   where the issuer key is
  starling chat --issuers issuers.json --token token     on the device again`,
		Args: cli.SubcommandsOnly,
		RunE: a.Action(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(issueCommand(a), showCommand(a), verifyCommand(a), revokeCommand(a))
	return cmd
}

// MaxText bounds what is read as a token, in bytes: a token above identity.MaxToken is still
// read, so that the error can say so.
const MaxText = 4 * identity.MaxToken

// readToken reads the token that an argument names: the argument itself, the file of that name, or
// - for standard input.
func readToken(a *cli.App, arg string) (string, error) {
	in := a.Stdin
	if arg != "-" {
		info, err := os.Stat(arg)
		if err != nil || info.IsDir() {
			if strings.Count(arg, ".") == 2 && !strings.ContainsAny(arg, "/\\ ") || err == nil {
				return strings.TrimSpace(arg), nil
			}
			return "", fmt.Errorf("%s is neither a token nor a file: %w", shortened(arg), bareError(err))
		}
		f, err := os.Open(arg)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, MaxText))
	if err != nil {
		return "", err
	}
	return string(bytes.TrimSpace(text)), nil
}

// bareError returns an error of the file system without its path.
func bareError(err error) error {
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		return inner.Err
	}
	return err
}

func shortened(s string) string {
	if len(s) > 40 {
		return prose.Safe(s[:40]) + "…"
	}
	return prose.Safe(s)
}

func showCommand(a *cli.App) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show TOKEN|FILE|-",
		Short: "Show what is written in a token, without checking it",
		Long: `Show writes the header and the claims of a token as they are. Anybody can write anything into one: only
"starling token verify" says whether it is genuine.`,
		Example:               "  starling token show token\n  starling token show - < token",
		Args:                  cli.ExactlyOne("a token"),
		DisableFlagsInUseLine: true,
		RunE: a.Action(func(_ *cobra.Command, args []string) error {
			token, err := readToken(a, args[0])
			if err != nil {
				return err
			}
			shown, err := peek(token)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(a.Stdout).Encode(shown)
			}
			var text bytes.Buffer
			for _, part := range []json.RawMessage{shown.Header, shown.Claims} {
				if err := json.Indent(&text, part, "", "  "); err != nil {
					return err
				}
				text.WriteByte('\n')
			}
			var lines []string
			for l := range strings.Lines(text.String()) {
				lines = append(lines, prose.Safe(strings.TrimSuffix(l, "\n")))
			}
			_, err = fmt.Fprintf(a.Stdout, "%s\nnot verified: \"starling token verify\" does that\n", strings.Join(lines, "\n"))
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, `as one JSON object: {"header":…,"claims":…,"verified":false}`)
	return cmd
}

// peekedToken is the content of a token that nobody has checked.
type peekedToken struct {
	Header   json.RawMessage `json:"header"`
	Claims   json.RawMessage `json:"claims"`
	Verified bool            `json:"verified"` // always false
}

func peek(token string) (shown peekedToken, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return shown, errors.New("not a token: it is not of three parts with a dot between them")
	}
	for i, into := range []*json.RawMessage{&shown.Header, &shown.Claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || !json.Valid(raw) {
			return shown, fmt.Errorf("not a token: its %s is not JSON in base64url", []string{"header", "claims"}[i])
		}
		*into = raw
	}
	return shown, nil
}

// Claimed returns what a token says of itself, before the node checks it: its user and when it
// expires.
func Claimed(token string) (user string, expires time.Time) {
	shown, err := peek(token)
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

// shownGrant is what the commands show of a token.
type shownGrant struct {
	User    string            `json:"user"`
	Device  string            `json:"device"` // fingerprint
	App     string            `json:"app"`
	Login   bool              `json:"login"`
	Rooms   map[string]string `json:"rooms,omitempty"`
	Issued  *time.Time        `json:"issued,omitempty"`
	Begins  *time.Time        `json:"begins,omitempty"`
	Expires time.Time         `json:"expires"`
	ID      string            `json:"jti"`
	Kid     string            `json:"kid"`
}

func showGrant(g *identity.Grant, app string) shownGrant {
	s := shownGrant{
		User: g.User, Device: g.Device.Fingerprint(), App: app, Login: g.Login, Rooms: g.Rooms, Expires: g.Expires, ID: g.ID, Kid: g.Kid,
	}
	if !g.Issued.IsZero() {
		s.Issued = &g.Issued
	}
	if !g.Begins.IsZero() {
		s.Begins = &g.Begins
	}
	return s
}

func (s shownGrant) String() string {
	var b strings.Builder
	row := func(name, value string) { fmt.Fprintf(&b, "%-8s %s\n", name, value) }
	row("user", s.User)
	row("device", s.Device)
	var good []string
	if s.Login {
		good = append(good, "logging in")
	}
	for _, room := range slices.Sorted(maps.Keys(s.Rooms)) {
		good = append(good, fmt.Sprintf("the room %s (%s)", room, s.Rooms[room]))
	}
	row("for", strings.Join(good, ", "))
	if s.Begins != nil {
		row("begins", s.Begins.Format(time.RFC3339))
	}
	row("expires", s.Expires.Format(time.RFC3339))
	row("jti", s.ID)
	row("kid", s.Kid)
	return b.String()
}
