package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
)

// issueFlags are the flags of a token to issue.
type issueFlags struct {
	dir, key, app    string
	user, device, id string
	rooms            []string
	login, json      bool
	life             time.Duration
}

func issueCommand(a *cli.App) *cobra.Command {
	var f issueFlags
	cmd := &cobra.Command{
		Use:   "issue --user NAME --device KEY",
		Short: "Issue a token, bound to one device",
		Long: `Issue writes a token to standard output. KEY is the device's: the peer ID that "starling id" shows, or the
JSON Web Key that "starling id --json" prints.

Without --room the token is for logging in; with --room it is for those rooms; with both --room and --login it
is for both. Keep lives short: a token can be revoked, but only nodes that get the list of revocations refuse it.`,
		Example: `  starling token issue --user alice --device 12D3KooW…                        to log in, for an hour
  starling token issue --user alice --device 12D3KooW… --login --room ops     and for the room ops
  starling token issue --user alice --device 12D3KooW… --room ops:moderator --life 8h`,
		Args:                  cli.NoArguments,
		DisableFlagsInUseLine: true,
		RunE:                  a.Action(func(*cobra.Command, []string) error { return issue(a, f) }),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.user, "user", "", "the user, by `NAME`")
	flags.StringVar(&f.device, "device", "", "the device's `KEY`")
	flags.StringArrayVar(&f.rooms, "room", nil, "a room to admit to, as `NAME` or NAME:ROLE (default role: member); may be given again")
	flags.BoolVar(&f.login, "login", false, "valid for logging in, as well as for the rooms")
	flags.DurationVar(&f.life, "life", time.Hour, "how long it is valid, as `TIME`")
	flags.StringVar(&f.app, "app", "starling", "the `NAME` of the app")
	flags.StringVar(&f.id, "id", "", "the `JTI` to revoke it by (default: random)")
	addIssuerDir(cmd, &f.dir)
	flags.StringVar(&f.key, "key", "", "the `FILE` with the issuer key to sign with (default: issuer.key in DIR)")
	flags.BoolVar(&f.json, "json", false, `as one JSON object: {"token":…,"user":…,"expires":…,"jti":…}`)
	return cmd
}

// claims refuses impossible flags, all at once.
func (f *issueFlags) claims() (identity.Claims, error) {
	var errs []error
	c := identity.Claims{User: f.user, Login: f.login || len(f.rooms) == 0, ID: f.id}
	addID := func(flag string, err error) {
		if id, ok := errors.AsType[*identity.IDError](err); ok {
			errs = append(errs, fmt.Errorf("%s %q: %w", flag, id.Value, id.Err))
		}
	}
	addID("--user", identity.CheckUser(f.user))
	addID("--app", identity.CheckApp(f.app))
	key, err := identity.ParseDeviceKey(f.device)
	if err != nil {
		errs = append(errs, fmt.Errorf("--device %q: want the peer ID that \"starling id\" shows, or its JSON Web Key", shortened(f.device)))
	}
	c.Device = key
	if f.life <= 0 {
		errs = append(errs, fmt.Errorf("--life %v: want more than 0", f.life))
	}
	for _, r := range f.rooms {
		room, role, given := strings.Cut(r, ":")
		if !given {
			role = "member"
		}
		addID("--room", identity.CheckRoom(room))
		if c.Rooms == nil {
			c.Rooms = make(map[string]string)
		}
		if _, twice := c.Rooms[room]; twice {
			errs = append(errs, fmt.Errorf("--room %q: given twice", room))
		}
		c.Rooms[room] = role
	}
	if len(errs) > 0 {
		return c, cli.Usage(errors.Join(errs...))
	}
	return c, nil
}

// issuedToken is the output of `starling token issue --json`.
type issuedToken struct {
	Token string `json:"token"`
	shownGrant
}

func issue(a *cli.App, f issueFlags) error {
	claims, err := f.claims()
	if err != nil {
		return err
	}
	issuer, err := openIssuer(f.dir, f.key, f.app)
	if err != nil {
		return err
	}
	now := time.Now()
	claims.Issued, claims.Expires = now.Truncate(time.Second), now.Add(f.life).Truncate(time.Second)
	token, err := issuer.Issue(claims)
	if bad, ok := errors.AsType[*identity.TokenError](err); ok {
		return cli.Usagef("this token would be refused: %s", bad.Reason)
	}
	if err != nil {
		return err
	}
	if !f.json {
		_, err = fmt.Fprintln(a.Stdout, token)
		return err
	}
	g, err := issuer.authority.Inspect(token, now)
	if err != nil {
		return err
	}
	return json.NewEncoder(a.Stdout).Encode(issuedToken{token, showGrant(g, f.app)})
}
