package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
)

// verifyFlags are the flags of a token to verify.
type verifyFlags struct {
	issuers, revocations, app string
	user, device, room        string
	leeway                    time.Duration
	json                      bool
}

func verifyCommand(a *cli.App) *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify TOKEN|FILE|-",
		Short: "Check a token as every node does",
		Long: `Verify says whether the nodes of the app accept a token now and, if not, why. The exit code is 0 if they do,
and 1 if they do not. With --user and --device it also checks who shows it, and with --room whether it admits
to that room.`,
		Example: `  starling token verify token --issuers issuers.json
  starling token verify token --issuers issuers.json --user alice --device 12D3KooW… --room ops`,
		Args:                  cli.ExactlyOne("a token"),
		DisableFlagsInUseLine: true,
		RunE:                  a.Action(func(_ *cobra.Command, args []string) error { return verify(a, args[0], f) }),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.issuers, "issuers", "", "the `FILE` with the issuers (default: issuers.json of your issuer)")
	flags.StringVar(&f.revocations, "revocations", "", "the `FILE` with the list of revocations")
	flags.StringVar(&f.app, "app", "starling", "the `NAME` of the app")
	flags.StringVar(&f.user, "user", "", "the user who shows it, by `NAME`; with --device")
	flags.StringVar(&f.device, "device", "", "the `KEY` of the device that shows it; with --user")
	flags.StringVar(&f.room, "room", "", "a room that it should admit to, by `NAME`")
	flags.DurationVar(&f.leeway, "leeway", identity.DefaultLeeway, "by how much clocks may differ, as `TIME`")
	flags.BoolVar(&f.json, "json", false, `as one JSON object: {"ok":true,"grant":…} or {"ok":false,"error":…,"detail":…}`)
	return cmd
}

// verdict is the output of `starling token verify --json`.
type verdict struct {
	OK     bool        `json:"ok"`
	Grant  *shownGrant `json:"grant,omitempty"`
	Error  string      `json:"error,omitempty"` // a code
	Detail string      `json:"detail,omitempty"`
}

func verify(a *cli.App, arg string, f verifyFlags) error {
	judge, err := f.judge()
	if err != nil {
		return err
	}
	token, err := readToken(a, arg)
	if err != nil {
		return err
	}
	g, err := judge(token)
	refused, isRefused := errors.AsType[*identity.TokenError](err)
	switch {
	case err != nil && !isRefused:
		return err
	case err != nil && f.json:
		e := json.NewEncoder(a.Stdout).Encode(verdict{Error: codeOf(refused), Detail: refused.Reason})
		return errors.Join(e, &cli.ToldError{Err: err})
	case err != nil:
		return fmt.Errorf("token refused: %s", refused.Reason)
	}
	shown := showGrant(g, f.app)
	if f.json {
		return json.NewEncoder(a.Stdout).Encode(verdict{OK: true, Grant: &shown})
	}
	_, err = fmt.Fprintf(a.Stdout, "good\n%s", shown)
	return err
}

// judge returns a function that checks tokens according to the flags.
func (f *verifyFlags) judge() (func(token string) (*identity.Grant, error), error) {
	for _, id := range []struct {
		flag string
		err  error
	}{{"--app", identity.CheckApp(f.app)}, {"--user", identity.CheckUser(f.user)}, {"--room", identity.CheckRoom(f.room)}} {
		if id.err != nil && !errors.Is(id.err, identity.ErrEmptyID) {
			return nil, badID(id.flag, id.err)
		}
	}
	if (f.user == "") != (f.device == "") {
		return nil, cli.Usagef("--user and --device go together: who shows a token, and on which device")
	}
	if f.leeway < 0 || f.leeway > identity.MaxLeeway {
		return nil, cli.Usagef("--leeway %v: want 0 to %v", f.leeway, identity.MaxLeeway)
	}
	var device identity.PublicKey
	if f.device != "" {
		var err error
		if device, err = identity.ParseDeviceKey(f.device); err != nil {
			return nil, cli.Usagef("--device %q: want the peer ID that \"starling id\" shows, or its JSON Web Key", shortened(f.device))
		}
	}
	authority, err := f.authority()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return func(token string) (*identity.Grant, error) {
		g, err := authority.Inspect(token, now)
		if err != nil {
			return nil, err
		}
		user, shower := f.user, device
		if user == "" {
			user, shower = g.User, g.Device
		}
		if f.room != "" {
			return authority.Room(token, user, shower, f.room, now)
		}
		if f.user != "" && g.Login {
			return authority.Login(token, user, shower, now)
		}
		if f.user != "" { // for rooms only: any of them shows whether this user may use it
			for room := range g.Rooms {
				return authority.Room(token, user, shower, room, now)
			}
		}
		return g, nil
	}, nil
}

func (f *verifyFlags) authority() (*identity.Authority, error) {
	path := f.issuers
	if path == "" {
		dir, err := issuerDir("")
		if err != nil {
			return nil, err
		}
		path = filepath.Join(dir, issuersFile)
	}
	issuers, err := identity.ReadIssuers(path)
	if err != nil {
		return nil, err
	}
	authority, err := identity.NewAuthority(f.app, issuers, identity.WithLeeway(f.leeway))
	if err != nil {
		return nil, err
	}
	if f.revocations != "" {
		list, err := ReadList(f.revocations)
		if err != nil {
			return nil, err
		}
		if _, err := authority.Revoke(list); err != nil {
			return nil, fmt.Errorf("%s: %w", f.revocations, err)
		}
	}
	return authority, nil
}

// ReadList reads a list of revocations.
func ReadList(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, identity.MaxRevocations+1))
}

// codes are the reasons for a refusal, as programs read them.
var codes = []struct {
	err  error
	code string
}{
	{identity.ErrClock, "clock"},
	{identity.ErrTokenMissing, "missing"},
	{identity.ErrTokenSize, "size"},
	{identity.ErrTokenMalformed, "malformed"},
	{identity.ErrTokenAlgorithm, "algorithm"},
	{identity.ErrTokenIssuer, "issuer"},
	{identity.ErrTokenApp, "app"},
	{identity.ErrTokenUser, "user"},
	{identity.ErrTokenUnbound, "unbound"},
	{identity.ErrTokenDevice, "device"},
	{identity.ErrTokenPurpose, "purpose"},
	{identity.ErrTokenRoom, "room"},
	{identity.ErrTokenNotYetValid, "not_yet_valid"},
	{identity.ErrTokenExpired, "expired"},
	{identity.ErrTokenRevoked, "revoked"},
}

func codeOf(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return "failed"
}
