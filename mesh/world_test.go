package mesh

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh/internal/stay"
)

func TestANoticeWithoutACaseIsNotDropped(t *testing.T) {
	type unknown struct{ stay.Notice }
	require.PanicsWithValue(t, "mesh: notice mesh.unknown", func() { new(world).Notice(unknown{}) })
}
