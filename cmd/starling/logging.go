package main

import (
	"log/slog"
	"strings"
)

// logger writes what --log-level asks for to standard error.
func (a *app) logger() (*slog.Logger, error) {
	if a.logLevel == "off" {
		return slog.New(slog.DiscardHandler), nil
	}
	var level slog.Level
	switch strings.ToLower(a.logLevel) {
	case "error":
		level = slog.LevelError
	case "warn":
		level = slog.LevelWarn
	case "info":
		level = slog.LevelInfo
	case "debug":
		level = slog.LevelDebug
	default:
		return nil, usagef("--log-level: %q is none of off, error, warn, info, debug", a.logLevel)
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})), nil
}
