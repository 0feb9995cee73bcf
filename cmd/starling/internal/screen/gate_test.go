package screen

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNothingIsDrawnOnATerminalThatWasGivenBack(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	g := &gate{file: w}
	_, err = g.Write([]byte("before"))
	require.NoError(t, err)

	// A terminal that takes no output blocks the write under way, but not the call that restores
	// the terminal.
	stuck := make(chan error)
	go func() {
		_, err := g.Write(make([]byte, 1<<20)) // more than a pipe holds
		stuck <- err
	}()
	got := make([]byte, 7)
	for n := 0; n < len(got); {
		m, err := r.Read(got[n:])
		require.NoError(t, err)
		n += m
	}
	require.Equal(t, "before\x00", string(got))
	g.shut(10 * time.Millisecond)
	require.NoError(t, r.Close())
	require.Error(t, <-stuck)

	n, err := g.Write([]byte("after"))
	require.NoError(t, err, "the pipe is closed: it was not written to")
	require.Equal(t, 5, n)
}
