package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/vectors"
)

func TestTheMDNSServiceIsThatOfTheVectors(t *testing.T) {
	var v vectors.Names
	vectors.Read(t, "names", &v)
	for _, a := range v.Apps {
		require.Equal(t, a.MDNS, serviceName(identity.AppID(a.ID)))
	}
}
