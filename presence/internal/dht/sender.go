package dht

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// requestTimeout bounds one request in the DHT, from opening its stream to the end of the
	// answer. Most callers allow less.
	requestTimeout = 5 * time.Second
	// maxRequests is how many requests to one peer are under way at once. Each has a stream, and
	// one peer allows 128 streams in all.
	maxRequests = 8
)

// sender sends the requests of a DHT instance, including the library's own. It returns only answers
// that [readAnswer] has accepted, since the library uses them unchecked. Every request has its own
// stream, so that a repeated or late answer is never taken as the answer to the next request.
// Reading, writing and waiting all end with the context of the request.
type sender struct {
	host   host.Host
	protos []protocol.ID

	mu    sync.Mutex
	under map[peer.ID]*queue
}

// queue holds the requests under way with one peer.
type queue struct {
	users int           // requests that hold a slot or wait for one
	slots chan struct{} // a token for each request under way
}

var _ pb.MessageSenderWithDisconnect = (*sender)(nil)

func newSender(h host.Host, protos []protocol.ID) pb.MessageSenderWithDisconnect {
	return &sender{host: h, protos: protos, under: make(map[peer.ID]*queue)}
}

// SendRequest sends a request and returns the answer.
func (s *sender) SendRequest(ctx context.Context, p peer.ID, req *pb.Message) (answer *pb.Message, err error) {
	err = s.try(ctx, p, func(ctx context.Context) error {
		answer, err = s.exchange(ctx, p, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// SendMessage sends a request that has no answer. It returns nil when the peer has received it,
// which the peer signals by closing its side.
func (s *sender) SendMessage(ctx context.Context, p peer.ID, req *pb.Message) error {
	return s.try(ctx, p, func(ctx context.Context) error { return s.hand(ctx, p, req) })
}

// OnDisconnect does nothing: no stream outlives its request.
func (s *sender) OnDisconnect(context.Context, peer.ID) {}

// errStream reports that an opened stream broke.
var errStream = errors.New("dht: the stream of a request broke")

// try runs a request in a slot of the peer, and once more if its stream broke: when two connections
// cross, one is closed, and the stream may have been on that one.
func (s *sender) try(ctx context.Context, p peer.ID, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	release, err := s.enter(ctx, p)
	if err != nil {
		return err
	}
	defer release()
	if err = do(ctx); errors.Is(err, errStream) && !errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		err = do(ctx)
	}
	return err
}

// enter waits for a slot of the peer. The caller must call release.
func (s *sender) enter(ctx context.Context, p peer.ID) (release func(), err error) {
	s.mu.Lock()
	q := s.under[p]
	if q == nil {
		q = &queue{slots: make(chan struct{}, maxRequests)}
		s.under[p] = q
	}
	q.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if q.users--; q.users == 0 {
			delete(s.under, p)
		}
	}
	select {
	case q.slots <- struct{}{}:
		return func() {
			<-q.slots
			leave()
		}, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// open opens a stream that ends with ctx, and writes the request.
func (s *sender) open(ctx context.Context, p peer.ID, req *pb.Message) (_ network.Stream, stop func() bool, err error) {
	st, err := s.host.NewStream(ctx, p, s.protos...)
	if err != nil {
		return nil, nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = st.SetDeadline(deadline)
	}
	stop = context.AfterFunc(ctx, func() { _ = st.Reset() }) // for transports without deadlines
	if err = wire.WriteFrame(st, req); err != nil {
		stop()
		_ = st.Reset()
		return nil, nil, fmt.Errorf("%w: %w", errStream, err)
	}
	return st, stop, nil
}

// exchange sends a request and reads the answer. It closes its side only after that: a peer may
// take the end of the stream as the end of the request, and reset what it has not sent yet.
func (s *sender) exchange(ctx context.Context, p peer.ID, req *pb.Message) (*pb.Message, error) {
	st, stop, err := s.open(ctx, p, req)
	if err != nil {
		return nil, err
	}
	defer stop()
	raw, err := readBounded(st, answerLimit(req.GetType()))
	var answer *pb.Message
	if err == nil {
		answer, err = readAnswer(req, raw)
	}
	if err != nil {
		_ = st.Reset()
		return nil, err
	}
	_ = st.Close()
	return answer, nil
}

// hand sends a request and waits until the peer closes its side, or resets the stream, as some do
// at its end.
func (s *sender) hand(ctx context.Context, p peer.ID, req *pb.Message) error {
	st, stop, err := s.open(ctx, p, req)
	if err != nil {
		return err
	}
	defer stop()
	var one [1]byte
	if err = st.CloseWrite(); err == nil {
		_, err = io.ReadFull(st, one[:])
	}
	if errors.Is(err, io.EOF) {
		return st.Close()
	}
	_ = st.Reset()
	var reset *network.StreamError
	switch {
	case err == nil:
		return notAnswer("there is none to this request")
	case errors.As(err, &reset) && reset.Remote:
		return nil
	}
	return fmt.Errorf("%w: %w", errStream, err)
}

// readBounded reads one frame of at most limit bytes. It allocates memory for the bytes that
// arrive, not for the announced size.
func readBounded(r io.Reader, limit int) ([]byte, error) {
	br := bufio.NewReader(r)
	size, err := binary.ReadUvarint(br)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStream, err)
	}
	if size > uint64(limit) {
		return nil, notAnswer("%v", &wire.SizeError{Size: size, Limit: limit})
	}
	raw, err := io.ReadAll(io.LimitReader(br, int64(size)))
	if err == nil && uint64(len(raw)) < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStream, err)
	}
	return raw, nil
}
