package token

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheDocumentHasTheCodesOfRefusals(t *testing.T) {
	doc, err := os.ReadFile("../../../../docs/TOKENS.md")
	require.NoError(t, err)
	for _, c := range codes {
		require.Contains(t, string(doc), " | `"+c.code+"` |\n")
	}
}
