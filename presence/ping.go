package presence

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multistream"
)

// pingSize is the size of a ping, in bytes.
const pingSize = ping.PingSize

var errEcho = errors.New("a ping came back changed")

// Ping checks over one connection whether the peer is there. It returns nil if the peer answers
// before ctx ends, even if only to say that it does not support ping. libp2p's own ping uses any
// connection, so its failure says nothing about the peer: of two connections that cross, it may
// choose the one that the other side has given up.
func (d *Directory) Ping(ctx context.Context, conn network.Conn) error { return d.ping(ctx, conn) }

// ping is [Directory.Ping].
func (e *env) ping(ctx context.Context, conn network.Conn) error {
	s, err := e.open(ctx, conn, ping.ID)
	if errors.As(err, new(multistream.ErrNotSupported[protocol.ID])) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	var said, back [pingSize]byte
	_, _ = rand.Read(said[:]) // never fails
	if _, err := s.Write(said[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(s, back[:]); err != nil {
		return err
	}
	if !bytes.Equal(said[:], back[:]) {
		return errEcho
	}
	return nil
}

// pingAny returns the first connection over which a peer answers before ctx ends; nil: it answers
// over none.
func (e *env) pingAny(ctx context.Context, p peer.ID) (first network.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conns := e.host.Network().ConnsToPeer(p)
	answers := make(chan network.Conn, len(conns))
	for _, conn := range conns {
		go func() {
			if e.ping(ctx, conn) != nil {
				conn = nil
			}
			answers <- conn
		}()
	}
	for range conns { // read all of them: no goroutine is left behind
		if conn := <-answers; conn != nil && first == nil {
			first = conn
			cancel()
		}
	}
	return first
}
