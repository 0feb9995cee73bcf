// Package screen is the chat on a whole terminal: events of a session and key presses go in, a
// picture and typed lines come out. It runs under a keeper, which restores the terminal if it
// cannot.
package screen

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// Available reports whether a chat can have the whole terminal.
func Available(s cli.System) bool {
	return isTerminal(s.Stdin) && isTerminal(s.Stdout) && os.Getenv("TERM") != "dumb"
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(f.Fd())
}

// maxLines is how many typed lines may wait for the session.
const maxLines = 256

// Screen is the view of a chat that has the whole terminal, from its first event to its last.
type Screen struct {
	in, out *os.File
	gate    *gate // to out, for the program
	model   *tui
	guarded *guarded // the model, for the program
	program *tea.Program
	before  *term.State // the terminal's, to be restored

	lines  chan session.Typed
	events chan occurrence
	ended  chan struct{} // closed when the program has ended; err is set
	over   chan struct{} // closed when the chat has no more events
	err    error
	tasks  sync.WaitGroup
	began  bool // used only by the session's goroutine
	mu     sync.Mutex
	live   bool // the terminal is ours
}

// New takes a terminal. interrupt is what Ctrl-C does: on this terminal it is a key like any
// other.
func New(in, out *os.File, interrupt func()) *Screen {
	s := &Screen{in: in, out: out, gate: &gate{file: out}, lines: make(chan session.Typed, maxLines), events: make(chan occurrence, 256),
		ended: make(chan struct{}), over: make(chan struct{})}
	s.model = newTUI(s.give, interrupt)
	// The library reports the size later: the first screen would be drawn at another one.
	if width, height, err := term.GetSize(out.Fd()); err == nil && width > 0 && height > 0 {
		s.model.width, s.model.height = width, height
	}
	s.guarded = &guarded{tui: s.model, quit: func() { s.tasks.Go(s.program.Quit) }}
	s.program = tea.NewProgram(s.guarded, tea.WithInput(in), tea.WithOutput(s.gate), tea.WithoutSignalHandler())
	return s
}

// give queues a typed line for the session.
func (s *Screen) give(l session.Typed) bool {
	select {
	case s.lines <- l:
		return true
	default:
		return false
	}
}

// Show brings an event to the screen. The first event takes the terminal, and bye restores it.
func (s *Screen) Show(event session.Event) error {
	switch ev := event.(type) {
	case session.Ready:
		s.start()
	case session.Bye:
		return s.finish(ev)
	}
	s.bring(told{event})
	return nil
}

// bring hands an occurrence to the program, unless that has ended: its error is reported where the
// lines are read.
func (s *Screen) bring(what occurrence) {
	select {
	case s.events <- what:
	case <-s.ended:
	}
}

// Shown reports that the screen itself adds the key to what is typed for a name alone.
func (s *Screen) Shown(string) (identity.Login, bool) { return identity.Login{}, false }

// Lines returns the typed lines.
func (s *Screen) Lines() <-chan session.Typed { return s.lines }

// Follow keeps the screen informed which of the users on it are online. It must be called before
// the first event. status asks about a user, and background runs a loop until its context ends.
func (s *Screen) Follow(status func(context.Context, string) (presence.Status, error), background func(func(context.Context))) {
	a := newAsker(status, func(st standing) { s.bring(st) })
	s.model.attend, s.model.stir = a.look, a.stir
	background(func(ctx context.Context) { a.run(ctx, s.Guard) })
}

func (s *Screen) start() {
	s.before, _ = term.GetState(s.in.Fd())
	s.began = true
	s.setLive(true)
	s.tasks.Go(func() {
		_, s.err = s.program.Run()
		if trace := s.guarded.trace; trace != "" && s.err == nil {
			s.err = errPanic
			_, _ = io.WriteString(os.Stderr, trace)
		}
		s.setLive(false)
		close(s.ended)
		select {
		case s.lines <- session.Typed{End: fmt.Errorf("terminal: %w", s.err)}:
		case <-s.over:
		}
	})
	s.tasks.Go(s.forward)
}

// forward hands events to the program. Events that arrive meanwhile go together: one picture shows
// them all.
func (s *Screen) forward() {
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

// Leave shows that the session has begun to end.
func (s *Screen) Leave() {
	select {
	case s.events <- leaving{}:
	case <-s.ended:
	default:
	}
}

// finish restores the terminal, and writes the last words on it.
func (s *Screen) finish(ev session.Bye) error {
	if s.began {
		s.program.Quit()
		<-s.ended
	}
	close(s.over)
	s.tasks.Wait()
	if said := s.model.words.Say(ev); said.Text != "" && s.began {
		if _, err := fmt.Fprintln(s.out, said); err != nil {
			return err
		}
	}
	return nil
}

// Adapt adapts the rest of the command to a screen that has the terminal, until the function that
// it returns has run: output that would be written across the screen waits, and before the process
// ends, the terminal is restored.
func (s *Screen) Adapt(ctx context.Context, a *cli.App) (done func()) {
	held, stderr := new(heldBack), a.Stderr
	a.Stderr = held
	rescue := s.Rescue
	a.Rescue.Store(&rescue)
	stop := context.AfterFunc(ctx, s.Leave)
	return func() {
		stop()
		a.Rescue.Store(nil)
		a.Stderr = stderr
		held.writeTo(stderr)
	}
}

func (s *Screen) setLive(live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = live
}

// Rescue restores the terminal at once, before the process ends by other ways than finish. It takes
// only a moment, whatever the program is doing.
func (s *Screen) Rescue() {
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

// Guard runs f, and restores the terminal before a panic ends the process.
func (s *Screen) Guard(f func()) {
	defer func() {
		if p := recover(); p != nil {
			s.Rescue()
			panic(p)
		}
	}()
	f()
}

// resetTerminal ends bracketed paste, key reports, colours and the alternate screen, and shows the
// cursor. Ending what has not begun does nothing.
const resetTerminal = "\x1b[?2004l\x1b[>4m\x1b[=0;1u\x1b[0m\x1b[?1049l\x1b[?25h\r"
