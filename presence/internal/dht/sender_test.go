package dht

import (
	"context"
	"io"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"
)

// oneStream is a host that returns the same stream for every peer, and has no connections.
type oneStream struct {
	host.Host
	stream network.Stream
}

func (h *oneStream) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return h.stream, nil
}

// cutStream ends the context of the request that writes to it.
type cutStream struct {
	network.Stream
	cut    context.CancelFunc
	resets chan struct{}
}

func (s *cutStream) SetDeadline(time.Time) error { return nil }
func (s *cutStream) Reset() error                { s.resets <- struct{}{}; return nil }
func (s *cutStream) Write([]byte) (int, error) {
	s.cut()
	return 0, io.ErrClosedPipe
}

func TestARequestMayBeCutShortWhileItIsWritten(t *testing.T) {
	for range 200 {
		ctx, cut := context.WithCancel(t.Context())
		st := &cutStream{cut: cut, resets: make(chan struct{}, 2)}
		s := newSender(&oneStream{stream: st}, nil)
		_, err := s.SendRequest(ctx, "someone", pb.NewMessage(pb.Message_PING, nil, 0))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		for range 2 { // once by the writer, once by the end of the context
			<-st.resets
		}
	}
}
