package main

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
)

func TestIDIsTheSameAtEveryRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	first := runHere("id", "--data", dir)
	require.Equal(t, cli.ExitOK, first.code, first.errOut)
	require.Regexp(t, `^key   [a-z2-7]{16}\npeer  12D3Koo\w+\ndata  `+regexp.QuoteMeta(dir)+`\n$`, first.out)
	require.Equal(t, first, runHere("id", "--data", dir))
	require.Regexp(t, `^\{"key":"[a-z2-7]{16}","peer":"12D3Koo\w+","device":\{"kty":"OKP","crv":"Ed25519","x":"[\w-]{43}"\},"data":"[^"]+"\}\n$`, runHere("id", "--json", "--data", dir).out)
}

func TestIDIsToldWhileAChatHoldsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	free, asJSON := runHere("id", "--data", dir), runHere("id", "--json", "--data", dir)
	d, err := identity.OpenDir(dir)
	require.NoError(t, err)
	defer d.Close()
	require.Equal(t, free, runHere("id", "--data", dir))
	require.Equal(t, asJSON, runHere("id", "--json", "--data", dir))

	// Without keys there is nothing to show, and making them needs the directory.
	require.NoError(t, os.Remove(filepath.Join(dir, "device.key")))
	held := runHere("id", "--data", dir)
	require.Equal(t, cli.ExitFailed, held.code)
	require.Contains(t, held.errOut, "in use by another node")
}

func TestAnExportedKeyMakesAnotherDirectoryTheSameUserOnAnotherDevice(t *testing.T) {
	one, two, file := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "me.key")
	first := runHere("id", "--data", one)

	require.Equal(t, ran{}, runHere("id", "export", file, "--data", one))
	if info, err := os.Stat(file); runtime.GOOS != "windows" {
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	second := runHere("id", "import", file, "--data", two)
	require.Equal(t, cli.ExitOK, second.code, second.errOut)
	require.Equal(t, lineOf(first.out, 0), lineOf(second.out, 0), "the same user key")
	require.NotEqual(t, lineOf(first.out, 1), lineOf(second.out, 1), "another peer ID")

	// Through pipes it is the same.
	exported := runHere("id", "export", "--data", one)
	require.Equal(t, cli.ExitOK, exported.code)
	require.Equal(t, exported.out, runHere("id", "export", "-", "--data", one).out)
	three := t.TempDir()
	require.Equal(t, lineOf(first.out, 0), lineOf(runWith(exported.out, "id", "import", "-", "--data", three).out, 0))
}

func TestAKeyIsNeitherOverwrittenNorLostByAccident(t *testing.T) {
	one, two, file := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "me.key")
	first, second := runHere("id", "--data", one), runHere("id", "--data", two)
	require.Equal(t, cli.ExitOK, runHere("id", "export", file, "--data", one).code)

	again := runHere("id", "export", file, "--data", one)
	require.Equal(t, ran{cli.ExitFailed, "", "starling: " + file + " is there already, and is not overwritten\n"}, again)

	refused := runHere("id", "import", file, "--data", two)
	require.Equal(t, cli.ExitFailed, refused.code)
	require.Empty(t, refused.out)
	require.Contains(t, refused.errOut, "another user key is there already")
	require.Contains(t, refused.errOut, "say --force to replace it.\n")
	require.Equal(t, second, runHere("id", "--data", two), "nothing was changed")

	forced := runHere("id", "import", file, "--force", "--data", two)
	require.Equal(t, cli.ExitOK, forced.code, forced.errOut)
	require.Equal(t, lineOf(first.out, 0), lineOf(forced.out, 0))
}

func TestKeysThatCannotBeUsedAreNamed(t *testing.T) {
	dir := t.TempDir()
	none := runHere("id", "export", "--data", dir)
	require.Equal(t, ran{cli.ExitFailed, "", "starling: there is no key in " + dir + " yet; \"starling id\" makes one\n"}, none)

	garbage := runWith("garbage", "id", "import", "-", "--data", dir)
	require.Equal(t, ran{cli.ExitFailed, "", "starling: user key: damaged: no PEM block in it\n"}, garbage)

	missing := runHere("id", "import", filepath.Join(dir, "none"), "--data", dir)
	require.Equal(t, cli.ExitFailed, missing.code)
	require.Contains(t, missing.errOut, filepath.Join(dir, "none"))

	d, err := identity.OpenDir(dir)
	require.NoError(t, err)
	defer d.Close()
	exported := runHere("id", "export", "--data", dir)
	require.Equal(t, cli.ExitOK, exported.code, "a key can be exported while a chat runs")
	held := runWith(exported.out, "id", "import", "-", "--data", dir)
	require.Equal(t, ran{cli.ExitFailed, "", "starling: data directory " + dir +
		": in use by another node\nA starling is running with it: end that one first.\n"}, held)
}

// line returns one line of a text.
func lineOf(text string, n int) string { return strings.Split(text, "\n")[n] }
