package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
)

// revokeFlags are the flags of what to revoke.
type revokeFlags struct {
	dir, key, app       string
	users, ids, forgive []string
	list, json          bool
}

func revokeCommand(a *cli.App) *cobra.Command {
	var f revokeFlags
	cmd := &cobra.Command{
		Use:   "revoke [TOKEN|FILE|-]...",
		Short: "Revoke tokens before they expire",
		Long: `Revoke adds tokens, or all tokens that a user has been given until now, to the app's list of revocations. It signs
the list and writes it to APP.revocations in the issuer's directory. Give that file to any running node, with
"starling chat --revocations" or Node.Revoke: the nodes send it to each other, and keep it. A node that it does
not reach goes on accepting the tokens, so give them short lives as well.

There is one list per app, of at most 64 KiB. Tokens that have expired drop out of it by themselves.`,
		Example: `  starling token revoke token                this token
  starling token revoke --user mallory       all that were issued to mallory until now
  starling token revoke --forgive mallory    which count again
  starling token revoke --list               only show the list`,
		DisableFlagsInUseLine: true,
		RunE:                  a.Action(func(_ *cobra.Command, args []string) error { return revoke(a, args, f) }),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringArrayVar(&f.users, "user", nil, "the user, by `NAME`, whose tokens until now are revoked; may be given again")
	flags.StringArrayVar(&f.ids, "id", nil, "the `JTI` of a token; may be given again")
	flags.StringArrayVar(&f.forgive, "forgive", nil, "a user's `NAME`, or a JTI, to remove from the list; may be given again")
	flags.StringVar(&f.app, "app", "starling", "the `NAME` of the app")
	addIssuerDir(cmd, &f.dir)
	flags.StringVar(&f.key, "key", "", "the `FILE` with the issuer key to sign with (default: issuer.key in DIR)")
	flags.BoolVar(&f.list, "list", false, "show the list, and change nothing")
	flags.BoolVar(&f.json, "json", false, `as one JSON object: {"file":…,"version":…,"users":…,"tokens":…}`)
	return cmd
}

// shownList is the output of `starling token revoke`.
type shownList struct {
	File    string                `json:"file"`
	Version uint64                `json:"version,string"`
	Users   map[string]time.Time  `json:"users"`  // what was issued before this time is revoked
	Tokens  map[string]*time.Time `json:"tokens"` // by jti: when it expires, or null
}

func revoke(a *cli.App, args []string, f revokeFlags) error {
	if some := len(args)+len(f.users)+len(f.ids)+len(f.forgive) > 0; some == f.list {
		if f.list {
			return cli.Usagef("--list changes nothing: leave out what to revoke")
		}
		return cli.Usagef("say what to revoke: a token, --user or --id; or --list to see what is")
	}
	issuer, err := openIssuer(f.dir, f.key, f.app)
	if err != nil {
		return err
	}
	if !f.list {
		unlock, err := lockFile(issuer.list)
		if err != nil {
			return err
		}
		defer unlock()
	}
	was, err := issuer.revocations()
	if err != nil {
		return err
	}
	if f.list {
		if was == nil {
			was = new(identity.Revocations)
		}
		return showList(a, issuer.list, *was, f.json)
	}
	now := time.Now()
	next := was.Next(now)
	if err := addTo(a, &next, issuer, args, f, now); err != nil {
		return err
	}
	sealed, err := issuer.Revoke(next)
	if err != nil {
		return err
	}
	if err := cli.ReplaceFile(issuer.list, sealed, 0o644); err != nil {
		return err
	}
	return showList(a, issuer.list, next, f.json)
}

// lockPatience is how long to wait for another command that is changing the list.
const lockPatience = 5 * time.Second

// lockFile keeps other commands from changing a file until unlock: two that read, change and write
// it at the same time would undo each other's changes.
func lockFile(path string) (unlock func(), err error) {
	lock := path + ".lock"
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		f, err := os.OpenFile(lock, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		switch {
		case err == nil:
			_ = f.Close()
			return func() { _ = os.Remove(lock) }, nil
		case !errors.Is(err, fs.ErrExist):
			return nil, err
		case time.Now().After(deadline):
			return nil, fmt.Errorf("another command is changing %s; if none is running, remove %s", path, lock)
		}
	}
}

// addTo puts what the command line names into the list.
func addTo(a *cli.App, next *identity.Revocations, issuer *openedIssuer, args []string, f revokeFlags, now time.Time) error {
	for _, arg := range args {
		token, err := readToken(a, arg)
		if err != nil {
			return err
		}
		g, err := issuer.authority.Open(token)
		if bad, ok := errors.AsType[*identity.TokenError](err); ok {
			return fmt.Errorf("%s is not a token of this issuer: %s", shortened(arg), bad.Reason)
		}
		if err != nil {
			return err
		}
		if err := issuer.authority.Check(g, now); errors.Is(err, identity.ErrTokenExpired) {
			return fmt.Errorf("%s needs no revocation: it has expired", shortened(arg))
		}
		next.Tokens[g.ID] = g.Expires
	}
	for _, user := range f.users {
		if err := identity.CheckUser(user); err != nil {
			return badID("--user", err)
		}
		// Tokens have whole seconds as the time of issue.
		next.Users[user] = now.Truncate(time.Second).Add(time.Second)
	}
	for _, id := range f.ids {
		if _, there := next.Tokens[id]; !there {
			next.Tokens[id] = time.Time{}
		}
	}
	for _, name := range f.forgive {
		_, user := next.Users[name]
		_, token := next.Tokens[name]
		if !user && !token {
			return fmt.Errorf("%s is not in the list", shortened(name))
		}
		delete(next.Users, name)
		delete(next.Tokens, name)
	}
	return nil
}

// revocations reads the list; nil if there is none yet.
func (o *openedIssuer) revocations() (*identity.Revocations, error) {
	sealed, err := ReadList(o.list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := o.authority.OpenRevocations(sealed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.list, err)
	}
	return list, nil
}

func showList(a *cli.App, file string, list identity.Revocations, asJSON bool) error {
	shown := shownList{File: file, Version: list.Version, Users: map[string]time.Time{}, Tokens: map[string]*time.Time{}}
	for user, before := range list.Users {
		shown.Users[user] = before.UTC()
	}
	for id, expires := range list.Tokens {
		shown.Tokens[id] = nil
		if !expires.IsZero() {
			expires = expires.UTC()
			shown.Tokens[id] = &expires
		}
	}
	if asJSON {
		return json.NewEncoder(a.Stdout).Encode(shown)
	}
	var b strings.Builder
	for _, user := range slices.Sorted(maps.Keys(shown.Users)) {
		fmt.Fprintf(&b, "user     %s, what was issued before %s\n", user, shown.Users[user].Format(time.RFC3339))
	}
	for _, id := range slices.Sorted(maps.Keys(shown.Tokens)) {
		until := ""
		if e := shown.Tokens[id]; e != nil {
			until = ", until it expires at " + e.Format(time.RFC3339)
		}
		fmt.Fprintf(&b, "token    %s%s\n", id, until)
	}
	if b.Len() == 0 {
		b.WriteString("nothing is revoked\n")
	}
	_, err := fmt.Fprintf(a.Stdout, "%sversion  %s\nfile     %s\n", b.String(), strconv.FormatUint(shown.Version, 10), file)
	return err
}
