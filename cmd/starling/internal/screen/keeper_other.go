//go:build !unix

package screen

import (
	"context"
	"errors"
	"os"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// Kept is a process with a keeper; there are none here.
type Kept struct{}

// BeKept returns nil: no process has a keeper here.
func BeKept(chan<- os.Signal) *Kept { return nil }

// Exit ends the process.
func (k *Kept) Exit(code int) { os.Exit(code) }

// Keep is not possible here: the process uses the screen itself.
func Keep(context.Context, *cli.App) (code int, err error) {
	return 0, errors.New("no keepers on this system")
}
