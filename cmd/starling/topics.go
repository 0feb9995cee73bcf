package main

import (
	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
)

// topics are commands that only have a help.
func topics() []*cobra.Command {
	return []*cobra.Command{{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Exit codes of every starling command:

  0    it did what it should; for chat: left by /quit or by the end of standard input
  1    it failed; standard error says why
  2    wrong usage: an unknown command, flag or argument, or an invalid value
  3    the same user has logged in on another device, so this chat has ended.
       Starting it again ends the log-in on the other device: do not restart on this code.
  70   the chat on the whole terminal crashed, which is a bug: it has restored the terminal, and the
       trace is on standard error. If it crashes without a screen, the code is 2
  129  ended by SIGHUP (the terminal was closed), after leaving its rooms
  130  ended by Ctrl-C, after leaving its rooms
  143  ended by SIGTERM, after leaving its rooms

After the first signal a command leaves its rooms and closes within 2 s; a second signal ends it at once.`,
	}, {
		Use:   "json",
		Short: "The lines that chat --json writes",
		Long:  session.JSONHelp,
	}}
}
