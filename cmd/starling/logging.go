package main

import (
	"log/slog"
	"os"

	"github.com/libp2p/go-libp2p/gologshim"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

var levels = map[string]slog.Level{
	"error": slog.LevelError,
	"warn":  slog.LevelWarn,
	"info":  slog.LevelInfo,
	"debug": slog.LevelDebug,
	"off":   slog.LevelError + 1,
}

// newLogger returns a logger that writes to standard error at the level of that name.
func newLogger(a *cli.App, name string) (*slog.Logger, error) {
	level, ok := levels[name]
	if !ok {
		return nil, cli.Usagef("--log-level: %q is not one of off, error, warn, info, debug", name)
	}
	log := slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: level}))
	if a.Whole {
		hushLibraries(log, level)
	}
	return log, nil
}

// hushLibraries applies --log-level also to what libraries write to standard error by themselves.
// Much of it is routine, such as a listener that closes, and would appear between the lines of a
// chat. The standard library's log counts as info. libp2p's log is shown at debug, unless its own
// GOLOG_LOG_LEVEL says otherwise.
func hushLibraries(log *slog.Logger, level slog.Level) {
	slog.SetDefault(log)
	switch {
	case os.Getenv("GOLOG_LOG_LEVEL") != "":
	case level == slog.LevelDebug:
		gologshim.SetDefaultHandler(log.Handler())
	default:
		gologshim.SetDefaultHandler(slog.DiscardHandler)
	}
}
