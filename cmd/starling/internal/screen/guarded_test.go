package screen

import (
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/mesh"
)

func TestAPanicInTheModelMakesTheProgramQuit(t *testing.T) {
	quits := 0
	g := &guarded{tui: newTUI(func(session.Typed) bool { return true }, func() {}), quit: func() { quits++ }}
	require.NotNil(t, g.Init())
	bad := happened{told{session.Heard{Event: (*mesh.Message)(nil)}}}
	_, cmd := g.Update(bad)
	require.Nil(t, cmd)
	require.Equal(t, 1, quits)
	require.Contains(t, g.trace, "Caught panic: runtime error: invalid memory address")
	require.Contains(t, g.trace, "heard", "it says where")
	_, _ = g.Update(bad)
	require.Equal(t, 1, quits, "nothing more is done")
	require.Equal(t, tea.View{}, g.View())
}
