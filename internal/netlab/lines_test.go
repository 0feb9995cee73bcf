//go:build linux

package netlab

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestLinesAreJoinedAcrossWrites(t *testing.T) {
	l := newLines()
	for _, part := range []string{"on", "e\ntw", "o\n\nfo", "ur"} {
		fmt.Fprint(l, part)
	}
	require.Equal(t, []string{"one", "two", "", "four"}, l.all())
	l.end()
	for i, want := range []string{"one", "two", "", "four"} {
		got, err := l.line(t.Context(), i)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := l.line(t.Context(), 4)
	require.ErrorIs(t, err, io.EOF)
}

func TestLineWaitsUntilItIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLines()
		got := make(chan string, 1)
		go func() {
			line, err := l.line(t.Context(), 0)
			got <- fmt.Sprint(line, err)
		}()
		fmt.Fprint(l, "half")
		synctest.Wait()
		require.Empty(t, got)
		fmt.Fprint(l, " and half\n")
		require.Equal(t, "half and half<nil>", <-got)
	})
}

func TestLineEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newLines().line(ctx, 0)
	require.ErrorIs(t, err, context.Canceled)
}
