package node_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/node"
)

func TestAGivenPeerThatIsNotThereIsToldOfWithTheReason(t *testing.T) {
	bob, stranger := start(t), start(t, node.WithApp("another"))
	plain, err := libp2p.New(libp2p.ListenAddrStrings(tcpLoop), libp2p.DisableRelay())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, plain.Close()) })
	nobody := "/ip4/127.0.0.1/tcp/" + strconv.Itoa(freePort(t)) + "/p2p/" + plain.ID().String()
	as := func(n *node.Node, proto string) string { // the address of n, with another node's ID
		addr, _, _ := strings.Cut(at(t, n, proto), "/p2p/")
		return addr + "/p2p/" + plain.ID().String()
	}
	for name, c := range map[string]struct {
		addr   string
		reason node.Failure
		detail string
	}{
		"nobody":              {nobody, node.NobodyThere, "connection refused"},
		"another ID, by TCP":  {as(bob, "tcp"), node.OtherPeer, "the peer there is " + bob.ID().String()},
		"another ID, by QUIC": {as(bob, "udp"), node.OtherPeer, "the peer there is " + bob.ID().String()},
		"another app":         {at(t, stranger, "tcp"), node.OtherApp, "it is a node of another app"},
		"another protocol":    {plain.Addrs()[0].String() + "/p2p/" + plain.ID().String(), node.NoNode, "it is a libp2p peer, and no node of this kind"},
	} {
		t.Run(name, func(t *testing.T) {
			alice := start(t, node.WithPeers(c.addr))
			ev := await[*node.PeerFailed](t, alice, nil)
			require.Equal(t, c.reason, ev.Reason)
			require.Equal(t, c.detail, ev.Detail)
			require.Equal(t, []string{c.addr}, ev.Addrs)
			require.True(t, strings.HasSuffix(c.addr, "/p2p/"+ev.Peer.String()))
		})
	}

	dir := t.TempDir()
	first := start(t, node.WithDataDir(dir))
	addr := at(t, first, "tcp")
	require.NoError(t, first.Close())
	ev := await[*node.PeerFailed](t, start(t, node.WithDataDir(dir), node.WithPeers(addr)), nil)
	require.Equal(t, node.ItIsUs, ev.Reason)
}

func TestAGivenPeerThatFailsIsToldOfAgainWhenThatChanges(t *testing.T) {
	dir, addr := t.TempDir(), "/ip4/127.0.0.1/tcp/"+strconv.Itoa(freePort(t))
	bob := start(t, node.WithDataDir(dir), node.WithListen(addr))
	given := addr + "/p2p/" + bob.ID().String()
	require.NoError(t, bob.Close())

	alice := start(t, node.WithPeers(given))
	require.Equal(t, node.NobodyThere, await[*node.PeerFailed](t, alice, nil).Reason)
	carol := start(t, node.WithListen(addr))
	ev := await[*node.PeerFailed](t, alice, nil)
	require.Equal(t, node.OtherPeer, ev.Reason, "the same failure is not told of at every attempt")
	require.NoError(t, carol.Close())
	require.Equal(t, node.NobodyThere, await[*node.PeerFailed](t, alice, nil).Reason)
	bob = start(t, node.WithDataDir(dir), node.WithListen(addr))
	await(t, alice, func(ev *node.PeerUp) bool { return ev.Peer.Peer == bob.ID() })
	require.NoError(t, bob.Close())
	require.Equal(t, node.NobodyThere, await[*node.PeerFailed](t, alice, nil).Reason, "it was there meanwhile")
}
