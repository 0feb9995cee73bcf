package main

import (
	"log/slog"
	"os"

	"github.com/libp2p/go-libp2p/gologshim"
)

var levels = map[string]slog.Level{
	"error": slog.LevelError,
	"warn":  slog.LevelWarn,
	"info":  slog.LevelInfo,
	"debug": slog.LevelDebug,
	"off":   slog.LevelError + 1,
}

// logger returns a logger that writes to standard error at --log-level.
func (a *app) logger() (*slog.Logger, error) {
	level, ok := levels[a.logLevel]
	if !ok {
		return nil, usagef("--log-level: %q is none of off, error, warn, info, debug", a.logLevel)
	}
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	if a.whole {
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
