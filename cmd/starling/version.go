package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// version is the release that this tree leads to.
const version = "0.1.0-dev"

// build is the output of `starling version`.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // the commit, if built in a repository
	Modified bool   `json:"modified,omitempty"` // with uncommitted changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisBuild() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Revision = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	return b
}

func (b build) String() string {
	s := "starling " + b.Version
	if b.Revision != "" {
		s += " (" + b.Revision[:min(12, len(b.Revision))]
		if b.Modified {
			s += ", modified"
		}
		s += ")"
	}
	return fmt.Sprintf("%s %s %s", s, b.Go, b.Platform)
}

func versionCommand(a *cli.App) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of starling",
		Example: "  starling version\n  starling version --json",
		Args:    cli.NoArguments,
		RunE: a.Action(func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return json.NewEncoder(a.Stdout).Encode(thisBuild())
			}
			_, err := fmt.Fprintln(a.Stdout, thisBuild())
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as one JSON object")
	return cmd
}
