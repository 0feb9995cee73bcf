//go:build linux

package netlab

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"
)

// lines is an [io.Writer] that keeps what is written to it as lines, for readers that wait for one.
// It never blocks the writer: a test that reads late must not stall the process that it observes.
type lines struct {
	mu      sync.Mutex
	done    []string
	partial []byte
	ended   bool
	changed chan struct{} // closed, and replaced, when a line is added; closed for good at the end
}

func newLines() *lines { return &lines{changed: make(chan struct{})} }

// Write implements [io.Writer].
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, b...)
	added := false
	for {
		line, rest, found := bytes.Cut(l.partial, []byte("\n"))
		if !found {
			break
		}
		l.done = append(l.done, string(line))
		l.partial = rest
		added = true
	}
	if added {
		l.partial = slices.Clone(l.partial) // release the memory of the lines that were cut off
		close(l.changed)
		l.changed = make(chan struct{})
	}
	return len(b), nil
}

// end marks the end of the output. A rest without a newline counts as a line.
func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.done = append(l.done, string(l.partial))
		l.partial = nil
	}
	l.ended = true
	close(l.changed)
}

// line waits for line i. It returns [io.EOF] if the output has ended without such a line.
func (l *lines) line(ctx context.Context, i int) (string, error) {
	for {
		l.mu.Lock()
		have, ended, changed := l.done, l.ended, l.changed
		l.mu.Unlock()
		if i < len(have) {
			return have[i], nil
		}
		if ended {
			return "", io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// all returns the lines so far, and the part of the next that has been written.
func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.done)
	if len(l.partial) > 0 {
		all = append(all, string(l.partial))
	}
	return all
}
