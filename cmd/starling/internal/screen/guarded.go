package screen

import (
	"errors"
	"fmt"
	"runtime/debug"

	tea "charm.land/bubbletea/v2"
)

// errPanic ends a chat whose screen had a panic. Standard error has the trace.
var errPanic = errors.New("the screen had a panic, which is a bug")

// guarded is the model as the program sees it. After a panic in the model, the program quits like
// any other. The library would catch the panic itself, but would then close the terminal's input
// while it is still being read.
type guarded struct {
	*tui
	quit  func() // makes the program quit; it does not wait
	trace string // of the first panic; "": there was none
}

func (g *guarded) Init() (cmd tea.Cmd) {
	defer g.rescue()
	return g.tui.Init()
}

func (g *guarded) Update(msg tea.Msg) (_ tea.Model, cmd tea.Cmd) {
	if g.trace != "" {
		return g, nil
	}
	defer g.rescue()
	_, cmd = g.tui.Update(msg)
	return g, cmd
}

func (g *guarded) View() (v tea.View) {
	if g.trace != "" {
		return v
	}
	defer g.rescue()
	return g.tui.View()
}

// rescue notes a panic. It must be deferred.
func (g *guarded) rescue() {
	if p := recover(); p != nil {
		g.trace = fmt.Sprintf("Caught panic: %v\n\n%s\n", p, debug.Stack())
		g.quit()
	}
}
