package mesh

import (
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/wire"
)

// writeBatch is about how many bytes one write takes. More gains nothing, and everything in a write
// counts as written although a part of it may not be.
const writeBatch = 64 << 10

// outStream is a stream that this node opened.
type outStream struct {
	network.Stream
	tasks   *task.Group
	relayed bool

	// Guarded by the lane's mutex.
	dead  bool
	err   error
	heard time.Time // when the peer last answered
	heeds bool      // the peer has answered at all
}

// fail resets the stream, which makes its reader and its writer end. The caller holds the lane's
// mutex.
func (s *outStream) fail(err error) {
	if s.dead {
		return
	}
	s.dead, s.err = true, err
	code := network.StreamNoError
	if errors.Is(err, errViolation) {
		code = network.StreamProtocolViolation
	}
	s.tasks.Spawn(func() { s.ResetWithError(code) }) // it may wait for the connection's own writer
}

// serve writes to s until it ends, and reports whether the peer answered anything.
func (l *lane) serve(s *outStream) bool {
	done := make(chan struct{})
	l.m.tasks.Spawn(func() {
		defer close(done)
		l.fail(s, l.readAnswers(s))
	})
	err := l.write(s)
	l.fail(s, err)
	<-done

	l.mu.Lock()
	defer l.mu.Unlock()
	l.stream = nil
	l.book.broken()
	l.easeLocked()
	l.m.log.Debug("direct stream ended", "peer", l.key.peer, "mode", l.key.mode, "err", s.err)
	return s.heeds
}

func (l *lane) fail(s *outStream, err error) {
	l.mu.Lock()
	s.fail(err)
	l.mu.Unlock()
	l.signal()
}

var errIdle = errors.New("idle")

// write opens the exchange and writes what there is to write, in batches of the frames that have
// gathered.
func (l *lane) write(s *outStream) error {
	buf := make([]byte, 0, 4<<10)
	open := wire.Direct{
		Type: wire.DirectFrame_OPEN, Class: wire.DirectFrame_Class(l.key.mode),
		Sender: l.m.who.Incarnation(), Receiver: l.peerInc,
	}
	buf = open.AppendFrame(buf)
	for {
		if s.Conn().IsClosed() {
			return errBroken // what is taken below counts as written
		}
		l.mu.Lock()
		if s.dead {
			l.mu.Unlock()
			return s.err
		}
		buf = l.book.fill(l.m.clock.Now(), buf, writeBatch)
		l.easeLocked()
		over := len(buf) == 0 && l.idleLocked()
		l.mu.Unlock()
		if over {
			s.Close()
			return errIdle
		}
		if len(buf) == 0 {
			<-l.wake
			continue
		}
		if _, err := s.Write(buf); err != nil {
			return err
		}
		if cap(buf) > 4*writeBatch {
			buf = nil
		}
		buf = buf[:0]
	}
}

// readAnswers ends messages as the peer answers them.
func (l *lane) readAnswers(s *outStream) error {
	const limit = 256 // bytes of an answer; unknown fields of later versions included
	r := wire.NewDirectReader(s, limit, func(bool) {})
	var f wire.Direct
	for {
		err := nextDirect(r, &f)
		if err == nil {
			err = l.answer(s, &f)
		}
		if errors.Is(err, errViolation) {
			l.m.stats.directViolations.Add(1)
		}
		if err != nil {
			return err
		}
	}
}

func (l *lane) answer(s *outStream, f *wire.Direct) (err error) {
	now := l.m.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	s.heard, l.used = now, now
	switch {
	case f.Type == wire.DirectFrame_ACK:
		err = l.book.ack(f.Sequence, now, s.relayed)
	case f.Type == wire.DirectFrame_REFUSE && f.Sequence == 0:
		l.book.turnedAway() // the next hello decides about what an earlier process has
		return fmt.Errorf("stream %w", &RefusedError{Reason: Reason(f.Reason)})
	case f.Type == wire.DirectFrame_REFUSE:
		err = l.book.refuse(f.Sequence, Reason(f.Reason))
	default:
		err = errViolation
	}
	if err != nil {
		return err
	}
	s.heeds = true
	l.easeLocked()
	if l.book.queue.len() > 0 {
		l.signal() // the window may have been full
	}
	return nil
}
