package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheNearestNameIsSuggestedAndNoFarOne(t *testing.T) {
	names := []string{"chat", "demo", "id", "version", "help"}
	for typed, want := range map[string]string{
		"chta": "chat", "hcat": "chat", "cha": "chat", "Chat": "chat", "vers": "version", "demos": "demo",
		"x": "", "id2": "id", "server": "", "": "",
	} {
		require.Equal(t, want, Nearest(typed, names), "%q", typed)
	}
}
