package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/rates"
)

// handleDirect serves a stream. It runs on a goroutine of libp2p, one for each stream.
func (m *Mesh) handleDirect(raw network.Stream) {
	if !m.tasks.Enter() {
		raw.ResetWithError(network.StreamShutdown)
		return
	}
	defer m.tasks.Leave()
	s := m.in.admit(raw)
	if s == nil {
		raw.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	var from *sender
	defer func() { m.in.remove(s, from) }()
	err := m.serveDirect(s, &from)
	switch {
	case errors.Is(err, io.EOF):
		s.Close()
		return
	case errors.Is(err, errViolation):
		m.stats.directViolations.Add(1)
		s.ResetWithError(network.StreamProtocolViolation)
	case errors.Is(err, errSuperseded):
		s.ResetWithError(network.StreamSupplanted)
	default:
		s.Reset()
	}
	m.log.Debug("direct stream from peer ended", "peer", s.peer, "err", err)
}

// serveDirect reads the messages of one stream, hands them over and answers. It sets from once it
// knows the stream's sender.
func (m *Mesh) serveDirect(s *inStream, from **sender) error {
	opened := false
	r := wire.NewDirectReader(s, maxDirectFrame, func(stalled bool) {
		switch {
		case !opened: // OPEN has a deadline of its own
		case stalled:
			s.SetReadDeadline(walltime.In(frameWithin))
		default:
			s.SetReadDeadline(time.Time{})
		}
	})
	var f wire.Direct
	s.SetReadDeadline(walltime.In(openWithin))
	if err := nextDirect(r, &f); err != nil {
		return err
	}
	opened = true
	s.SetReadDeadline(time.Time{})
	if f.Type != wire.DirectFrame_OPEN || f.Class < 0 || f.Class > wire.DirectFrame_UNRELIABLE_UNORDERED {
		return fmt.Errorf("%w: no OPEN of a known class", errViolation)
	}
	if f.Receiver != m.who.Incarnation() {
		return turnAway(s, wire.DirectFrame_INCARNATION)
	}
	sd, before := m.in.claim(s, Mode(f.Class))
	if sd == nil {
		turnAway(s, wire.DirectFrame_RATE)
		return errFull
	}
	*from = sd
	if before != nil {
		before.ResetWithError(network.StreamSupplanted)
		<-before.done // otherwise both might deliver the same message
	}
	if sd.incarnation != f.Sender {
		if sd.former == f.Sender {
			return errFormer // a stream that was long on its way; what the successor sent must not be forgotten for it
		}
		sd.former, sd.incarnation, sd.seen = sd.incarnation, f.Sender, seen{}
	}
	m.stats.directStreamsTaken.Add(1)
	return m.takeMessages(s, r, sd)
}

// turnAway refuses a whole stream: nothing on it was taken. The refusal is lost if the stream is
// reset before the peer has read it, so turnAway waits for the peer to hang up, at most openWithin.
func turnAway(s *inStream, reason wire.DirectFrame_Reason) error {
	refusal := wire.Direct{Type: wire.DirectFrame_REFUSE, Reason: reason}
	s.SetDeadline(walltime.In(openWithin))
	if _, err := s.Write(refusal.AppendFrame(nil)); err != nil {
		return err
	}
	s.CloseWrite()
	io.Copy(io.Discard, io.LimitReader(s, windowBytes))
	return fmt.Errorf("stream turned away: %v", reason)
}

// nextDirect reads a frame, and marks as a violation what no correct peer sends.
func nextDirect(r *wire.DirectReader, f *wire.Direct) error {
	err := r.Next(f)
	var size *wire.SizeError
	if errors.As(err, &size) || errors.Is(err, wire.ErrDirect) || errors.Is(err, wire.ErrLength) {
		return fmt.Errorf("%w: %w", errViolation, err)
	}
	return err
}

// takeMessages answers all frames that have come before it waits for more. So a burst costs one
// acknowledgement, and a single message is answered at once.
func (m *Mesh) takeMessages(s *inStream, r *wire.DirectReader, from *sender) error {
	var (
		f      wire.Direct
		last   uint64 // highest sequence on this stream
		unsaid bool   // something was taken that is not yet acknowledged
		out    []byte
		who    identity.Session
		heard  *identity.Statement // the statement under which the sender has written before
		stale  = true              // who may have changed
	)
	for {
		if !r.Ready() || len(out) > writeBatch {
			if unsaid {
				ack := wire.Direct{Type: wire.DirectFrame_ACK, Sequence: last}
				out = ack.AppendFrame(out)
				unsaid = false
			}
			if len(out) > 0 {
				if _, err := s.Write(out); err != nil {
					return err
				}
				out = out[:0]
			}
			stale = true
		}
		if err := nextDirect(r, &f); err != nil {
			return err
		}
		if f.Type != wire.DirectFrame_MESSAGE || f.Sequence <= last {
			return fmt.Errorf("%w: %v %d after %d", errViolation, f.Type, f.Sequence, last)
		}
		what, reason := from.seen.look(f.Sequence)
		switch what {
		case tooOld:
			return fmt.Errorf("%w: sequence %d after %d", errViolation, f.Sequence, from.seen.highest)
		case repeated:
			m.stats.directRepeated.Add(1)
		case unseen:
			if stale {
				var err error
				if who, err = m.who.Peer(m.ctx, s.peer); err != nil {
					return fmt.Errorf("hello: %w", err)
				}
				stale = false
			}
			switch from.rate.rules(m.clock.Now(), f.SentMS, len(f.Payload)) {
			case rates.Within:
				reason = m.takeDirect(who, &f, who.Statement != heard)
			case rates.Over:
				reason = RateExceeded
			case rates.Ignores:
				return fmt.Errorf("%w: it ignores the rate", errViolation)
			}
			if reason == 0 {
				heard = who.Statement
			}
			from.seen.record(f.Sequence, reason)
			if reason == 0 {
				m.stats.directTaken.Add(1)
			} else {
				m.stats.directTurned.Add(1)
			}
		}
		last = f.Sequence
		if reason == 0 {
			unsaid = true
			continue
		}
		refusal := wire.Direct{Type: wire.DirectFrame_REFUSE, Sequence: f.Sequence, Reason: wire.DirectFrame_Reason(reason)}
		out = refusal.AppendFrame(out)
	}
}

// takeDirect judges one message and hands it to its receiver; 0 means that it was taken. A sender's
// first message is noted before the program gets it and can answer, so that an answer pins the
// name.
func (m *Mesh) takeDirect(who identity.Session, f *wire.Direct, first bool) Reason {
	kind, ok := kindFromWire(f.Kind)
	switch {
	case !ok, len(f.Payload) == 0, kind == Text && !utf8.Valid(f.Payload), len(f.Room) != 0 && len(f.Room) != 32:
		return Malformed
	case len(f.Payload) > m.cfg.maxMessage:
		return TooLong
	case who.Statement == nil:
		return NoIdentity
	}
	self, now := m.who.Self(), m.clock.Now()
	outside := len(f.Room) == 0
	switch {
	case outside && (self == nil || !self.LoggedInAt(now)):
		return NotLoggedIn
	case self == nil:
		return NotMember
	case string(f.To) != self.User:
		return WrongUser
	case outside && !who.Statement.LoggedInAt(now):
		return NotLoggedIn
	}
	msg := &DirectMessage{
		Header: Header{Type: TypeDirectMessage},
		From:   who.Statement.Login(),
		Kind:   kind,
		Data:   bytes.Clone(f.Payload),
		Sent:   time.UnixMilli(f.SentMS),
	}
	size := len(msg.Data)
	first = first && m.cfg.authority == nil
	if outside {
		if first {
			m.cfg.pins.Heard(msg.From)
		}
		if !m.cfg.inbox(msg, size) {
			return QueueFull
		}
		return 0
	}
	room := m.roomByTag([32]byte(f.Room))
	if room == nil {
		return NotMember
	}
	return Reason(room.takeDirect(msg.From, msg, size, first))
}
