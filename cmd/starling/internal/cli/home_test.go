package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestSystemUserNamesBecomeIDs(t *testing.T) {
	for in, want := range map[string]string{
		"alice":                  "alice",
		`WORK\alice`:             "alice",
		"Jürgen Müller":          "J-rgen-M-ller",
		"a@b.c_d-e":              "a@b.c_d-e",
		"":                       "user",
		"世界":                     "user",
		strings.Repeat("x", 200): strings.Repeat("x", 128),
	} {
		got := sanitizeUser(in)
		require.Equal(t, want, got, "%q", in)
		require.NoError(t, identity.CheckUser(got), "%q", in)
	}
	require.NoError(t, identity.CheckUser(DefaultUser()))
}
