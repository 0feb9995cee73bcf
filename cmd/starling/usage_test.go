package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

func TestWrongUsageIsToldExactlyAndEndsWith2(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // of standard error, without the last line
		help string // the command whose help the last line names
	}{
		{[]string{"chta"}, `unknown command "chta" for "starling", did you mean "chat"?`, "starling"},
		{[]string{"frobnicate"}, `unknown command "frobnicate" for "starling"`, "starling"},
		{[]string{"--jsn"}, `unknown flag: --jsn`, "starling"},
		{[]string{"demo", "--jsn"}, `unknown flag: --jsn, did you mean --json?`, "starling demo"},
		{[]string{"demo", "now"}, `"starling demo" takes no arguments, and got "now"`, "starling demo"},
		{[]string{"demo", "-x"}, `unknown shorthand flag: 'x' in -x`, "starling demo"},
		{[]string{"chat", "--romo", "ops"}, `unknown flag: --romo, did you mean --room?`, "starling chat"},
		{[]string{"chat", "--room"}, `flag needs an argument: --room`, "starling chat"},
		{[]string{"chat", "lobby"}, `"starling chat" takes no arguments, and got "lobby"`, "starling chat"},
		{[]string{"id", "exprot"}, `unknown command "exprot" for "starling id", did you mean "export"?`, "starling id"},
		{[]string{"id", "export", "a", "b"}, `"starling id export" takes at most a file, and got "b" too`, "starling id export"},
		{[]string{"id", "import"}, `"starling id import" needs a file`, "starling id import"},
		{[]string{"version", "2"}, `"starling version" takes no arguments, and got "2"`, "starling version"},
		{[]string{"help", "exit-code"}, `no help on "exit-code", did you mean "exit-codes"?`, "starling help"},
		{[]string{"help", "nothing", "at", "all"}, `no help on "nothing at all"`, "starling help"},
		{[]string{"demo", "--log-level", "loud"}, `--log-level: "loud" is not one of off, error, warn, info, debug`, "starling demo"},
	} {
		got := runHere(c.args...)
		require.Equal(t, cli.ExitUsage, got.code, "%v", c.args)
		require.Empty(t, got.out, "%v", c.args)
		require.Equal(t, "starling: "+c.want+"\nRun '"+c.help+" --help' for usage.\n", got.errOut, "%v", c.args)
	}
}

func TestWrongValuesOfAChatAreToldTogether(t *testing.T) {
	got := runHere("chat", "--user", "a b", "--room", "", "--app", "x/y", "--data", "d", "--ephemeral", "--keep-history")
	require.Equal(t, ran{cli.ExitUsage, "", strings.Join([]string{
		`starling: --user "a b": ' ' is not one of a-z A-Z 0-9 _ @ . -`,
		`--app "x/y": '/' is not one of a-z A-Z 0-9 _ @ . -`,
		`--room "": empty`,
		`--data and --ephemeral exclude each other`,
		`--keep-history and --ephemeral exclude each other`,
		`Run 'starling chat --help' for usage.`,
	}, "\n") + "\n"}, got)
}

func TestWrongAddressesOfAChatAreToldTogether(t *testing.T) {
	got := runHere("chat", "--ephemeral", "--peer", "/ip4/127.0.0.1/tcp/4001", "--peer", "10.0.0.1:4001", "--listen", "/ip4/127.0.0.1/udp/1")
	require.Equal(t, ran{cli.ExitUsage, "", strings.Join([]string{
		`starling: address "/ip4/127.0.0.1/udp/1": want /ip4/ or /ip6/, then /tcp/PORT or /udp/PORT/quic-v1`,
		`address "/ip4/127.0.0.1/tcp/4001": it must end in /p2p/ and a peer ID`,
		`address "10.0.0.1:4001": failed to parse multiaddr "10.0.0.1:4001": must begin with /`,
		`Run 'starling chat --help' for usage.`,
	}, "\n") + "\n"}, got)
}

func TestWrongUsageOfAJSONChatIsAnEventToo(t *testing.T) {
	got := runHere("chat", "--json", "--user", "")
	require.Equal(t, cli.ExitUsage, got.code)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 2)
	require.Regexp(t, `^\{"type":"error","time":"[^"]+","code":"usage","detail":"--user \\"\\": empty"\}$`, lines[0])
	require.Regexp(t, `^\{"type":"bye","time":"[^"]+","reason":"failed","code":2\}$`, lines[1])
}

func TestEveryCommandHasHelpWithExamplesOnStandardOutput(t *testing.T) {
	a := &cli.App{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		got := runHere(args...)
		require.Equal(t, cli.ExitOK, got.code, "%v", args)
		require.Empty(t, got.errOut, "%v", args)
		require.Contains(t, got.out, "Usage:", "%v", args)
		require.Contains(t, got.out, "Examples:", "%v", args)
		for _, sub := range c.Commands() {
			if sub.Runnable() && !sub.Hidden {
				walk(sub)
			}
		}
	}
	walk(command(a))
	require.Equal(t, runHere("--help").out, runHere().out, "starling alone shows its help")
}

func TestHelpTopicsAreTold(t *testing.T) {
	codes := runHere("help", "exit-codes")
	require.Equal(t, cli.ExitOK, codes.code)
	require.Contains(t, codes.out, "130  ended by Ctrl-C")
	events := runHere("help", "json")
	require.Equal(t, cli.ExitOK, events.code)
	require.Contains(t, events.out, "ready   first of all")
	require.Contains(t, runHere("--help").out, "exit-codes")
}

func TestVersionTellsTheReleaseAndTheToolchain(t *testing.T) {
	require.Regexp(t, `^starling 0\.1\.0-dev( \([0-9a-f]{12}(, modified)?\))? go1\.\S+ \w+/\w+\n$`, runHere("version").out)
	require.Regexp(t, `^\{"version":"0\.1\.0-dev",.*"platform":"\w+/\w+"\}\n$`, runHere("version", "--json").out)
}

func TestTheProcessEndsWithTheExitCode(t *testing.T) {
	require.NoError(t, starling(t, "version").Run())
	var failed *exec.ExitError
	require.ErrorAs(t, starling(t, "chta").Run(), &failed)
	require.Equal(t, cli.ExitUsage, failed.ExitCode())
}
