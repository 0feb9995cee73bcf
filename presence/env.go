package presence

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/walltime"
)

// env is what all parts of a directory share: whose it is, on which host, and what Close ends. Its
// fields are set once.
type env struct {
	host        host.Host
	id          peer.ID
	app         identity.AppID
	keys        *identity.Keys
	userKey     identity.PublicKey
	cfg         config
	clock       walltime.Clock
	verifier    *identity.Verifier
	incarnation uint64
	started     time.Time
	events      *dispatcher
	stats       counters

	ctx   context.Context // ends after Close has said good-bye
	stop  context.CancelFunc
	tasks task.Group // every goroutine and handler that must end before Close returns
}

// open opens a stream on one connection. The host's own NewStream would choose the connection
// itself, and may choose a dead one.
func (e *env) open(ctx context.Context, conn network.Conn, proto protocol.ID) (network.Stream, error) {
	s, err := conn.NewStream(network.WithAllowLimitedConn(ctx, string(proto)))
	if err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if ok {
		// A transport without deadlines still has ctx, which resets the stream.
		_ = s.SetDeadline(deadline)
	}
	if err := s.SetProtocol(proto); err != nil {
		_ = s.Reset()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if err := multistream.SelectProtoOrFail(proto, s); err != nil {
		_ = s.Reset()
		return nil, err
	}
	return s, nil
}

func newIncarnation() uint64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	c, err := lru.New[K, V](size)
	if err != nil {
		panic("presence: " + err.Error()) // only a size below 1 fails
	}
	return c
}
