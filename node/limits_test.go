package node

import (
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
)

func TestOneAddressMayHoldMoreConnectionsThanLibp2pAllowsAndNotAll(t *testing.T) {
	m, err := newResourceManager()
	require.NoError(t, err)
	defer m.Close()
	open := 0
	for range maxConnsIn {
		scope, err := m.OpenConnection(network.DirInbound, false, ma.StringCast("/ip4/192.0.2.1/tcp/1"))
		if err != nil {
			break
		}
		defer scope.Done()
		open++
	}
	require.Equal(t, maxSubnetConns, open)
}

func TestALostPeerMayBeDialledEverySecond(t *testing.T) {
	m, err := newResourceManager()
	require.NoError(t, err)
	defer m.Close()
	for i := range subnetBurst { // libp2p's own limit is a burst of 16
		scope, err := m.OpenConnection(network.DirOutbound, true, ma.StringCast("/ip4/192.0.2.1/tcp/1"))
		require.NoError(t, err, "attempt %d", i)
		scope.Done()
	}
}

func TestOnePeerMayHoldFewStreamsOfAProtocol(t *testing.T) {
	m, err := newResourceManager()
	require.NoError(t, err)
	defer m.Close()
	open := func(p peer.ID, dir network.Direction) (n int) {
		for range 2 * maxPeerStreams {
			s, err := m.OpenStream(p, dir)
			if err == nil {
				if err = s.SetProtocol(mesh.DirectProtocol); err != nil {
					s.Done()
				}
			}
			if err != nil {
				return n
			}
			defer s.Done()
			n++
		}
		return n
	}
	for i := range 3 {
		p := peer.ID(fmt.Sprintf("peer %d", i))
		require.Equal(t, streamLimits[mesh.DirectProtocol], open(p, network.DirInbound), "each peer by itself")
	}
	require.Equal(t, 2*streamLimits[mesh.DirectProtocol], open("another", network.DirOutbound))
}
