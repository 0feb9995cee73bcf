package node_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/node"
)

// recordless answers requests in the directory correctly, except that it leaves out the record that
// it has stored.
func recordless(puts *atomic.Int64) network.StreamHandler {
	return func(s network.Stream) {
		defer s.Close()
		r := bufio.NewReader(s)
		for {
			size, err := binary.ReadUvarint(r)
			if err != nil {
				return
			}
			body := make([]byte, size)
			var req pb.Message
			if _, err := io.ReadFull(r, body); err != nil || proto.Unmarshal(body, &req) != nil {
				return
			}
			switch req.GetType() {
			case pb.Message_ADD_PROVIDER:
				continue
			case pb.Message_PUT_VALUE:
				puts.Add(1)
			}
			answer, _ := proto.Marshal(pb.NewMessage(req.GetType(), req.GetKey(), 0))
			if _, err := s.Write(append(binary.AppendUvarint(nil, uint64(len(answer))), answer...)); err != nil {
				return
			}
		}
	}
}

// stranger returns a libp2p host that is no node.
func stranger(t *testing.T) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings(tcpLoop), libp2p.ResourceManager(&network.NullResourceManager{}))
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

func connectTo(t *testing.T, h host.Host, n *node.Node) {
	t.Helper()
	addr, err := ma.NewMultiaddr(at(t, n, "tcp"))
	require.NoError(t, err)
	info, err := peer.AddrInfoFromP2pAddr(addr)
	require.NoError(t, err)
	require.NoError(t, h.Connect(within(t), *info))
}

// directoryOf returns the protocol by which a node's directory is asked.
func directoryOf(t *testing.T, n *node.Node) (kad protocol.ID) {
	t.Helper()
	h := stranger(t)
	connectTo(t, h, n)
	require.Eventually(t, func() bool {
		all, _ := h.Peerstore().GetProtocols(n.ID())
		for _, p := range all {
			if strings.HasPrefix(string(p), "/starling/dht/") {
				kad = p
			}
		}
		return kad != ""
	}, patience, time.Millisecond)
	return kad
}

// A libp2p host that connects without a hello is given the log-ins of every node to keep, since it
// offers the protocol for that.
func TestAStrangerInTheDirectoryDoesNotEndTheProcess(t *testing.T) {
	for _, mode := range []string{"open", "app"} {
		t.Run(mode, func(t *testing.T) {
			var (
				n     *node.Node
				login []node.LoginOption
			)
			if mode == "open" {
				n = start(t)
			} else {
				b := newBackend(t)
				n = start(t, b.options(0)...)
				login = append(login, node.LoginToken(b.token(n, "alice", time.Hour)))
			}
			kad := directoryOf(t, n)
			// It has the protocol before it connects: libp2p can overlook one that is added while
			// the two hosts still tell each other what they support.
			var puts atomic.Int64
			h := stranger(t)
			h.SetStreamHandler(kad, recordless(&puts))
			connectTo(t, h, n)
			require.NoError(t, n.Login(within(t), "alice", login...))
			require.Eventually(t, func() bool { return puts.Load() >= 2 }, patience, time.Millisecond, "it was not asked to store anything")
			require.NoError(t, n.Logout(within(t)))
			require.NoError(t, n.Close())
		})
	}
}
