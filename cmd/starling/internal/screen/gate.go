package screen

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charmbracelet/x/term"
)

// gate is the terminal as the program that draws on it sees it. It can be shut: a program that is
// slow to end would otherwise end the alternate screen once more after a trace has been written,
// and that moves the cursor back.
type gate struct {
	file   *os.File
	closed atomic.Bool
	mu     sync.Mutex // held while something is written
}

// Write drops what comes after the gate was shut.
func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed.Load() {
		return len(b), nil
	}
	return g.file.Write(b)
}

func (g *gate) Read(b []byte) (int, error) { return g.file.Read(b) }
func (g *gate) Close() error               { return g.file.Close() }
func (g *gate) Fd() uintptr                { return g.file.Fd() }

// shut lets nothing more through, and waits for a write under way. It waits no longer than
// patience, since a terminal can be stopped.
func (g *gate) shut(patience time.Duration) {
	g.closed.Store(true)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if g.mu.TryLock() {
			g.mu.Unlock()
			return
		}
	}
}

var _ term.File = (*gate)(nil)
