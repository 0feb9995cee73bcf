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

// logger writes what --log-level asks for to standard error.
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

// hushLibraries makes --log-level hold for what libraries write to standard error by themselves, too: much of it
// is of the usual, such as a listener that closes, and would stand between the lines of a chat. The standard
// library's log counts as info. libp2p is heard at debug, unless its own GOLOG_LOG_LEVEL says otherwise.
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
