package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
)

// The files of an issuer's directory.
const (
	issuerKeyFile = "issuer.key"   // the first key, which is the root
	issuersFile   = "issuers.json" // the public keys, for every node of the app
)

// IssuerCommand returns the command starling issuer.
func IssuerCommand(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "issuer",
		Short: "Make the keys of an app that decides who its users are",
		Long: `By default users choose their own names, and names are not unique. An app that knows its users, for
example through its backend, can have an issuer key. Tokens signed with that key say who each user is, and every
node checks them without asking anybody. See "starling token" for issuing them.`,
		Example: "  starling issuer new --dir acme      once, where nobody else can read it",
		Args:    cli.SubcommandsOnly,
		RunE:    a.Action(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newIssuerCommand(a))
	return cmd
}

// shownIssuer is the output of `starling issuer new`.
type shownIssuer struct {
	Kid     string `json:"kid"`
	Key     string `json:"key"`     // file
	Issuers string `json:"issuers"` // file
	Root    string `json:"root"`    // kid
}

func newIssuerCommand(a *cli.App) *cobra.Command {
	var dir string
	var add, asJSON bool
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Make an issuer key",
		Long: `New makes an issuer key and writes two files: issuer.key, which signs tokens and must stay
secret, and issuers.json, the public half, which every node of the app needs. The first key is the root. The
identity of the app is its name together with that key, so nobody can pass off another app as this one.

A further key, with --add, is added to issuers.json and gets a file of its own. Give the new issuers.json to
all nodes before you sign with it. To retire a key, remove it from issuers.json on all nodes; the root must
stay in, but need not be used.`,
		Example: `  starling issuer new --dir acme            acme/issuer.key and acme/issuers.json
  starling issuer new --dir acme --add      a further key: acme/issuer-2.key`,
		Args: cli.NoArguments,
		RunE: a.Action(func(*cobra.Command, []string) error {
			dir, err := issuerDir(dir)
			if err != nil {
				return err
			}
			made, err := newIssuerKey(dir, add)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(a.Stdout).Encode(made)
			}
			_, err = fmt.Fprintf(a.Stdout, "kid      %s\nkey      %s  (keep it secret: who has it says who is a user)\n"+
				"issuers  %s  (for every node of the app: starling chat --issuers FILE)\n", made.Kid, made.Key, made.Issuers)
			return err
		}),
	}
	addIssuerDir(cmd, &dir)
	cmd.Flags().BoolVar(&add, "add", false, "make a further key for an existing issuer")
	cmd.Flags().BoolVar(&asJSON, "json", false, `as one JSON object: {"kid":…,"key":…,"issuers":…,"root":…}`)
	return cmd
}

func addIssuerDir(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "", "the `DIR` of the issuer (default: starling/issuer in your configuration directory)")
}

// issuerDir returns dir, or the default.
func issuerDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", errors.Join(fmt.Errorf("no directory for the issuer: %w", err), errors.New("name one with --dir DIR"))
	}
	return filepath.Join(base, "starling", "issuer"), nil
}

func newIssuerKey(dir string, add bool) (shownIssuer, error) {
	made := shownIssuer{Key: filepath.Join(dir, issuerKeyFile), Issuers: filepath.Join(dir, issuersFile)}
	there, err := identity.ReadIssuers(made.Issuers)
	switch {
	case err == nil && !add:
		return made, fmt.Errorf("%s is there already, and is not overwritten; --add makes a further key", made.Issuers)
	case errors.Is(err, fs.ErrNotExist) && add:
		return made, fmt.Errorf("there is no issuer in %s yet; \"starling issuer new\" without --add makes it", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return made, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return made, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return made, err
	}
	key := identity.NewIssuerKey(identity.PublicKey(public))
	all := append(there.Keys(), key)
	issuers, err := identity.NewIssuers(all[0], all[1:]...)
	if err != nil {
		return made, err
	}
	made.Kid, made.Root = key.Kid, issuers.Root().Kid
	if n := len(all); n > 1 {
		made.Key = filepath.Join(dir, fmt.Sprintf("issuer-%d.key", n))
	}
	text, err := identity.MarshalKey(private)
	if err != nil {
		return made, err
	}
	if err := cli.WriteNew(made.Key, text); err != nil {
		return made, err
	}
	return made, cli.ReplaceFile(made.Issuers, issuers.Marshal(), 0o644)
}

// openedIssuer is an issuer's directory, for one app.
type openedIssuer struct {
	*identity.Issuer
	authority *identity.Authority
	list      string // file with the revocations
}

// openIssuer reads the directory, and determines which of its keys signs.
func openIssuer(dir, keyFile, app string) (*openedIssuer, error) {
	if err := identity.CheckApp(app); err != nil {
		return nil, badID("--app", err)
	}
	dir, err := issuerDir(dir)
	if err != nil {
		return nil, err
	}
	if keyFile == "" {
		keyFile = filepath.Join(dir, issuerKeyFile)
	}
	issuers, err := identity.ReadIssuers(filepath.Join(dir, issuersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no issuer in %s; \"starling issuer new\" makes one", dir)
	}
	if err != nil {
		return nil, err
	}
	key, err := identity.ReadKey(keyFile)
	if err != nil {
		return nil, err
	}
	public := identity.PublicKey(key.Public().(ed25519.PublicKey))
	kid := ""
	for _, k := range issuers.Keys() {
		if k.Key == public {
			kid = k.Kid
		}
	}
	if kid == "" {
		return nil, fmt.Errorf("the key in %s is not one of those in %s: no node would trust it", keyFile, filepath.Join(dir, issuersFile))
	}
	o := &openedIssuer{list: filepath.Join(dir, app+".revocations")}
	if o.Issuer, err = identity.NewIssuer(app, key, identity.WithKid(kid), identity.WithRoot(issuers.Root().Key)); err != nil {
		return nil, err
	}
	o.authority, err = identity.NewAuthority(app, issuers)
	return o, err
}

// badID returns a usage error for a flag whose value is not an ID.
func badID(flag string, err error) error {
	if id, ok := errors.AsType[*identity.IDError](err); ok {
		return cli.Usagef("%s %q: %w", flag, id.Value, id.Err)
	}
	return cli.Usagef("%s: %w", flag, err)
}
