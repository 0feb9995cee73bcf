//go:build !unix

package main

import (
	"context"
	"errors"
	"os"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// kept is a process with a keeper; there are none here.
type kept struct{}

func beKept(chan<- os.Signal) *kept { return nil }

func (k *kept) exit(code int) { os.Exit(code) }

// keep is not possible here: the process uses the screen itself.
func keep(context.Context, *cli.App) (code int, err error) {
	return 0, errors.New("no keepers on this system")
}
