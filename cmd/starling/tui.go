package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// fullScreen reports whether a chat can have the whole terminal.
func fullScreen(s cli.System) bool {
	return isTerminal(s.Stdin) && isTerminal(s.Stdout) && os.Getenv("TERM") != "dumb"
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(f.Fd())
}

// maxLines is how many typed lines may wait for the session.
const maxLines = 256

// screen is the view of a chat that has the whole terminal, from its first event to its last.
type screen struct {
	in, out *os.File
	gate    *gate // to out, for the program
	model   *tui
	program *tea.Program
	before  *term.State // the terminal's, to be restored

	lines  chan typed
	events chan any
	ended  chan struct{} // closed when the program has ended; err is set
	over   chan struct{} // closed when the chat has no more events
	err    error
	tasks  sync.WaitGroup
	began  bool // used only by run's goroutine
	mu     sync.Mutex
	live   bool // the terminal is ours
}

// newScreen takes a terminal. interrupt is what Ctrl-C does: on this terminal it is a key like any
// other.
func newScreen(in, out *os.File, interrupt func()) *screen {
	s := &screen{in: in, out: out, gate: &gate{file: out}, lines: make(chan typed, maxLines), events: make(chan any, 256),
		ended: make(chan struct{}), over: make(chan struct{})}
	s.model = newTUI(s.give, interrupt)
	// The library reports the size later: the first screen would be drawn at another one.
	if width, height, err := term.GetSize(out.Fd()); err == nil && width > 0 && height > 0 {
		s.model.width, s.model.height = width, height
	}
	s.program = tea.NewProgram(s.model, tea.WithInput(in), tea.WithOutput(s.gate), tea.WithoutSignalHandler())
	return s
}

// give queues a typed line for the session.
func (s *screen) give(l typed) bool {
	select {
	case s.lines <- l:
		return true
	default:
		return false
	}
}

// show brings an event to the screen. The first event takes the terminal, and bye restores it.
func (s *screen) show(event any) error {
	switch ev := event.(type) {
	case ready:
		s.start()
	case bye:
		return s.finish(ev)
	}
	select {
	case s.events <- event:
	// Its error is reported where the lines are read.
	case <-s.ended:
	}
	return nil
}

// follow keeps the screen informed which of the users on it are online. It must be called before
// the first event.
func (s *screen) follow(c *chat) {
	a := newAsker(c.node.Status, func(st standing) { _ = s.show(st) })
	s.model.attend, s.model.stir = a.look, a.stir
	c.background(func() { a.run(c.ctx, func(f func()) { rescued(s, f) }) })
}

func (s *screen) start() {
	s.before, _ = term.GetState(s.in.Fd())
	s.began = true
	s.setLive(true)
	s.tasks.Go(func() {
		_, s.err = s.program.Run()
		s.setLive(false)
		close(s.ended)
		select {
		case s.lines <- typed{end: fmt.Errorf("terminal: %w", s.err)}:
		case <-s.over:
		}
	})
	s.tasks.Go(s.forward)
}

// forward hands events to the program. Events that arrive meanwhile go together: one picture shows
// them all.
func (s *screen) forward() {
	for {
		var batch happened
		select {
		case ev := <-s.events:
			batch = append(batch, ev)
		case <-s.ended:
			return
		case <-s.over:
			return
		}
		for more := true; more && len(batch) < cap(s.events); {
			select {
			case ev := <-s.events:
				batch = append(batch, ev)
			default:
				more = false
			}
		}
		s.program.Send(batch)
	}
}

// leave shows that the session has begun to end.
func (s *screen) leave() {
	select {
	case s.events <- leaving{}:
	case <-s.ended:
	default:
	}
}

// finish restores the terminal, and writes the last words on it.
func (s *screen) finish(ev bye) error {
	if s.began {
		s.program.Quit()
		<-s.ended
	}
	close(s.over)
	s.tasks.Wait()
	if said := s.model.words.say(ev); said.text != "" && s.began {
		if _, err := fmt.Fprintln(s.out, said); err != nil {
			return err
		}
	}
	return nil
}

func (s *screen) setLive(live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = live
}

// rescue restores the terminal at once, before the process ends by other ways than finish. It takes
// only a moment, whatever the program is doing.
func (s *screen) rescue() {
	s.mu.Lock()
	live := s.live
	s.live = false
	s.mu.Unlock()
	if !live {
		return
	}
	go s.program.Quit() // not Kill, which closes what is still being read from
	select {
	case <-s.ended:
	case <-time.After(200 * time.Millisecond):
	}
	s.gate.shut(200 * time.Millisecond)
	if s.before != nil {
		_ = term.Restore(s.in.Fd(), s.before)
	}
	_, _ = io.WriteString(s.out, resetTerminal)
}

// resetTerminal ends bracketed paste, key reports, colours and the alternate screen, and shows the
// cursor. Ending what has not begun does nothing.
const resetTerminal = "\x1b[?2004l\x1b[>4m\x1b[=0;1u\x1b[0m\x1b[?1049l\x1b[?25h\r"

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

// rescued runs f, and restores the terminal before a panic ends the process.
func rescued(v view, f func()) {
	defer func() {
		if p := recover(); p != nil {
			if s, ok := v.(*screen); ok {
				s.rescue()
			}
			panic(p)
		}
	}()
	f()
}

// heldBack keeps the last of what is written to standard error while the terminal shows something
// else.
type heldBack struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// maxHeldBack is more than a screen full of lines.
const maxHeldBack = 64 << 10

func (h *heldBack) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Write(p)
	if over := h.buf.Len() - maxHeldBack; over > 0 {
		h.buf.Next(over)
		_, _ = h.buf.ReadBytes('\n')
	}
	return len(p), nil
}

func (h *heldBack) writeTo(w io.Writer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, _ = h.buf.WriteTo(w)
}
