package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRatiosAreTakenWithinARoundAndTheMedianOfThemGiven(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for i, text := range []string{
		"goos: linux\nBenchmarkDirect/64B/bare-2 100 20 ns/op 3 allocs/op\nBenchmarkDirect/64B/starling-2 100 24 ns/op\nPASS\n",
		"BenchmarkDirect/64B/bare-2 100 200 ns/op\nBenchmarkDirect/64B/starling-2 100 400 ns/op\n",
		"BenchmarkDirect/64B/bare-2 100 20 ns/op\nBenchmarkDirect/64B/starling-2 100 26 ns/op\n",
	} {
		f := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	var out strings.Builder
	if err := run(files, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"medians of 3 rounds",
		"direct 64B, acknowledged, time: 1.30 × bare echo (1.20 to 2.00); target at most 1.50: met\n",
		"Direct/64B/bare      20.0 ns/op  3.00 allocs/op\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

func TestAMissedTargetIsSaid(t *testing.T) {
	c := comparison{least: 20}
	if got, want := c.judge(19.9), "; target at least 20.0: MISSED"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOutputWithoutBenchmarksIsAnError(t *testing.T) {
	f := filepath.Join(t.TempDir(), "round")
	if err := os.WriteFile(f, []byte("FAIL\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{f}, new(strings.Builder)); err == nil {
		t.Error("no error")
	}
}
