package node

import (
	"fmt"
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

func TestTheProtocolHasTheLimitsOfThisPackage(t *testing.T) {
	vectors.Says(t, "yamux keep-alive, write timeout", fmt.Sprintf("%g s, %g s: a frozen peer is noticed after %g s",
		keepAlive.Seconds(), writeTimeout.Seconds(), (keepAlive+writeTimeout).Seconds()))
	vectors.Says(t, "streams of one peer at once", fmt.Sprintf("direct 6, room 1; a node allows %d over all protocols", maxPeerStreams))
	vectors.Says(t, "a refused peer is not dialled", fmt.Sprintf("%g min (OTHER_APP), %g s to 1 min", foreignPause.Minutes(), refusedPause.Seconds()))
}
