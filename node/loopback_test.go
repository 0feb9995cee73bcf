package node_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// The tests in this file use real sockets, on loopback only.

const (
	tcpLoop  = "/ip4/127.0.0.1/tcp/0"
	quicLoop = "/ip4/127.0.0.1/udp/0/quic-v1"
)

// start makes a node on loopback, which is closed when the test ends.
func start(t *testing.T, opts ...node.Option) *node.Node {
	t.Helper()
	n, err := node.New(append([]node.Option{node.WithListen(tcpLoop, quicLoop), node.WithoutMDNS()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// at returns an address of n over TCP or QUIC.
func at(t *testing.T, n *node.Node, proto string) string {
	t.Helper()
	for _, a := range n.Addrs() {
		if strings.Contains(a.String(), "/"+proto) {
			return a.String()
		}
	}
	t.Fatalf("no %s address in %v", proto, n.Addrs())
	return ""
}

func strs(addrs []ma.Multiaddr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func TestANodeOnLoopbackPrefersTCPAndSpeaksQUICToo(t *testing.T) {
	bob := start(t)
	require.NoError(t, bob.Login(within(t), "bob"))
	for _, c := range []struct {
		peers []string
		want  string
	}{
		{strs(bob.Addrs()), "/tcp/"},
		{[]string{at(t, bob, "udp")}, "/quic-v1"},
	} {
		alice := start(t, node.WithPeers(c.peers...))
		up := await[*node.PeerUp](t, alice, nil)
		require.Contains(t, up.Addr, c.want)
		require.Equal(t, bob.Self(), up.Peer.Login)
		require.NoError(t, alice.Login(within(t), "alice"))
		await(t, bob, func(ev *node.PeerChanged) bool { return ev.Peer.Peer == alice.ID() && ev.Peer.LoggedIn })
		receipt, err := alice.SendText(within(t), "bob", "hi")
		require.NoError(t, err)
		require.False(t, receipt.Relayed)
		require.Equal(t, "hi", string(await[*mesh.DirectMessage](t, bob, nil).Data))
		require.NoError(t, alice.Close())
	}
}

func TestANodeHasOnePortForEachProtocolAndNoOthers(t *testing.T) {
	n := start(t)
	require.Len(t, n.Addrs(), 2)
	tcp, quic := at(t, n, "tcp"), at(t, n, "udp")
	require.Equal(t, strings.Split(tcp, "/")[4], strings.Split(quic, "/")[4], "one number to tell a firewall, where it is free")
	for _, a := range n.Addrs() {
		id, err := peer.IDFromP2PAddr(a)
		require.NoError(t, err)
		require.Equal(t, n.ID(), id)
	}
}

func TestADataDirectoryMakesTheNextStartTheSameNode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	n := start(t, node.WithDataDir(dir))
	require.Empty(t, n.LastUser())
	require.NoError(t, n.Login(within(t), "alice"))
	self, addrs := n.Self(), strs(n.Addrs())
	require.NoError(t, n.Close())

	n = start(t, node.WithDataDir(dir))
	require.Equal(t, "alice", n.LastUser())
	require.Empty(t, n.User(), "it is not set by itself")
	require.NoError(t, n.Login(within(t), "alice"))
	require.Equal(t, self, n.Self())
	require.ElementsMatch(t, addrs, strs(n.Addrs()))
}

func TestARestartedNodeDialsWhomItHasMet(t *testing.T) {
	dir := t.TempDir()
	bob := start(t)
	require.NoError(t, bob.Login(within(t), "bob"))
	alice := start(t, node.WithDataDir(dir))
	require.NoError(t, alice.Connect(within(t), at(t, bob, "tcp")))
	await[*node.PeerUp](t, bob, nil)
	require.NoError(t, alice.Close())
	await[*node.PeerDown](t, bob, nil)

	alice = start(t, node.WithDataDir(dir)) // no peers are given
	up := await[*node.PeerUp](t, alice, nil)
	require.Equal(t, bob.Self(), up.Peer.Login)
}

func TestALostPeerOnLoopbackIsNoticedAndTakenBack(t *testing.T) {
	dir := t.TempDir()
	alice := start(t)
	bob := start(t, node.WithDataDir(dir))
	id, addr := bob.ID(), at(t, bob, "tcp")
	require.NoError(t, alice.Connect(within(t), addr))
	await(t, alice, func(ev *node.PeerUp) bool { return ev.Peer.Peer == id })
	require.NoError(t, bob.Close())
	await(t, alice, func(ev *node.PeerDown) bool { return ev.Peer.Peer == id })

	bob = start(t, node.WithDataDir(dir))
	require.Equal(t, addr, at(t, bob, "tcp"))
	await(t, alice, func(ev *node.PeerUp) bool { return ev.Peer.Peer == id })
}

func TestAGivenPortInUseIsAnError(t *testing.T) {
	other := start(t) // another node of the same user, whose sockets libp2p would share
	for _, proto := range []string{"tcp", "udp"} {
		a, err := ma.NewMultiaddr(at(t, other, proto))
		require.NoError(t, err)
		a, _ = peer.SplitAddr(a)
		_, err = node.New(node.WithListen(a.String()), node.WithoutMDNS())
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		require.EqualError(t, err, "listen on "+a.String()+": bind: address already in use (stop the program that has it, or listen on port 0: any free one)")
		bad, ok := errors.AsType[*node.ListenError](err)
		require.True(t, ok)
		require.Equal(t, a.String(), bad.Addr)
	}
}

func TestAnAddressThatIsNotOursIsAnError(t *testing.T) {
	_, err := node.New(node.WithListen("/ip4/192.0.2.1/tcp/0"), node.WithoutMDNS())
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	require.ErrorContains(t, err, "listen on /ip4/192.0.2.1/tcp/0: bind: cannot assign requested address (this machine has no such address")
}

func TestAKeptPortThatIsTakenIsReplacedWithAWarning(t *testing.T) {
	dir := t.TempDir()
	n := start(t, node.WithDataDir(dir))
	id, was := n.ID(), at(t, n, "tcp")
	require.NoError(t, n.Close())
	port := strings.Split(was, "/")[4]
	taken, err := net.Listen("tcp4", "127.0.0.1:"+port)
	require.NoError(t, err)
	defer taken.Close()

	var log logged
	n = start(t, node.WithDataDir(dir), node.WithLogger(log.logger()))
	require.Equal(t, id, n.ID())
	require.NotEqual(t, was, at(t, n, "tcp"))
	require.Contains(t, log.String(), "level=WARN msg=\"the port of the last start is taken\"")
	require.Contains(t, log.String(), "port="+port)
	require.NoError(t, n.Close())

	taken.Close()
	again := start(t, node.WithDataDir(dir))
	require.NotEqual(t, was, at(t, again, "tcp"), "the new port is kept from now on")
}

// logged collects a log.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestADataDirectoryThatIsHeldIsAnError(t *testing.T) {
	dir := t.TempDir()
	start(t, node.WithDataDir(dir))
	_, err := node.New(node.WithDataDir(dir), node.WithListen(tcpLoop), node.WithoutMDNS())
	require.ErrorIs(t, err, identity.ErrInUse)
	require.EqualError(t, err, "data directory "+dir+": in use by another node")
}

func TestAKeyFileThatCannotBeReadIsAnErrorAndIsNotReplaced(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(path string) error
		want error
	}{
		{"damaged", func(path string) error { return os.WriteFile(path, []byte("-----BEGIN PRIVATE KEY-----\n"), 0o600) }, identity.ErrKeyDamaged},
		{"empty", func(path string) error { return os.Truncate(path, 0) }, identity.ErrKeyDamaged},
		{"open to others", func(path string) error { return os.Chmod(path, 0o644) }, identity.ErrKeyPermissions},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, start(t, node.WithDataDir(dir)).Close())
			path := filepath.Join(dir, "device.key")
			require.NoError(t, c.harm(path))
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			_, err = node.New(node.WithDataDir(dir), node.WithListen(tcpLoop), node.WithoutMDNS())
			require.ErrorIs(t, err, c.want)
			bad, ok := errors.AsType[*identity.KeyError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, path, bad.Path)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, before, after)
		})
	}
}

func TestANewThatFailsClosesWhatItHadOpened(t *testing.T) {
	dir := t.TempDir()
	other := start(t)
	port := strings.Split(at(t, other, "udp"), "/")[4]
	free := strconv.Itoa(freePort(t))
	_, err := node.New(node.WithDataDir(dir), node.WithoutMDNS(),
		node.WithListen("/ip4/127.0.0.1/tcp/"+free, "/ip4/127.0.0.1/udp/"+port+"/quic-v1"))
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	// The directory and the first socket are free.
	start(t, node.WithDataDir(dir), node.WithListen("/ip4/127.0.0.1/tcp/"+free))
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestAUserKeyMakesTheSameUserOnAnotherDevice(t *testing.T) {
	key := userKey(t)
	a, b := start(t, node.WithUserKey(key)), start(t, node.WithUserKey(key), node.WithDataDir(t.TempDir()))
	require.NotEqual(t, a.ID(), b.ID())
	require.Equal(t, a.Self().Key, b.Self().Key)
	require.NotEqual(t, a.Self().Key, start(t).Self().Key)
}

func TestTheConnectionIsFoundDeadWhenAPeerDoesNotAnswerItsHello(t *testing.T) {
	// A libp2p host that is not a Starling node: it sends no hello and causes no event, but may
	// stay connected.
	h := stranger(t)
	n := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := n.Connect(ctx, h.Addrs()[0].String()+"/p2p/"+h.ID().String())
	require.ErrorContains(t, err, "connect to "+h.ID().String()+": ")
	none[*node.PeerUp](t, drained(n))
	agent, err := h.Peerstore().Get(n.ID(), "AgentVersion")
	require.NoError(t, err)
	require.Regexp(t, "^starling/", agent)
}
