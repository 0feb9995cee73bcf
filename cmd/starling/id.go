package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
)

// maxKeyText bounds what is read as an exported key, in bytes. A key has about 200.
const maxKeyText = 16 << 10

func idCommand(a *cli.App) *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "id",
		Short: "Show who you are to the others, and carry it to another device",
		Long: `Id shows the key by which others recognise you, the peer ID of this device, and where both are kept. They
are created if they do not exist.

Two people who want to be sure of each other compare fingerprints: anybody can take a name, but not a
key. "starling id export" and "starling id import" carry your key to a second device,
which is then the same user, with its own peer ID.`,
		Example: `  starling id                        the key, the peer ID and the directory
  starling id export me.key          on the first device
  starling id import me.key          on the second`,
		Args: cli.SubcommandsOnly,
		RunE: a.Action(func(*cobra.Command, []string) error { return showID(a, dir, asJSON) }),
	}
	cmd.PersistentFlags().StringVar(&dir, "data", "", "the `DIR` with the keys (default: starling in your configuration directory)")
	cmd.Flags().BoolVar(&asJSON, "json", false, `as one JSON object: {"key":…,"peer":…,"device":…,"data":…}`)
	cmd.AddCommand(exportCommand(a, &dir), importCommand(a, &dir))
	return cmd
}

// shownID is the output of `starling id`.
type shownID struct {
	Key  string `json:"key"`
	Peer string `json:"peer"`
	// Device is the device key as a JSON Web Key, to which tokens are bound.
	Device json.RawMessage `json:"device"`
	Data   string          `json:"data"`
}

func showID(a *cli.App, dir string, asJSON bool) error {
	dir, err := cli.DataDir(dir)
	if err != nil {
		return err
	}
	id, err := readID(dir)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(a.Stdout).Encode(id)
	}
	_, err = fmt.Fprintf(a.Stdout, "key   %s\npeer  %s\ndata  %s\n", id.Key, id.Peer, id.Data)
	return err
}

// readID reads the keys, and makes them if there are none. It also works while a chat runs with the
// directory.
func readID(dir string) (shownID, error) {
	keys, err := identity.ReadKeys(dir)
	if errors.Is(err, fs.ErrNotExist) {
		keys, err = makeKeys(dir)
	}
	if err != nil {
		return shownID{}, err
	}
	return shownID{
		Key: keys.UserKey().Fingerprint(), Peer: keys.PeerID().String(), Device: keys.DeviceKey().JWK(), Data: dir,
	}, nil
}

func makeKeys(dir string) (*identity.Keys, error) {
	d, err := identity.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	return d.Keys(), d.Close()
}

func exportCommand(a *cli.App, dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "export [FILE]",
		Short: "Write your user key to a file, or to standard output",
		Long: `Export writes your private user key, as PEM. Anybody who has it can act as you: treat it like a password, and
delete the copy. FILE is made readable for you only, and must not exist yet. Without it, or as -, the key
goes to standard output.`,
		Example: "  starling id export me.key\n  starling id export | ssh laptop starling id import -",
		Args:    cli.AtMostOne("a file"),
		RunE: a.Action(func(_ *cobra.Command, args []string) error {
			dir, err := cli.DataDir(*dir)
			if err != nil {
				return err
			}
			text, err := identity.ExportUserKey(dir)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no key in %s yet; \"starling id\" makes one", dir)
			}
			if err != nil {
				return err
			}
			if len(args) == 0 || args[0] == "-" {
				_, err = a.Stdout.Write(text)
				return err
			}
			return cli.WriteNew(args[0], text)
		}),
	}
}

func importCommand(a *cli.App, dir *string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Become the user whose key is in a file",
		Long: `Import makes this device one of the user whose key "starling id export" wrote to FILE, or - for standard
input. The device keeps a peer ID of its own. If this device already has another user key, nothing is
changed, since that key would be lost: export it first, and then use --force.`,
		Example: "  starling id import me.key\n  starling id import me.key --force",
		Args:    cli.ExactlyOne("a file"),
		RunE: a.Action(func(_ *cobra.Command, args []string) error {
			dir, err := cli.DataDir(*dir)
			if err != nil {
				return err
			}
			text, err := readKeyText(a, args[0])
			if err != nil {
				return err
			}
			put := identity.ImportUserKey
			if force {
				put = identity.ReplaceUserKey
			}
			switch err := put(dir, text); {
			case errors.Is(err, identity.ErrOtherKey):
				return cli.Advise(err, "Save that one with \"starling id export FILE\", then say --force to replace it.")
			case err != nil:
				return cli.AdviseInUse(err, "A starling is running with it: end that one first.")
			}
			return showID(a, dir, false)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace the user key of this device, which is lost unless it was exported")
	return cmd
}

func readKeyText(a *cli.App, path string) ([]byte, error) {
	in := a.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, maxKeyText))
}
